"""Forwarding through the agent that an image brings: its protocol to a stand-in for it."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from contextlib import suppress
from pathlib import Path

import pytest

from containerssh.core.errors import BackendError, Rejected
from containerssh.core.forwarding import ANY_ADDRESS, AddressRules
from containerssh.core.requests import Origin
from tests.support.forwarding import digest, echo, listening, refused, talk, unused_port
from tests.support.upstream_agent import LocalHelpers
from tests.support.upstream_forwards import HASTY, Client, exchange, forwards, whole
from tests.support.waiting import until

# -- to the container --------------------------------------------------------------------------------------


async def test_connections_are_made_by_one_helper() -> None:
    helpers = LocalHelpers()
    async with listening(echo) as port, forwards(helpers) as made:
        for host in ("127.0.0.1", "localhost"):
            stream = await made.connect_tcp(host, port, ANY_ADDRESS)
            data = bytes(range(256)) * 400
            assert await exchange(stream, data) == data
            await stream.close()
            await stream.close()
    assert [tuple(program.argv) for program in helpers.programs] == [("/agent", "forward-server")]


async def test_a_socket_is_reached(tmp_path: Path) -> None:
    async with listening(echo, tmp_path / "s"), forwards(LocalHelpers()) as made:
        assert await exchange(await made.connect_unix(str(tmp_path / "s")), b"data") == b"data"


async def test_fifty_connections_work_at_once() -> None:
    async with listening(echo) as port, forwards(LocalHelpers()) as made:

        async def one(number: int) -> None:
            stream = await made.connect_tcp("127.0.0.1", port, ANY_ADDRESS)
            data = number.to_bytes(2, "big") * 5000
            assert await exchange(stream, data) == data
            await stream.close()

        await asyncio.gather(*(one(number) for number in range(50)))


async def test_a_port_where_nobody_listens_is_refused_and_the_next_one_works() -> None:
    async with listening(echo) as port, forwards(LocalHelpers()) as made:
        with pytest.raises(BackendError, match="failed in the container"):
            await made.connect_tcp("127.0.0.1", unused_port(), ANY_ADDRESS)
        with pytest.raises(BackendError, match="failed in the container"):
            await made.connect_unix("/no/such/socket")
        assert await exchange(await made.connect_tcp("127.0.0.1", port, ANY_ADDRESS), b"data") == b"data"


async def test_an_answer_that_follows_the_end_of_the_clients_input_arrives() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        # Longer than a silence altogether, and never silent for as long.
        for _ in range(6):
            await asyncio.sleep(0.1)
            writer.write(b"x" * 50_000)
            await writer.drain()

    async with listening(answer) as port, forwards(LocalHelpers(), HASTY) as made:
        stream = await made.connect_tcp("127.0.0.1", port, ANY_ADDRESS)
        await stream.write(b"question\n")
        await stream.write_eof()
        assert len(await whole(stream)) == 300_000
        assert stream.left is not None
        assert stream.left.is_set()


async def test_a_program_that_waits_for_the_end_of_its_input_sees_the_connection_close_after_a_silence() -> None:
    ended = asyncio.Event()

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.read() == b"all of it"
        ended.set()

    async with listening(wait) as port, forwards(LocalHelpers(), HASTY) as made:
        stream = await made.connect_tcp("127.0.0.1", port, ANY_ADDRESS)
        await stream.write(b"all of it")
        await stream.write_eof()
        assert await whole(stream) == b""
        await ended.wait()


async def test_a_reader_who_is_slow_holds_back_what_comes() -> None:
    sent = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        for _ in range(500):
            writer.write(bytes(65536))
            await writer.drain()
            sent += 65536

    async with listening(flood) as port, forwards(LocalHelpers()) as made:
        stream = await made.connect_tcp("127.0.0.1", port, ANY_ADDRESS)
        await until(lambda: sent > 0)
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.3)
        assert sent < 16 * 1024 * 1024
        assert len(await whole(stream)) == 500 * 65536


async def test_a_dial_that_hangs_costs_its_own_request_only() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        full_port = int(full.getsockname()[1])
        waiting = [socket.socket() for _ in range(3)]
        for one in waiting:
            one.setblocking(False)
            with suppress(BlockingIOError):
                one.connect(("127.0.0.1", full_port))
        helpers = LocalHelpers()
        async with listening(echo) as port, forwards(helpers, HASTY) as made:
            first = await made.connect_tcp("127.0.0.1", port, ANY_ADDRESS)
            hanging = asyncio.create_task(made.connect_tcp("127.0.0.1", full_port, ANY_ADDRESS))
            await asyncio.sleep(0)
            second = await made.connect_tcp("127.0.0.1", port, ANY_ADDRESS)
            assert await exchange(first, b"one") == b"one"
            assert await exchange(second, b"two") == b"two"
            with pytest.raises(BackendError, match="did not answer in time"):
                await hanging
        assert len(helpers.started) == 2
        for one in waiting:
            one.close()


async def test_requests_that_are_given_up_leave_no_connection() -> None:
    here: set[asyncio.StreamWriter] = set()
    empty = asyncio.Event()

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        here.add(writer)
        empty.clear()
        await reader.read()
        here.discard(writer)
        if not here:
            empty.set()

    async with listening(wait) as port, forwards(LocalHelpers()) as made:
        for turns in range(30):
            request = asyncio.create_task(made.connect_tcp("127.0.0.1", port, ANY_ADDRESS))
            for _ in range(turns):
                await asyncio.sleep(0)
            request.cancel()
            with suppress(asyncio.CancelledError):
                await (await request).close()
        await (await made.connect_tcp("127.0.0.1", port, ANY_ADDRESS)).close()
        await empty.wait()


LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)


async def test_addresses_are_judged_and_names_are_refused_where_that_matters() -> None:
    async with listening(echo) as port, forwards(LocalHelpers()) as made:
        for rules in (AddressRules(denied=LOOPBACK), AddressRules(allowed=())):
            for host in ("127.0.0.1", "localhost"):
                with pytest.raises(Rejected):
                    await made.connect_tcp(host, port, AddressRules((*LOOPBACK,), LOOPBACK))
            with pytest.raises(Rejected, match="cannot be judged"):
                await made.connect_tcp("name.test", port, rules)
        stream = await made.connect_tcp("localhost", port, AddressRules(allowed=LOOPBACK))
        assert await exchange(stream, b"data") == b"data"


@pytest.mark.parametrize("host", ["", "a b", "[::1]", "a:1", "x" * 300, "a\0", "a\nb", "\udcff", "fe80::1%\n"])
async def test_what_is_no_host_is_not_asked_for(host: str) -> None:
    helpers = LocalHelpers()
    async with forwards(helpers) as made:
        with pytest.raises(BackendError, match="requested host is not valid"):
            await made.connect_tcp(host, 80, ANY_ADDRESS)
        for path in ("", "@abstract", "/a\0b", "/" + "x" * 200, "/\udcff"):
            with pytest.raises(BackendError, match="not a valid socket path"):
                await made.connect_unix(path)
    assert not helpers.started


# -- from the container ------------------------------------------------------------------------------------


async def test_a_listener_brings_connections_to_the_client() -> None:
    async with listening(digest) as outside, forwards(LocalHelpers()) as made:
        client = Client(outside)
        port = unused_port()
        listener = await made.listen_tcp("localhost", port, client)
        assert listener.port == port
        async with listening(echo) as echoing:
            client.port = echoing
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"data")
            assert await reader.readexactly(4) == b"data"
            await listener.close()
            assert await refused(port)
            writer.write(b"more")
            assert await reader.readexactly(4) == b"more"
            writer.close()
    assert client.origins[0].host == "127.0.0.1"
    assert client.origins[0].port > 0


async def test_port_zero_becomes_a_port_that_is_told() -> None:
    async with listening(echo) as outside, forwards(LocalHelpers()) as made:
        listener = await made.listen_tcp("127.0.0.1", 0, Client(outside))
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(b"data")
        assert await reader.readexactly(4) == b"data"
        writer.close()


async def test_a_port_that_is_taken_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    async with listening(echo) as taken, forwards(LocalHelpers()) as made:
        with caplog.at_level(logging.DEBUG), pytest.raises(BackendError, match="address already in use") as failed:
            await made.listen_tcp("127.0.0.1", taken, Client())
    assert failed.value.user_message == "Listening failed in the container."


async def test_a_socket_in_the_container_is_listened_on(tmp_path: Path) -> None:
    client = Client()
    async with listening(echo) as outside, forwards(LocalHelpers()) as made:
        client.port = outside
        await made.listen_unix(str(tmp_path / "s"), client)
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
        writer.write(b"data")
        assert await reader.readexactly(4) == b"data"
        writer.close()
    assert client.origins == [Origin()]


async def test_a_connection_that_the_client_refuses_is_closed_and_the_next_one_works() -> None:
    async with listening(echo) as outside, forwards(LocalHelpers()) as made:
        client = Client(outside, refuses=True)
        listener = await made.listen_tcp("127.0.0.1", unused_port(), client)
        assert await talk(listener.port, b"") == b""
        client.refuses = False
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(b"data")
        assert await reader.readexactly(4) == b"data"
        writer.close()
