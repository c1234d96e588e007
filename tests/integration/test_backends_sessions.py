"""A container for each session, by each backend that has this mode."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from containerssh.core.errors import BackendError, Rejected
from containerssh.core.files import SFTPRules
from containerssh.core.requests import PtyRequest, WindowSize, X11Request
from tests.support.agent import MemoryChannel, read_all
from tests.support.container_backends import Lack, Place, User, logged_in
from tests.support.container_places import wherever_there_is
from tests.support.docker import Channel, a_login
from tests.support.forwarded import Client, Desktop
from tests.support.waiting import until

pytestmark = [pytest.mark.asyncio(loop_scope="module"), wherever_there_is(Lack.SESSIONS)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def user(place: Place) -> AsyncIterator[User]:
    meta = a_login(environment={"GREETING": "good day"}, files={"/tmp/note": "from the webhook"})
    async with logged_in(place, meta, mode="session") as made:
        yield made


async def test_each_session_has_a_container_of_its_own_with_what_webhooks_gave(user: User) -> None:
    assert user.place.left(user.meta) == []
    command = "mkdir /tmp/mine && hostname; echo $GREETING; cat /tmp/note; exit 3"
    one, two = await asyncio.gather(*(user.run(command) for _ in range(2)))
    assert (one.end, two.end) == (3, 3)
    assert one.out.splitlines()[1:] == two.out.splitlines()[1:] == [b"good day", b"from the webhook"]
    assert user.place.left(user.meta) == []


async def test_a_session_that_is_left_takes_its_container_along_and_no_other(user: User) -> None:
    async with user.running("echo up; cat", b"up") as (_, channel):
        async with user.running("echo up; exec sleep 600", b"up"):
            both = len(user.place.left(user.meta))
        assert 0 < len(user.place.left(user.meta)) < both
        assert channel.out.data == b"up\n"


async def test_terminals_signals_and_the_servers_end_are_as_elsewhere(user: User) -> None:
    command = "trap 'echo got' USR1; trap 'exit 9' TERM; stty size; while :; do sleep 0.05; done"
    size = WindowSize(97, 31)
    async with user.running(command, b"31 97", pty=PtyRequest("xterm", size)) as (session, channel):
        await session.send_signal("USR1")
        await until(lambda: b"got" in channel.out.data)
        await user.handler.terminate()
        assert await channel.ended() == 9


async def test_files_are_served_there_too(user: User) -> None:
    channel = MemoryChannel()
    async with user.handler.session(channel) as session:
        await session.run_sftp(SFTPRules(server="builtin"))
        channel.send(b"\0\0\0\5\1\0\0\0\3")
        await until(lambda: channel.out.data[4:9] == b"\2\0\0\0\3")
        channel.send(b"")
        assert await channel.over() == 0


async def test_a_program_that_cannot_be_started_costs_its_session_alone(user: User) -> None:
    async with user.handler.session(Channel()) as session:
        with pytest.raises(BackendError) as refused:
            await session.run_command("/no/such/program")
    assert refused.value.user_message == "/no/such/program: no such file or directory"
    assert (await user.run("echo next")).out == b"next\n"


async def test_each_session_has_the_clients_ssh_agent_and_display_in_its_container(user: User) -> None:
    channel = Desktop()
    async with user.handler.session(channel) as session:
        await session.request_agent()
        await session.request_x11(X11Request(False, "MIT-MAGIC-COOKIE-1", "00ff", 0))
        await session.run_command('[ -S "$SSH_AUTH_SOCK" ]; echo hello | nc localhost 6010; echo $? $DISPLAY')
        stream, _ = await channel.client.next()
        assert await read_all(stream) == b"hello\n"
        await stream.close()
        assert await channel.ended() == 0
    assert channel.out.data == b"0 localhost:10.0\n"


async def test_ports_and_sockets_are_refused_as_there_is_no_one_container_for_them(user: User) -> None:
    client = Client()
    for asked in (
        user.handler.connect_tcp("127.0.0.1", 80),
        user.handler.connect_unix("/tmp/socket"),
        user.handler.listen_tcp("localhost", 0, client.open),
        user.handler.listen_unix("/tmp/socket", client.open),
    ):
        with pytest.raises(Rejected, match=r"^(port|socket) forwarding needs one container for the whole connection"):
            await asked
