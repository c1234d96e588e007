"""What clients that mean ill can do with forwards, and what they cannot."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncssh
import pytest
from asyncssh import constants
from asyncssh.packet import String, UInt32

from containerssh.core.codes import SSHCode
from containerssh.core.forwarding import ANY_ADDRESS, AddressRules
from containerssh.core.handlers import ConnectionHandler
from containerssh.core.layer import ConnectionLayer
from containerssh.core.streams import ByteStream
from containerssh.ssh.options import Limits
from tests.support.agent import until
from tests.support.clients import logged_in
from tests.support.forwarding import LIMIT, Forwarding, digest, echo, forwarding, listening, refused, talk, unused_port


def direct(host: str, port: int) -> bytes:
    return String(host) + UInt32(port) + String("127.0.0.1") + UInt32(1)


class Raw(asyncssh.SSHClientSession[bytes]):
    """A channel that is opened with any bytes."""


async def open_raw(client: Any, kind: bytes, fields: bytes, window: int = 1 << 20) -> Any:
    channel = asyncssh.channel.SSHTCPChannel(client, asyncio.get_running_loop(), None, "strict", window, 32768)
    await asyncio.wait_for(channel._open(kind, fields), LIMIT)
    return channel


@pytest.mark.parametrize(
    ("kind", "fields", "code"),
    [
        (b"direct-tcpip", b"", constants.OPEN_CONNECT_FAILED),
        (b"direct-tcpip", String("host"), constants.OPEN_CONNECT_FAILED),
        (b"direct-tcpip", direct("localhost", 0), constants.OPEN_CONNECT_FAILED),
        (b"direct-tcpip", direct("x\0y", 1), constants.OPEN_CONNECT_FAILED),
        (b"direct-tcpip", direct("localhost", 70000), constants.OPEN_CONNECT_FAILED),
        (b"direct-streamlocal@openssh.com", String(""), constants.OPEN_CONNECT_FAILED),
        (b"x11", direct("localhost", 1), constants.OPEN_UNKNOWN_CHANNEL_TYPE),
        (b"auth-agent@openssh.com", b"", constants.OPEN_UNKNOWN_CHANNEL_TYPE),
        (b"forwarded-tcpip", direct("localhost", 1), constants.OPEN_UNKNOWN_CHANNEL_TYPE),
    ],
)
async def test_what_cannot_be_opened_is_answered(kind: bytes, fields: bytes, code: int) -> None:
    async with forwarding() as server, logged_in(server) as client:
        with pytest.raises(asyncssh.ChannelOpenError) as caught:
            await open_raw(client, kind, fields)
        assert caught.value.code == code
        assert (await client.run("echo still here")).stdout == "still here\n"
    assert not server.front.log.errors


async def test_forwards_are_limited_and_take_no_session_away() -> None:
    async with (
        forwarding(limits=Limits(forwards=3, sessions=1)) as server,
        listening(echo) as there,
        logged_in(server) as client,
    ):
        streams = [await client.open_connection("127.0.0.1", there) for _ in range(3)]
        with pytest.raises(asyncssh.ChannelOpenError) as caught:
            await client.open_connection("127.0.0.1", there)
        assert caught.value.code == constants.OPEN_RESOURCE_SHORTAGE
        assert (await client.run("echo in")).stdout == "in\n"
        streams[0][1].close()
        await streams[0][1].wait_closed()
        _, writer = await client.open_connection("127.0.0.1", there)
        writer.close()
    assert SSHCode.LIMIT_FORWARDS in server.front.log


@dataclass(eq=False)
class Slow(ConnectionLayer):
    """Connects, and listens, when it is told to."""

    go: asyncio.Event
    waiting: int = 0

    async def connect_tcp(self, host: str, port: int, addresses: AddressRules = ANY_ADDRESS) -> ByteStream:
        await self._wait()
        return await super().connect_tcp(host, port, addresses)

    async def listen_tcp(self, host: str, port: int, incoming: Any) -> Any:
        await self._wait()
        return await super().listen_tcp(host, port, incoming)

    async def _wait(self) -> None:
        self.waiting += 1
        try:
            await self.go.wait()
        finally:
            self.waiting -= 1


@asynccontextmanager
async def slow(limits: Limits) -> AsyncIterator[tuple[Forwarding, list[Slow], asyncio.Event]]:
    go, layers = asyncio.Event(), list[Slow]()

    def around(inner: ConnectionHandler) -> ConnectionHandler:
        layers.append(Slow(inner, go))
        return layers[-1]

    async with forwarding(limits=limits, around_connection=around) as server:
        yield server, layers, go


async def test_connections_that_wait_for_their_target_are_limited_and_end_with_the_client() -> None:
    async with slow(Limits(pending_forwards=2)) as (server, layers, _):
        async with logged_in(server) as client:
            waiting = [asyncio.create_task(client.open_connection("127.0.0.1", 1)) for _ in range(2)]
            await until(lambda: bool(layers) and layers[0].waiting == 2, "two wait")
            with pytest.raises(asyncssh.ChannelOpenError) as caught:
                await client.open_connection("127.0.0.1", 1)
            assert caught.value.code == constants.OPEN_RESOURCE_SHORTAGE
        await until(lambda: layers[0].waiting == 0, "nobody waits any more")
        await asyncio.gather(*waiting, return_exceptions=True)
    assert not server.front.log.errors


async def test_answers_wait_for_a_slow_one_before_them_and_a_flood_of_them_ends_the_connection() -> None:
    async with slow(Limits(queued_requests=20)) as (server, layers, go), logged_in(server) as client:
        first = asyncio.create_task(client._make_global_request(b"tcpip-forward", String("localhost"), UInt32(0)))
        second = asyncio.create_task(client._make_global_request(b"keepalive@openssh.com"))
        await until(lambda: bool(layers) and layers[0].waiting == 1, "the first waits")
        assert not second.done()
        go.set()
        assert (await first)[0] == (await second)[0] == constants.MSG_REQUEST_SUCCESS
        go.clear()
        for _ in range(30):
            client._send_global_request(b"tcpip-forward", String("localhost"), UInt32(0), want_reply=False)
        await asyncio.wait_for(client.wait_closed(), LIMIT)
    assert SSHCode.LIMIT_GLOBAL_REQUESTS in server.front.log
    assert not server.front.log.errors


async def test_a_forward_that_is_being_set_up_keeps_no_other_connection_waiting() -> None:
    """Upstream's server holds a lock meanwhile that every connection needs."""
    async with slow(Limits()) as (server, layers, go), logged_in(server) as client:
        first = asyncio.create_task(client._make_global_request(b"tcpip-forward", String("localhost"), UInt32(0)))
        await until(lambda: bool(layers) and layers[0].waiting == 1, "the first waits")
        async with asyncio.timeout(LIMIT), logged_in(server) as another:
            assert (await another.run("echo beside it")).stdout == "beside it\n"
        assert not first.done()
        go.set()
        assert (await first)[0] == constants.MSG_REQUEST_SUCCESS


async def test_listeners_are_limited() -> None:
    async with forwarding(limits=Limits(listeners=2)) as server, logged_in(server) as client:
        for good in (True, True, False):
            kind, _ = await client._make_global_request(b"tcpip-forward", String("localhost"), UInt32(0))
            assert (kind == constants.MSG_REQUEST_SUCCESS) is good
    assert SSHCode.LIMIT_LISTENERS in server.front.log


async def test_a_client_that_refuses_or_ignores_a_channel_hurts_nobody_else() -> None:
    answers: list[Callable[[Any], None]] = []

    async with forwarding(limits=Limits(forwards=4)) as server, logged_in(server) as client:
        kind, packet = await client._make_global_request(b"tcpip-forward", String("localhost"), UInt32(0))
        assert kind == constants.MSG_REQUEST_SUCCESS
        port = packet.get_uint32()
        # asyncssh refuses what it has not asked for itself.
        with pytest.raises(ConnectionResetError):
            await talk(port, b"x")
        original = client._packet_handlers
        client._packet_handlers = {
            **original,
            constants.MSG_CHANNEL_OPEN: lambda *_: answers.append(lambda _: None),
        }
        peers = [await asyncio.open_connection("127.0.0.1", port) for _ in range(10)]
        await until(lambda: len(answers) == 4, "as many as may be open are asked for")
        # The others are turned away, and not kept.
        async with asyncio.timeout(LIMIT):
            gone = 0
            for reader, _ in peers:
                try:
                    async with asyncio.timeout(0.2):
                        gone += (await reader.read(1)) == b""
                except ConnectionResetError:
                    gone += 1
                except TimeoutError:
                    pass
        assert gone == 6
        assert (await client.run("echo fine")).stdout == "fine\n"
        for _, writer in peers:
            writer.close()
    assert await refused(port)
    assert not server.front.log.errors


async def test_data_before_a_close_without_an_end_of_file_is_delivered() -> None:
    got = bytearray()
    over = asyncio.Event()

    async def collect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.1)
        got.extend(await reader.read(-1))
        over.set()

    async with forwarding() as server, listening(collect) as there, logged_in(server) as client:
        channel = await open_raw(client, b"direct-tcpip", direct("127.0.0.1", there))
        for _ in range(40):
            channel.send_packet(constants.MSG_CHANNEL_DATA, String(b"x" * 32768))
        channel.send_packet(constants.MSG_CHANNEL_CLOSE)
        # The library shall not close it a second time.
        channel._send_state = "closed"
        await asyncio.wait_for(over.wait(), LIMIT)
        assert len(got) == 40 * 32768
        assert (await client.run("echo fine")).stdout == "fine\n"


async def test_a_slow_reader_is_waited_for_and_its_neighbours_are_not() -> None:
    async with forwarding() as server, listening(echo) as there, listening(digest), logged_in(server) as client:
        _, stuck = await client.open_connection("127.0.0.1", there, window=65536)
        stuck.write(b"x" * 10_000_000)
        for _ in range(3):
            reader, writer = await client.open_connection("127.0.0.1", there)
            writer.write(b"y" * 100_000)
            writer.write_eof()
            assert await asyncio.wait_for(reader.read(-1), LIMIT) == b"y" * 100_000
        stuck.channel.abort()


async def test_what_security_says_holds_for_every_kind() -> None:
    async with forwarding(security={}) as server, listening(echo) as there, logged_in(server) as client:
        for opening in (client.open_connection("127.0.0.1", there), client.open_unix_connection("/x")):
            with pytest.raises(asyncssh.ChannelOpenError) as caught:
                await opening
            assert caught.value.code == constants.OPEN_ADMINISTRATIVELY_PROHIBITED
        for name, body in (
            (b"tcpip-forward", String("localhost") + UInt32(0)),
            (b"streamlocal-forward@openssh.com", String("/tmp/x")),
        ):
            assert (await client._make_global_request(name, body))[0] == constants.MSG_REQUEST_FAILURE
    allowed = {"forwarding": {"forwardingMode": "enable"}}
    async with forwarding(security=allowed) as server, listening(echo) as there, logged_in(server) as client:
        reader, writer = await client.open_connection("127.0.0.1", there)
        writer.write(b"through")
        writer.write_eof()
        assert await reader.read(-1) == b"through"
        with pytest.raises(asyncssh.ChannelOpenError):
            await client.open_connection("127.0.0.1", unused_port())
