"""Streams of programs with a server that cuts, lies, and falls silent."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from containerssh.backends.kubernetes.channels import Codec
from containerssh.backends.kubernetes.errors import APIError
from containerssh.backends.kubernetes.exec_stream import RemoteStream
from containerssh.backends.kubernetes.spdy import SPDYCodec
from containerssh.backends.kubernetes.websocket import WebSocketCodec
from containerssh.core.errors import BackendError, ProtocolError
from containerssh.core.wire import Wire
from tests.support.hostile_api import Answer, Hostile, hostile, reply
from tests.support.hostile_stream import CLOSE, accepted, message
from tests.support.waiting import until
from tests.support.webhook import Authority


def talking(*pieces: bytes) -> Answer:
    """Accepts a WebSocket, says *pieces*, and closes the connection."""

    async def answer(_: Hostile, head: str, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(accepted(head) + b"".join(pieces))
        await writer.drain()
        raise EOFError

    return answer


@pytest.mark.parametrize(
    ("pieces", "words"),
    [
        ([], "without its status"),
        ([message(b"\x01out"), CLOSE], "without its status"),
        ([b"\x88\x07\x03\xf3broke"], "code 1011 broke"),
        ([b"\x81\x01x"], "not binary"),
        ([b"\x00" * 100], "fragments"),
        ([message(b"\x03not json"), CLOSE], "no status that can be understood"),
        ([message(b'\x03{"status": "Failure", "message": "no\\u0007 luck"}'), CLOSE], "no luck"),
        ([message(b'\x03{"reason": "NonZeroExitCode", "details": {"causes": 7}}'), CLOSE], "in the pod"),
        ([message(b"\x03" + b" " * 60_000)] * 3 + [CLOSE], "no status that can be understood"),
    ],
)
async def test_a_program_without_a_proper_status_has_failed(pieces: list[bytes], words: str) -> None:
    async with (
        hostile(talking(*pieces)) as (_, client),
        client.exec("default", "one", "main", ["true"]) as stream,
    ):
        with pytest.raises(BackendError, match=words) as failed:
            await stream.wait()
        assert failed.value.explanation.isprintable()
        told = words in ("no luck", "in the pod")
        assert failed.value.code == f"KUBERNETES_{'EXEC_FAILED' if told else 'EXIT_CODE_FAILED'}"


async def test_what_came_before_the_cut_can_be_read() -> None:
    async with (
        hostile(talking(message(b"\x01half of"), b"\x82\x7e\xff\xff\x01it")) as (_, client),
        client.exec("default", "one", "main", ["true"]) as stream,
    ):
        seen = b""
        with pytest.raises(ConnectionError):
            while True:
                seen += await stream.stdout.read()
        assert seen == b"half ofit"


@pytest.mark.parametrize("tls", [False, True])
async def test_nothing_is_lost_when_the_connection_ends_before_it_is_read(tls: bool, tmp_path: Path) -> None:
    """asyncio's TLS forgets at the end what is left of a buffer that a protocol gave it."""
    ended = asyncio.Event()
    parts = [bytes((1, number % 256)) * 1500 for number in range(140)]

    async def answer(_: Hostile, head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(accepted(head))
        for part in parts:
            writer.write(message(b"\x01" + part))
        writer.write(message(b'\x03{"status": "Success"}') + CLOSE)
        await until(lambda: not writer.transport.get_write_buffer_size())
        # A bare end, as Go sends it right behind TLS's own, without waiting for ours.
        writer.get_extra_info("socket").shutdown(socket.SHUT_WR)
        ended.set()
        await reader.read()

    authority = Authority(tmp_path) if tls else None
    async with (
        hostile(answer, authority=authority) as (_, client),
        client.exec("default", "one", "main", ["true"]) as stream,
    ):
        await ended.wait()
        await asyncio.sleep(0.1)
        seen = bytearray()
        while data := await stream.stdout.read():
            seen += data
        assert bytes(seen) == b"".join(parts)
        assert await stream.wait() == 0


async def test_pings_are_answered_and_ours_are_sent_masked() -> None:
    heard: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def answer(_: Hostile, head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(accepted(head) + b"\x89\x02hi")
        heard.set_result(await reader.readexactly(8))
        writer.write(message(b'\x03{"status": "Success"}') + CLOSE)

    async with hostile(answer) as (_, client), client.exec("default", "one", "main", ["true"]) as stream:
        assert await stream.wait() == 0
        frame = await heard
        assert frame[:2] == b"\x8a\x82"
        assert bytes(a ^ b for a, b in zip(frame[6:], frame[2:], strict=False)) == b"hi"


async def test_input_that_nobody_takes_waits() -> None:
    async def answer(_: Hostile, head: str, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(accepted(head))
        await writer.drain()
        await asyncio.sleep(60)

    async with hostile(answer) as (_, client), client.exec("default", "one", "main", ["true"]) as stream:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                while True:
                    await stream.stdin.write(bytes(65536))


@pytest.mark.parametrize("protocol", ["", "v4.channel.k8s.io"])
async def test_a_websocket_that_cannot_end_the_input_is_not_used(protocol: str) -> None:
    async def answer(_: Hostile, head: str, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if head.startswith("GET"):
            writer.write(accepted(head, protocol))
        else:
            writer.write(reply({"kind": "Status", "reason": "NotFound", "message": "no pod"}, "404 Not Found"))

    async with hostile(answer) as (server, client):
        with pytest.raises(APIError, match="no pod"):
            async with client.exec("default", "one", "main", ["true"]):
                pass
        assert [head.split()[0] for head in server.requests] == ["GET", "POST"]
        assert "Upgrade: SPDY/3.1" in server.requests[1]


async def test_a_server_that_only_pretends_to_be_a_websocket_is_refused() -> None:
    async def answer(_: Hostile, head: str, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(accepted(head.replace("Key: ", "Key: x")))

    async with hostile(answer) as (_, client):
        with pytest.raises(ProtocolError, match="did not turn the connection into a WebSocket"):
            async with client.exec("default", "one", "main", ["true"]):
                pass


async def test_whoever_leaves_early_leaves_no_connection() -> None:
    closed = asyncio.Event()

    async def answer(_: Hostile, head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(accepted(head) + message(b"\x01x") * 100_000)
        try:
            await reader.read()
        finally:
            closed.set()
        raise EOFError

    async with hostile(answer) as (_, client):
        async with client.exec("default", "one", "main", ["true"]) as stream:
            assert await stream.stdout.read()
        async with asyncio.timeout(5):
            await closed.wait()
        with pytest.raises(ConnectionError):
            await stream.stdin.write(b"x")


@asynccontextmanager
async def stream_to(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    last_limit: float = 10.0,
    codec: Codec | None = None,
) -> AsyncIterator[RemoteStream]:
    """A stream, in a hurry, to a server that has accepted it."""
    served = asyncio.Event()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, EOFError):
            await serve(reader, writer)
        writer.transport.abort()
        served.set()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    _, wire = await asyncio.get_running_loop().create_connection(Wire, "127.0.0.1", port)
    stream = RemoteStream(
        wire,
        codec or WebSocketCodec(),
        stdin=True,
        stderr=False,
        tty=False,
        ping_every=0.05,
        silence_limit=0.25,
        last_limit=last_limit,
    )
    try:
        yield stream
    finally:
        await stream.close()
        await served.wait()
        server.close()


@pytest.mark.parametrize(
    ("codec", "ping"),
    [
        (WebSocketCodec(), b"\x89\x80"),
        (SPDYCodec(stdin=True, stderr=False, tty=False), b"\x80\x03\x00\x06\x00\x00\x00\x04\x00\x00\x00\x01"),
    ],
)
async def test_a_server_that_is_gone_without_a_word_is_noticed(codec: Codec, ping: bytes) -> None:
    heard = bytearray()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1000):
            heard.extend(data)

    async with stream_to(serve, codec=codec) as stream:
        async with asyncio.timeout(10):
            with pytest.raises(BackendError, match="nothing came from the API server"):
                await stream.wait()
        assert heard.removeprefix(codec.opening()).startswith(ping)


async def test_a_silent_program_is_not_taken_for_a_server_that_is_gone() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(12):
            await reader.readexactly(6)
            writer.write(b"\x8a\x00")
        writer.write(message(b'\x03{"status": "Success"}') + CLOSE)
        await reader.readexactly(1)

    async with stream_to(serve) as stream, asyncio.timeout(10):
        assert await stream.wait() == 0


async def test_a_program_that_reads_nothing_is_not_taken_for_one() -> None:
    """A server that passes our input on does not get to our pings before it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        await asyncio.sleep(0.6)
        writer.write(message(b'\x03{"status": "Success"}') + CLOSE)
        await reader.read()

    async with stream_to(serve) as stream, asyncio.timeout(10):
        await stream.stdin.write(b"x")
        assert await stream.wait() == 0


async def test_output_behind_the_status_waits_for_a_slow_reader() -> None:
    """Standard output and status may overtake one another; the status alone is no end of the output."""
    parts = 40

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(message(b'\x03{"status": "Success"}'))
        for _ in range(parts):
            writer.write(message(b"\x01" + bytes(60_000)))
            await writer.drain()
        writer.write(CLOSE)
        await reader.read()

    async with stream_to(serve, last_limit=0.1) as stream:
        size = 0
        async with asyncio.timeout(20):
            await asyncio.sleep(0.4)
            while data := await stream.stdout.read():
                size += len(data)
            assert await stream.wait() == 0
        assert size == parts * 60_000


async def test_a_server_that_tells_the_status_and_then_nothing_is_not_waited_for_long() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(message(b'\x03{"status": "Success"}'))
        await reader.read()

    async with stream_to(serve, last_limit=0.1) as stream, asyncio.timeout(5):
        assert await stream.wait() == 0
