"""Terminals of the real agent, started as a process of this machine, by both transports."""

from __future__ import annotations

import asyncio
import struct

import pytest

from containerssh.agent.link import Program
from containerssh.core.errors import BackendError, Rejected
from containerssh.core.requests import PtyRequest, WindowSize
from tests.support.agent import (
    agent_link,
    read_all,
    read_until,
    run_to_end,
)

transports = pytest.mark.parametrize("transport", ["socket", "framed"])

TERMINAL = PtyRequest("xterm", WindowSize(100, 50))
NO_ECHO = PtyRequest("xterm", WindowSize(80, 24), struct.pack(">BIB", 53, 0, 0))


@transports
async def test_a_terminal_has_its_size_and_type_from_the_start(transport: str) -> None:
    async with agent_link(transport) as link:
        script = "stty size; echo $TERM; [ -t 0 ] && [ -t 1 ] && [ -t 2 ] && : </dev/tty && echo controlling"
        process = await link.start(Program(["sh", "-c", script], {"TERM": "xterm"}, pty=TERMINAL))
        assert process.stderr is None
        assert await read_all(process.stdout) == b"50 100\r\nxterm\r\ncontrolling\r\n"
        assert await process.wait() == 0
        await process.kill()


@transports
async def test_a_terminal_is_resized_and_the_program_is_told(transport: str) -> None:
    async with agent_link(transport) as link:
        script = "trap 'stty size; exit' WINCH; echo up; while :; do sleep 0.05; done"
        process = await link.start(Program(["sh", "-c", script], pty=TERMINAL))
        await read_until(process.stdout, b"up")
        await process.resize(WindowSize(132, 43, 1000, 70_000))
        assert b"43 132" in await read_all(process.stdout)
        await process.kill()


@transports
async def test_a_program_without_a_terminal_cannot_be_resized_and_gets_no_break(transport: str) -> None:
    async with agent_link(transport) as link:
        process = await link.start(Program(["cat"]))
        with pytest.raises(BackendError):
            await process.resize(WindowSize(1, 1))
        with pytest.raises(Rejected):
            await process.send_break(500)
        await process.kill()


@pytest.mark.parametrize(
    ("opcode", "value", "shown"),
    [
        (1, 2, "intr = ^B"),
        (3, 8, "erase = ^H"),
        (5, 255, "eof = <undef>"),
        (18, 24, "discard = ^X"),
        (30, 1, " ignpar"),
        (36, 0, "-icrnl"),
        (38, 0, "-ixon"),
        (41, 1, " imaxbel"),
        (42, 1, " iutf8"),
        (50, 0, "-isig"),
        (51, 0, "-icanon"),
        (53, 0, "-echo "),
        (59, 0, "-iexten"),
        (60, 0, "-echoctl"),
        (70, 0, "-opost"),
        (72, 0, "-onlcr"),
        (91, 1, "cs8"),
        (93, 1, " parodd"),
        (129, 19200, "speed 19200 baud"),
    ],
)
async def test_terminal_modes_are_applied(opcode: int, value: int, shown: str) -> None:
    request = PtyRequest("vt100", WindowSize(500, 24), struct.pack(">BIB", opcode, value, 0))
    async with agent_link("socket") as link:
        process = await link.start(Program(["stty", "-a"], pty=request))
        output = await read_all(process.stdout)
        await process.kill()
    assert shown in output.decode()


async def test_terminal_modes_that_make_no_sense_do_no_harm() -> None:
    modes = struct.pack(">BIBIBI", 53, 0, 129, 77777, 11, 1) + b"\x00\x35\0\0\0\1\xc8"
    async with agent_link("socket") as link:
        process = await link.start(Program(["stty"], pty=PtyRequest("", WindowSize(0, 0), modes)))
        assert b"-echo" in await read_all(process.stdout)
        await process.kill()


@transports
async def test_the_end_of_input_ends_a_program_that_reads_lines_and_the_terminal_stays(transport: str) -> None:
    async with agent_link(transport) as link:
        script = "cat; echo after; stty size; exit 6"
        for typed, shown in (
            (b"line\n", b"line\r\nafter\r\n50 100\r\n"),
            (b"part", b"partafter\r\n50 100\r\n"),
            (b"", b"after\r\n50 100\r\n"),
        ):
            request = PtyRequest("xterm", TERMINAL.size, NO_ECHO.modes)
            assert await run_to_end(await link.start(Program(["sh", "-c", script], pty=request)), typed) == (shown, 6)


@transports
async def test_the_end_of_input_types_nothing_where_single_keys_are_read(transport: str) -> None:
    async with agent_link(transport) as link:
        script = "stty raw; echo up; dd bs=1 count=2 2>/dev/null | od -An -c; echo not reached"
        process = await link.start(Program(["sh", "-c", script], pty=NO_ECHO))
        await read_until(process.stdout, b"up")
        await process.stdin.write(b"k")
        await process.stdin.write_eof()
        await process.resize(WindowSize(90, 30))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(process.wait(), 0.3)
        await process.kill()


@transports
async def test_a_terminals_output_is_complete_and_ends_with_its_program(transport: str) -> None:
    async with agent_link(transport) as link:
        script = "stty -opost; head -c 3000000 /dev/zero | tr '\\0' x; setsid sleep 30 & sleep 0.3; echo end"
        process = await link.start(Program(["sh", "-c", script], pty=TERMINAL))
        output = await read_all(process.stdout)
        assert output == b"x" * 3_000_000 + b"end\n"
        assert await process.wait() == 0
        await process.kill()


@transports
async def test_a_break_interrupts_where_the_terminal_says_so(transport: str) -> None:
    async with agent_link(transport) as link:
        script = "stty -ignbrk brkint; trap 'echo interrupted; exit 8' INT; echo up; while :; do sleep 0.05; done"
        process = await link.start(Program(["sh", "-c", script], pty=TERMINAL))
        await read_until(process.stdout, b"up")
        await process.send_break(500)
        assert b"interrupted" in await read_all(process.stdout)
        assert await process.wait() == 8
        await process.kill()
