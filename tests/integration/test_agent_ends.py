"""What programs of the real agent leave behind, and what ends with whom: by both transports."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from containerssh.agent.link import Program
from containerssh.core.errors import BackendError
from containerssh.core.requests import ExitSignal
from tests.support.agent import (
    LIMIT,
    agent_link,
    alive,
    linked_process,
    read_until,
    shell,
    until,
)

transports = pytest.mark.parametrize("transport", ["socket", "framed"])


@transports
async def test_output_is_complete_before_the_status_even_if_others_hold_the_pipe(transport: str) -> None:
    async with agent_link(transport) as link:
        process = await link.start(Program(["sh", "-c", "sleep 30 & head -c 60000 /dev/zero; exit 2"]))
        async with asyncio.timeout(LIMIT):
            assert await process.wait() == 2
        received = 0
        async with asyncio.timeout(0.5):
            while received < 60000:
                received += len(await process.stdout.read())
        await process.kill()


@transports
async def test_kill_ends_a_running_program_with_all_its_children(transport: str, tmp_path: Path) -> None:
    async with agent_link(transport) as link:
        script = (
            "trap '' HUP TERM; echo $$; setsid sh -c 'trap \"\" HUP; echo $$; sleep 60; sleep 60' & "
            "sh -c 'trap \"\" HUP; echo $$; sleep 60; sleep 60' & wait"
        )
        process = await link.start(Program(["sh", "-c", script]))
        text = b""
        while text.count(b"\n") < 3:
            text += await process.stdout.read()
        pids = [int(word) for word in text.split()]
        assert all(alive(pid) for pid in pids)
        await process.kill()
        assert await process.wait() == ExitSignal("KILL")
        await until(lambda: not any(alive(pid) for pid in pids), "all have ended")


@transports
async def test_what_a_program_leaves_in_the_background_lives_until_the_link_ends(transport: str) -> None:
    async with agent_link(transport) as link:
        script = "setsid sh -c 'sh -c \"trap : HUP; echo \\$\\$; exec sleep 300\" &' & wait"
        process = await link.start(Program(["sh", "-c", script]))
        pid = int(await read_until(process.stdout, b"\n"))
        assert await process.wait() == 0
        await process.kill()
        assert await shell(link, "true") == (b"", 0)
        assert alive(pid)
    await until(lambda: not alive(pid), "the background program has ended")


@transports
async def test_orphans_are_reaped(transport: str) -> None:
    async with linked_process(transport) as (link, agent):
        await shell(link, "for i in 1 2 3 4 5; do (sh -c 'sleep 0.05' &) ; done")
        await until(lambda: not _children(agent.pid), "the agent has no child left, dead or alive")


@transports
async def test_when_the_gateway_vanishes_the_agent_ends_everything_and_itself(transport: str) -> None:
    async with linked_process(transport) as (link, agent):
        process = await link.start(Program(["sh", "-c", "echo $$; exec sleep 300"]))
        pid = int(await read_until(process.stdout, b"\n"))
        await link.close()
        await link.close()
        with pytest.raises(BackendError):
            await process.wait()
        with pytest.raises(ConnectionError):
            await process.stdout.read()
        with pytest.raises(ConnectionError):
            await process.stdin.write(b"x")
        with pytest.raises(BackendError):
            await link.start(Program(["true"]))
        await process.kill()
        if transport == "framed":
            assert agent.stdin is not None
            agent.stdin.close()
        await asyncio.wait_for(agent.wait(), LIMIT)
        assert not alive(pid)


@transports
async def test_when_the_agent_is_killed_nothing_pretends_to_have_succeeded(transport: str) -> None:
    async with linked_process(transport) as (link, agent):
        process = await link.start(Program(["sh", "-c", "echo $$; exec sleep 300"]))
        pid = int(await read_until(process.stdout, b"\n"))
        agent.kill()
        async with asyncio.timeout(LIMIT):
            await link.wait_closed()
            with pytest.raises(BackendError):
                await process.wait()
        # Nobody is left inside who could; in a container the first process takes all others along.
        os.kill(pid, 9)


@transports
async def test_a_cancelled_start_leaves_no_program_behind(transport: str, tmp_path: Path) -> None:
    async with agent_link(transport) as link:
        for delay in (0, 0, 0.001, 0.002, 0.004):
            starting = asyncio.create_task(link.start(Program(["sleep", "301.5"])))
            await asyncio.sleep(delay)
            starting.cancel()
            done = await asyncio.gather(starting, return_exceptions=True)
            if not isinstance(done[0], BaseException):
                await done[0].kill()
        assert await shell(link, "exit 1") == (b"", 1)
        await until(lambda: not _running(b"301.5"), "no sleep runs")


def _children(pid: int) -> list[str]:
    return [word for task in Path(f"/proc/{pid}/task").iterdir() for word in (task / "children").read_text().split()]


def _running(argument: bytes) -> bool:
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if argument in entry.read_bytes().split(b"\0"):
                return True
        except (FileNotFoundError, ProcessLookupError):
            continue
    return False
