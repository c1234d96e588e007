"""Terminals and signals of programs, in a container of each backend."""

from __future__ import annotations

import struct

import pytest

from containerssh.core.errors import BackendError, Rejected
from containerssh.core.requests import ExitSignal, PtyRequest, WindowSize
from tests.support.container_backends import User
from tests.support.docker import Channel
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

TERMINAL = PtyRequest("vt220", WindowSize(97, 31))
LOOP = "while :; do sleep 0.05; done"


async def test_a_terminal_has_its_type_and_size_from_the_start(user: User) -> None:
    script = "stty size; echo $TERM; [ -t 0 ] && [ -t 1 ] && [ -t 2 ] && : </dev/tty && echo controlling"
    done = await user.run(script, pty=TERMINAL)
    assert (done.out, done.err, done.end) == (b"31 97\r\nvt220\r\ncontrolling\r\n", b"", 0)


async def test_a_terminal_is_resized_and_the_program_is_told(user: User) -> None:
    command = f"trap 'stty size; exit' WINCH; echo up; {LOOP}"
    async with user.running(command, b"up", pty=TERMINAL) as (session, channel):
        await session.resize(WindowSize(132, 43))
        assert await channel.ended() == 0
    assert channel.out.data.endswith(b"43 132\r\n")


async def test_the_last_size_before_the_start_holds(user: User) -> None:
    channel = Channel()
    async with user.handler.session(channel) as session:
        await session.request_pty(TERMINAL)
        await session.resize(WindowSize(98, 32))
        await session.run_command("stty size")
        assert await channel.ended() == 0
    assert channel.out.data == b"32 98\r\n"


async def test_terminal_modes_are_applied(user: User) -> None:
    no_echo = PtyRequest("xterm", WindowSize(80, 24), struct.pack(">BIBIB", 53, 0, 1, 2, 0))
    shown = (await user.run("stty -a", pty=no_echo)).out
    assert b"-echo " in shown
    assert b"intr = ^B" in shown


async def test_the_end_of_input_on_a_terminal_is_typed(user: User) -> None:
    done = await user.run("cat; echo over; stty size", b"half a line", pty=TERMINAL)
    assert done.end == 0
    assert done.out.endswith(b"over\r\n31 97\r\n")


async def test_a_key_interrupts_the_program_in_front(user: User) -> None:
    channel = Channel(b"\x03", ends=False)
    async with user.handler.session(channel) as session:
        await session.request_pty(TERMINAL)
        await session.run_command("trap 'echo interrupted; exit 9' INT; " + LOOP)
        assert await channel.ended() in (9, ExitSignal("INT")), "it may be typed before the trap is there"


async def test_a_break_interrupts_where_the_terminal_says_so(user: User) -> None:
    command = f"stty -ignbrk brkint; trap 'echo interrupted; exit 8' INT; echo up; {LOOP}"
    async with user.running(command, b"up", pty=TERMINAL) as (session, channel):
        await session.send_break(500)
        assert await channel.ended() == 8
    assert b"interrupted" in channel.out.data


@pytest.mark.parametrize("pty", [None, TERMINAL], ids=["pipes", "terminal"])
async def test_a_signal_reaches_the_program(user: User, pty: PtyRequest | None) -> None:
    async with user.running(f"trap 'echo got; exit 3' USR1; echo up; {LOOP}", b"up", pty=pty) as (session, channel):
        await session.send_signal("USR1")
        assert await channel.ended() == 3
    # On a terminal, the shell names the signal first: its sleep has died of it.
    assert channel.out.data.split()[-1] == b"got"


async def test_a_signal_reaches_the_programs_children_too(user: User) -> None:
    command = f"trap 'echo parent' TERM; (trap 'echo child; exit' TERM; echo up; {LOOP}) & wait; wait"
    async with user.running(command, b"up") as (session, channel):
        await session.send_signal("TERM")
        await until(lambda: {b"parent", b"child"} <= {*channel.out.data.split()})


async def test_a_program_dies_of_the_signal_that_it_was_sent(user: User) -> None:
    async with user.running("echo up; exec sleep 600", b"up") as (session, channel):
        await session.send_signal("KILL")
        assert await channel.ended() == ExitSignal("KILL")


async def test_signals_that_there_are_not_and_programs_that_have_none_are_refused(user: User) -> None:
    async with user.running("echo up; exec sleep 600", b"up") as (session, _):
        with pytest.raises(Rejected, match="there is no signal"):
            await session.send_signal("NOSUCH")
        with pytest.raises(Rejected):
            await session.send_break(500)
    async with user.handler.session(Channel()) as session:
        with pytest.raises(BackendError, match="no program has been started"):
            await session.send_signal("TERM")


async def test_the_servers_end_asks_programs_to_end(user: User) -> None:
    async with user.running(f"trap 'exit 9' TERM; echo up; {LOOP}", b"up") as (session, channel):
        await session.terminate()
        assert await channel.ended() == 9
