"""Ports, sockets, the client's ssh-agent and its display, forwarded into a container of each backend."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from containerssh.backends.host_addresses import host_addresses
from containerssh.core.errors import BackendError, Rejected
from containerssh.core.requests import Origin, X11Request
from tests.support.agent import read_all, read_until
from tests.support.container_backends import User
from tests.support.forwarded import Client, Desktop, exchange
from tests.support.forwarding import echo, listening
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

MUCH = os.urandom(1 << 20) * 4
COOKIE = "00112233445566778899aabbccddeeff"


@asynccontextmanager
async def serving(user: User, port: int, program: str) -> AsyncIterator[None]:
    """In the container, *program* answers on a port."""
    listens = f"until netstat -ltn | grep -q ':{port} '; do sleep 0.02; done"
    async with user.running(f"nc -ll -p {port} -e {program} & {listens}; echo up; wait", b"up"):
        yield


async def test_a_port_of_the_container_carries_megabytes_both_ways(user: User) -> None:
    async with serving(user, 4000, "cat"):
        for host in ("127.0.0.1", "localhost"):
            assert await exchange(await user.handler.connect_tcp(host, 4000), MUCH) == MUCH


async def test_the_end_of_what_is_sent_to_a_port_is_told_while_the_answer_waits(user: User) -> None:
    async with serving(user, 4001, "sha256sum"):
        answer = await exchange(await user.handler.connect_tcp("127.0.0.1", 4001), MUCH)
    assert answer.split()[0].decode() == hashlib.sha256(MUCH).hexdigest()


async def test_twenty_connections_are_open_at_once(user: User) -> None:
    async with serving(user, 4002, "cat"):
        streams = []
        for _ in range(20):
            # Busybox forgets some of those that come at the same moment.
            streams.append(await user.handler.connect_tcp("127.0.0.1", 4002))
            await streams[-1].write(b"there?")
            assert await read_until(streams[-1], b"there?") == b"there?"
        found = await asyncio.gather(*(exchange(stream, b"%d" % n) for n, stream in enumerate(streams)))
    assert found == [b"%d" % n for n in range(20)]


async def test_the_servers_own_host_is_reached_at_none_of_its_addresses(user: User) -> None:
    async with listening(echo, host=None) as port:
        for address in await host_addresses():
            with pytest.raises(Rejected, match="the address is not allowed"):
                await user.handler.connect_tcp(str(address), port)


async def test_where_nobody_listens_in_the_container_the_reason_is_told(user: User) -> None:
    async def nobody(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    # Outside, somebody does.
    outside = await asyncio.start_server(nobody, "127.0.0.1", 0)
    try:
        port = outside.sockets[0].getsockname()[1]
        with pytest.raises(BackendError, match="connection refused"):
            await user.handler.connect_tcp("127.0.0.1", port)
        with pytest.raises(BackendError, match="no such file"):
            await user.handler.connect_unix("/no/such/socket")
    finally:
        outside.close()


async def test_a_port_in_the_container_leads_to_the_client(user: User) -> None:
    client = Client()
    listener = await user.handler.listen_tcp("localhost", 0, client.open)
    running = asyncio.create_task(user.run(f"seq 1 100000 | nc 127.0.0.1 {listener.port}"))
    stream, origin = await client.next()
    assert isinstance(origin, Origin)
    assert origin.host == "127.0.0.1"
    assert len(await read_all(stream)) == 588_895, "all of it, and its end"
    await stream.write(b"answer\n")
    await stream.write_eof()
    done = await running
    assert (done.out, done.end) == (b"answer\n", 0)
    await stream.close()
    with pytest.raises(BackendError, match="address already in use"):
        await user.handler.listen_tcp("localhost", listener.port, client.open)
    await listener.close()
    assert (await user.run(f"nc 127.0.0.1 {listener.port}")).end == 1


async def test_sockets_of_the_container_lead_both_ways(user: User) -> None:
    client, path = Client(), "/tmp/forwarded"
    listener = await user.handler.listen_unix(path, client.open)
    assert (await user.run(f"stat -c '%F %a' {path}")).out == b"socket 600\n"
    asking = asyncio.create_task(exchange(await user.handler.connect_unix(path), MUCH))
    stream, _ = await client.next()
    assert await read_all(stream) == MUCH
    await stream.write(b"answer")
    await stream.write_eof()
    assert await asking == b"answer"
    await stream.close()
    await listener.close()
    assert (await user.run(f"[ -e {path} ]")).end == 1


async def test_programs_find_the_clients_ssh_agent(user: User) -> None:
    channel = Desktop()
    async with user.handler.session(channel) as session:
        await session.request_agent()
        await session.run_command('echo "$SSH_AUTH_SOCK"; stat -c %a "$SSH_AUTH_SOCK"; sleep 600')
        await until(lambda: channel.out.data.endswith(b"600\n"))
        path = channel.out.data.splitlines()[0].decode()
        # Busybox has nothing that could ask an ssh-agent by itself.
        asking = asyncio.create_task(exchange(await user.handler.connect_unix(path), b"\0\0\0\1\x0b"))
        stream, _ = await channel.client.next()
        assert await read_all(stream) == b"\0\0\0\1\x0b"
        await stream.write(b"keys")
        await stream.close()
        assert await asking == b"keys"


async def test_programs_show_their_windows_on_the_clients_display(user: User) -> None:
    channel = Desktop()
    window = "number=${DISPLAY##*:}; tail -c 16 $XAUTHORITY | nc localhost $((6000 + ${number%.*})); echo $number"
    async with user.handler.session(channel) as session:
        await session.request_x11(X11Request(False, "MIT-MAGIC-COOKIE-1", COOKIE, 2))
        await session.run_command(window)
        stream, origin = await channel.client.next()
        assert isinstance(origin, Origin)
        assert await read_all(stream) == bytes.fromhex(COOKIE)
        await stream.write(b"shown ")
        await stream.close()
        assert await channel.ended() == 0
    said, number = channel.out.data.split()
    assert said == b"shown"
    assert number.endswith(b".2")
    assert (await user.run('echo "<$DISPLAY$SSH_AUTH_SOCK>"')).out == b"<>\n", "who did not ask has neither"
