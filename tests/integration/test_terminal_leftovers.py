"""What a session leaves behind when it ends, by the real agent; and by a whole server with containers."""

from __future__ import annotations

import asyncio
import os

import pytest

from containerssh.agent.link import AgentLink, AgentProcess, Program
from containerssh.agent.process import Leftovers
from tests.support.agent import LIMIT, agent_link, alive, read_until, until

LEAVE = """
exec 3>&1 >/dev/null 2>&1 </dev/null
stay='echo "$0 $$" >&3; exec sleep 300 3>&-'
sh -c "$stay" plain &
nohup sh -c "$stay" nohup &
setsid sh -c "$stay" setsid &
(trap '' HUP TERM INT; exec sh -c "$stay" stubborn) &
# As daemons of old: a session of its own, an orphan, with nothing of its parent's environment.
env -i STAY="$stay" setsid sh -c 'sh -c "$STAY" daemon & exit 0'
"""
NAMES = {"plain", "nohup", "setsid", "stubborn", "daemon"}


async def leave(link: AgentLink, leftovers: Leftovers) -> tuple[AgentProcess, dict[str, int]]:
    """A program that has ended, and whom it has left behind."""
    process = await link.start(Program(["/bin/sh", "-c", LEAVE], leftovers=leftovers))
    text = b""
    async with asyncio.timeout(LIMIT):
        while text.count(b"\n") < len(NAMES):
            text += await process.stdout.read()
        assert await process.wait() == 0
    left = {name: int(pid) for name, pid in (line.split() for line in text.decode().splitlines())}
    return process, left


async def survivors(process: AgentProcess, link: AgentLink, left: dict[str, int], *expected: str) -> None:
    """End the session, and see that *expected* are what lives on."""
    assert {name for name, pid in left.items() if alive(pid)} == set(left)
    await process.kill()
    await until(lambda: {name for name, pid in left.items() if alive(pid)} <= set(expected), f"only {expected} live")
    # Whoever is to live has had the time to die by now: the agent answers in order, and signals at once.
    await link.start(Program(["/bin/true"]))
    assert {name for name, pid in left.items() if alive(pid)} == set(expected)


@pytest.mark.parametrize(
    ("leftovers", "expected"),
    [("hangUp", NAMES - {"plain"}), ("end", set[str]()), ("keep", NAMES)],
)
async def test_what_a_session_leaves_behind_lives_on_only_where_it_should(
    leftovers: Leftovers, expected: set[str]
) -> None:
    async with agent_link("socket") as link:
        process, left = await leave(link, leftovers)
        assert set(left) == NAMES
        await survivors(process, link, left, *expected)
    await until(lambda: not any(alive(pid) for pid in left.values()), "all have ended with the login")


async def test_a_session_takes_nothing_of_its_neighbours_with_it() -> None:
    async with agent_link("socket") as link:
        older, of_older = await leave(link, "end")
        running = await link.start(Program(["/bin/sh", "-c", "setsid sleep 300 & echo $! end; wait"], leftovers="end"))
        of_running = {"daemon": int((await read_until(running.stdout, b"end\n")).split()[0])}
        leaving, of_leaving = await leave(link, "end")
        younger, of_younger = await leave(link, "end")
        await survivors(leaving, link, of_leaving)
        for others in (of_older, of_running, of_younger):
            assert all(alive(pid) for pid in others.values())
        await survivors(older, link, of_older)
        await survivors(younger, link, of_younger)
        assert alive(of_running["daemon"])
        await running.kill()
        await until(lambda: not alive(of_running["daemon"]), "a running program is ended with all of its own")


async def test_what_has_just_been_forked_has_the_time_to_make_a_session_of_its_own() -> None:
    late = "(sleep 0.05; exec setsid sleep 300) </dev/null >/dev/null 2>&1 & echo $! late"
    async with agent_link("socket") as link:
        process = await link.start(Program(["/bin/sh", "-c", late]))
        pid = int((await read_until(process.stdout, b"late\n")).split()[0])
        assert await process.wait() == 0
        await process.kill()
        await until(lambda: not alive(pid) or os.getsid(pid) == pid, "it has left the session")
        assert alive(pid)
