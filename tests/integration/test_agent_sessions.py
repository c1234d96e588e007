"""Sessions of a container backend, over a real agent: the channel is in memory, so that each event can be held back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from containerssh.backends.container import ContainerConnection, Execution
from containerssh.backends.session_codes import SessionCodes
from containerssh.core.codes import DockerCode
from containerssh.core.errors import BackendError, Rejected
from containerssh.core.handlers import SessionHandler
from containerssh.core.requests import ExitSignal, PtyRequest, WindowSize
from tests.support.agent import (
    LIMIT,
    MemoryChannel,
    agent_link,
    alive,
    fake_agent,
    linked_process,
    until,
)

EXECUTION = Execution(
    shell_command=("/bin/sh",),
    subsystems={"who": "/usr/bin/id", "broken": "/no/such/server"},
    command_start=timedelta(seconds=10),
    signal=timedelta(seconds=10),
    window=timedelta(seconds=10),
    environment={"FROM_LOGIN": "login", "BOTH": "login"},
    codes=SessionCodes(
        already_running=DockerCode.PROGRAM_ALREADY_RUNNING,
        not_running=DockerCode.PROGRAM_NOT_RUNNING,
        no_subsystem=DockerCode.SUBSYSTEM_NOT_SUPPORTED,
    ),
)


@asynccontextmanager
async def opened(transport: str = "socket") -> AsyncIterator[tuple[SessionHandler, MemoryChannel]]:
    channel = MemoryChannel()
    async with agent_link(transport) as link, ContainerConnection(link, EXECUTION).session(channel) as session:
        yield session, channel


async def test_a_command_reads_writes_and_ends() -> None:
    async with opened() as (session, channel):
        await session.run_command("cat; echo oops >&2; exit 7")
        channel.send(b"hello")
        channel.send(b"")
        assert await channel.over() == 7
    assert channel.out.data == b"hello"
    assert channel.err.data == b"oops\n"


@pytest.mark.parametrize("command", ["", "  \t\n"])
async def test_no_command_at_all_is_the_shell(command: str) -> None:
    async with opened() as (session, channel):
        await session.run_command(command)
        channel.send(b"echo from the shell\n")
        channel.send(b"")
        assert await channel.over() == 0
    assert channel.out.data == b"from the shell\n"


async def test_variables_reach_the_program_and_the_channels_own_win() -> None:
    async with opened() as (session, channel):
        await session.set_env("BOTH", "first")
        await session.set_env("BOTH", "channel")
        await session.run_command("echo $FROM_LOGIN $BOTH")
        assert await channel.over() == 0
    assert channel.out.data == b"login channel\n"


@pytest.mark.parametrize(("name", "value"), [("", "x"), ("A=B", "x"), ("A\0", "x"), ("A", "x\0y")])
async def test_a_variable_that_cannot_be_is_refused_and_the_session_goes_on(name: str, value: str) -> None:
    async with opened() as (session, channel):
        with pytest.raises(Rejected):
            await session.set_env(name, value)
        await session.run_command("exit 3")
        assert await channel.over() == 3


async def test_a_command_with_a_nul_is_refused_and_another_one_may_follow() -> None:
    async with opened() as (session, channel):
        with pytest.raises(BackendError):
            await session.run_command("echo a\0b")
        await session.run_command("exit 3")
        assert await channel.over() == 3


async def test_the_last_terminal_request_and_the_last_size_before_the_start_hold() -> None:
    async with opened() as (session, channel):
        await session.request_pty(PtyRequest("vt52", WindowSize(1, 1)))
        await session.request_pty(PtyRequest("xterm", WindowSize(80, 24)))
        await session.resize(WindowSize(132, 43))
        await session.run_command("stty size; echo $TERM")
        assert await channel.over() == 0
    assert channel.out.data == b"43 132\r\nxterm\r\n"


async def test_a_resize_reaches_the_running_program_and_is_nothing_without_a_terminal() -> None:
    async with opened() as (session, channel):
        await session.request_pty(PtyRequest("xterm", WindowSize(80, 24)))
        await session.run_command("trap 'stty size; exit' WINCH; echo up; while :; do sleep 0.05; done")
        await until(lambda: b"up" in channel.out.data, "the program is up")
        await session.resize(WindowSize(100, 30))
        await channel.over()
    assert b"30 100" in channel.out.data
    async with opened() as (session, channel):
        await session.run_command("cat")
        await session.resize(WindowSize(100, 30))
        channel.send(b"")
        assert await channel.over() == 0


async def test_what_comes_before_the_start_is_refused_after_it_and_the_other_way_round() -> None:
    async with opened() as (session, channel):
        for early in (session.send_signal("TERM"), session.send_break(0)):
            with pytest.raises(BackendError) as caught:
                await early
            assert caught.value.code == DockerCode.PROGRAM_NOT_RUNNING
        await session.run_command("cat")
        for late in (
            session.set_env("A", "b"),
            session.request_pty(PtyRequest("xterm", WindowSize(80, 24))),
            session.run_shell(),
            session.run_command("true"),
            session.run_subsystem("who"),
        ):
            with pytest.raises(BackendError) as caught:
                await late
            assert caught.value.code == DockerCode.PROGRAM_ALREADY_RUNNING
        channel.send(b"")
        assert await channel.over() == 0


async def test_a_program_that_cannot_be_started_is_refused_with_the_reason_and_another_may_follow() -> None:
    async with opened() as (session, channel):
        with pytest.raises(BackendError) as caught:
            await session.run_command("/no/such/program")
        assert caught.value.user_message == "/no/such/program: no such file or directory"
        await session.run_command("exit 3")
        assert await channel.over() == 3


async def test_subsystems_are_those_of_the_configuration() -> None:
    async with opened() as (session, channel):
        with pytest.raises(Rejected) as unknown:
            await session.run_subsystem("sftp")
        assert unknown.value.code == DockerCode.SUBSYSTEM_NOT_SUPPORTED
        with pytest.raises(BackendError, match="no such file"):
            await session.run_subsystem("broken")
        await session.run_subsystem("who")
        assert await channel.over() == 0
    assert channel.out.data.startswith(b"uid=")


async def test_signals_reach_the_program_and_unknown_ones_are_refused() -> None:
    async with opened() as (session, channel):
        await session.run_command("trap 'echo got; exit 7' USR1; echo up; while :; do sleep 0.05; done")
        await until(lambda: b"up" in channel.out.data, "the program is up")
        for name in ("NOSUCH", "STOP", "", "TERM\0"):
            with pytest.raises(Rejected):
                await session.send_signal(name)
        await session.send_signal("USR1")
        assert await channel.over() == 7
    assert channel.out.data == b"up\ngot\n"


@pytest.mark.parametrize(("name", "told"), [("TERM", "TERM"), ("SYS", "SYS@containerssh.io")])
async def test_death_by_a_signal_is_told_by_its_standard_name(name: str, told: str) -> None:
    async with opened() as (session, channel):
        await session.run_command(f"ulimit -c 0; kill -{name} $$")
        assert await channel.over() == ExitSignal(told)


async def test_a_break_needs_a_terminal() -> None:
    async with opened() as (session, _):
        await session.run_command("cat")
        with pytest.raises(Rejected):
            await session.send_break(500)


@pytest.mark.parametrize("transport", ["socket", "framed"])
async def test_a_slow_client_gets_all_of_the_output_and_then_the_status(transport: str) -> None:
    async with opened(transport) as (session, channel):
        channel.out.room.clear()
        await session.run_command("head -c 3000000 /dev/zero; exit 4")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(asyncio.create_task(channel.over())), 0.6)
        channel.out.room.set()
        assert await channel.over() == 4
    assert len(channel.out.data) == 3_000_000


async def test_a_silent_program_in_the_background_does_not_hold_the_session() -> None:
    async with opened() as (session, channel):
        await session.run_command("sleep 300 & echo $!; exit 5")
        async with asyncio.timeout(5):
            assert await channel.over() == 5
        pid = int(channel.out.data)
        assert alive(pid)
    await until(lambda: not alive(pid), "the login's end has ended it")


async def test_output_of_the_background_is_passed_on_as_long_as_it_flows() -> None:
    async with opened() as (session, channel):
        await session.run_command("(for i in 1 2 3 4 5 6; do sleep 0.1; echo $i; done) & exit 0")
        assert await channel.over() == 0
    assert channel.out.data == b"1\n2\n3\n4\n5\n6\n"


async def test_the_end_of_output_is_told_while_the_program_goes_on() -> None:
    async with opened() as (session, channel):
        await session.run_command("exec >&- 2>&-; cat >/dev/null; exit 6")
        await until(lambda: channel.out.ended and channel.err.ended, "both outputs have ended")
        assert channel.outcome is None
        channel.send(b"")
        assert await channel.over() == 6


async def test_a_client_that_goes_away_ends_its_program(tmp_path: Path) -> None:
    async with agent_link("socket") as link:
        connection = ContainerConnection(link, EXECUTION)
        channel = MemoryChannel()
        async with connection.session(channel) as session:
            await session.run_command("trap '' HUP TERM INT; echo $$; while :; do sleep 0.1; done")
            await until(lambda: b"\n" in channel.out.data, "the program is up")
        pid = int(channel.out.data)
        await until(lambda: not alive(pid), "the program has ended")
        assert channel.outcome is None
        other = MemoryChannel()
        async with connection.session(other) as session:
            await session.run_command("exit 2")
            assert await other.over() == 2


async def test_a_session_that_is_cancelled_while_its_client_is_slow_ends() -> None:
    async with asyncio.timeout(LIMIT), opened() as (session, channel):
        channel.out.room.clear()
        await session.run_command("cat /dev/zero")
        await asyncio.sleep(0.1)


@pytest.mark.parametrize("transport", ["socket", "framed"])
async def test_a_link_that_breaks_fails_the_session_and_never_tells_a_status(transport: str) -> None:
    channel = MemoryChannel()
    async with (
        linked_process(transport) as (link, agent),
        ContainerConnection(link, EXECUTION).session(channel) as session,
    ):
        await session.run_command("sleep 0.5; exit 0")
        agent.kill()
        assert isinstance(await channel.over(), BackendError)
        with pytest.raises(BackendError):
            await session.send_signal("TERM")


async def test_terminate_asks_every_program_to_end() -> None:
    async with agent_link("socket") as link:
        connection = ContainerConnection(link, EXECUTION)
        first, second, third = MemoryChannel(), MemoryChannel(), MemoryChannel()
        async with connection.session(first) as one, connection.session(second) as two, connection.session(third):
            await one.run_command("exec sleep 300")
            await two.run_command("trap 'exit 9' TERM; echo up; while :; do sleep 0.05; done")
            await until(lambda: b"up" in second.out.data, "the program is up")
            await connection.terminate()
            assert await first.over() == ExitSignal("TERM")
            assert await second.over() == 9


async def test_a_silent_agent_costs_a_request_its_time_limit_and_no_more() -> None:
    quick = timedelta(milliseconds=50)
    execution = Execution(("/bin/sh",), {}, command_start=quick, signal=quick, window=quick)
    async with fake_agent() as (enter, _):
        link = await enter()
        async with ContainerConnection(link, execution).session(MemoryChannel()) as session:
            with pytest.raises(BackendError, match="did not answer"):
                await session.run_shell()
            with pytest.raises(BackendError, match="did not answer"):
                await session.run_command("true")
