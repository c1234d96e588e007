"""Logins without any agent, where an engine or a cluster starts programs by itself: what works, and the words else."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
import pytest_asyncio

from containerssh.core.errors import BackendError, Rejected
from containerssh.core.files import SFTPRules
from containerssh.core.requests import PtyRequest, WindowSize, X11Request
from tests.support.container_backends import Lack, Mode, Place, User, logged_in
from tests.support.container_places import wherever_there_is
from tests.support.docker import Channel, a_login
from tests.support.forwarded import Client
from tests.support.waiting import until

pytestmark = [pytest.mark.asyncio(loop_scope="module"), wherever_there_is(Lack.NO_AGENT)]


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["connection", "session"])
async def user(place: Place, request: pytest.FixtureRequest) -> AsyncIterator[User]:
    mode: Mode = request.param
    meta = a_login(environment={"GREETING": "good day"}, files={"/new/note": "from the webhook", "/top": "x"})
    async with logged_in(place, meta, mode=mode, agent=False) as made:
        yield made


async def test_streams_environment_files_and_status_work(user: User) -> None:
    command = "cat; echo $GREETING; cat /new/note; stat -c ' %a' /new/note /new /top; echo oops >&2; exit 6"
    done = await user.run(command, b"in\n")
    assert (done.out, done.err, done.end) == (b"in\ngood day\nfrom the webhook 600\n 755\n 600\n", b"oops\n", 6)


async def test_megabytes_come_back_after_the_end_of_input(user: User) -> None:
    data = os.urandom(3_000_000)
    done = await user.run("cat >/tmp/all; cat /tmp/all", data)
    assert done.end == 0
    assert hashlib.sha256(done.out).digest() == hashlib.sha256(data).digest()


async def test_a_shell_reads_its_input(user: User) -> None:
    channel = Channel(b"echo one\nexit 4\n")
    async with user.handler.session(channel) as session:
        await session.run_shell()
        assert await channel.ended() == 4
    assert channel.out.data == b"one\n"


async def test_a_terminal_has_its_type_and_size_and_takes_a_new_one(user: User) -> None:
    command = "echo $TERM; while :; do stty size; sleep 0.1; done"
    async with user.running(command, b"31 97", pty=PtyRequest("vt220", WindowSize(97, 31))) as (session, channel):
        await session.resize(WindowSize(120, 50))
        await until(lambda: b"50 120\r\n" in channel.out.data)
    assert channel.err.data == b""


async def test_programs_run_at_once(user: User) -> None:
    done = await asyncio.gather(*(user.run(f"sleep 0.1; echo {number}; exit {number}") for number in range(5)))
    assert [(one.out, one.end) for one in done] == [(b"%d\n" % number, number) for number in range(5)]


async def test_a_program_that_is_not_there_is_told(user: User) -> None:
    """By the engine on standard error with a status like a shell's, or instead of the session."""
    channel, end = Channel(), None
    async with user.handler.session(channel) as session:
        with suppress(BackendError):
            await session.run_command("/no/such/program")
            end = await channel.ended()
    if isinstance(end, int):
        assert end in (126, 127)
        assert b"/no/such/program" in channel.err.data
        assert b"no such file" in channel.err.data
    assert (await user.run("echo next")).out == b"next\n"


async def test_ports_and_sockets_are_refused_in_words(user: User) -> None:
    client = Client()
    for what, asked in (
        ("port", user.handler.connect_tcp("127.0.0.1", 80)),
        ("socket", user.handler.connect_unix("/tmp/socket")),
        ("port", user.handler.listen_tcp("localhost", 0, client.open)),
        ("socket", user.handler.listen_unix("/tmp/socket", client.open)),
    ):
        with pytest.raises(Rejected, match=f"^{what} forwarding needs (the guest agent|one container)"):
            await asked


async def test_the_clients_ssh_agent_and_display_and_our_sftp_are_refused_in_words(user: User) -> None:
    async with user.handler.session(Channel()) as session:
        with pytest.raises(Rejected, match="forwarding of the ssh-agent needs the guest agent"):
            await session.request_agent()
        with pytest.raises(Rejected, match="X11 forwarding needs the guest agent"):
            await session.request_x11(X11Request(False, "MIT-MAGIC-COOKIE-1", "00", 0))
        with pytest.raises(BackendError, match="has no guest agent"):
            await session.run_sftp(SFTPRules(server="builtin"))


async def test_a_signal_reaches_the_main_program_of_a_container_or_is_refused_in_words(user: User) -> None:
    command = "trap 'echo got; exit 4' TERM; echo up; while :; do sleep 0.05; done"
    async with user.running(command, b"up") as (session, channel):
        with pytest.raises(Rejected, match="a break needs the guest agent"):
            await session.send_break(0)
        if user.place.signals_main_program and user.mode == "session":
            await session.send_signal("TERM")
            assert await channel.ended() == 4
        else:
            with pytest.raises(Rejected, match="signals need the guest agent"):
                await session.send_signal("TERM")
