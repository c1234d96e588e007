"""An API server that does what none should: nothing of it may last, grow without end, or pass for success."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from containerssh.backends.kubernetes.client import PODS
from containerssh.backends.kubernetes.errors import APIError
from containerssh.backends.kubernetes.exec_stream import RemoteStream
from containerssh.backends.kubernetes.websocket import WebSocketCodec
from containerssh.core.errors import BackendError, ProtocolError
from containerssh.core.wire import Wire
from tests.support.hostile_api import POD, Answer, Hostile, hostile, reply, saying
from tests.support.waiting import until
from tests.support.webhook import Authority


async def silent(_: Hostile, __: str, reader: asyncio.StreamReader, ___: asyncio.StreamWriter) -> None:
    await reader.read()


async def endless(_: Hostile, __: str, ___: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(b" " * (1 << 20))
        await writer.drain()


async def endless_head(_: Hostile, __: str, ___: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X-More: " + b"x" * 1000 + b"\r\n")
        await writer.drain()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (silent, "no answer within 0.5 s"),
        (saying(b"SSH-2.0-what\r\n", close=True), "not available"),
        (saying(b"", close=True), "not available"),
        (saying(reply(b"[" * 100_000)), "cannot be understood"),
        (saying(reply({"metadata": {}})), "without its uid"),
        (saying(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", close=True), "not available"),
        (endless_head, "not available"),
    ],
)
async def test_a_broken_answer_is_an_error_soon(answer: Answer, words: str) -> None:
    async with hostile(answer, 0.5) as (_, client):
        with pytest.raises((APIError, ProtocolError), match=words):
            await client.get(PODS, "default", "one")
        with pytest.raises((APIError, ProtocolError)):
            async with client.exec("default", "one", "main", ["true"]):
                pass


async def test_a_refusal_that_comes_in_pieces_is_read_whole() -> None:
    async def answer(_: Hostile, __: str, ___: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        told = reply({"kind": "Status", "reason": "AlreadyExists", "message": "it is there"}, "409 Conflict")
        for piece in (told[:-20], told[-20:]):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.1)

    async with hostile(answer) as (_, client):
        with pytest.raises(APIError, match="it is there") as refused:
            await client.get(PODS, "default", "one")
    assert refused.value.reason == "AlreadyExists"


async def test_an_answer_without_end_is_cut_off() -> None:
    async with hostile(endless) as (_, client):
        with pytest.raises(ProtocolError, match="longer than 16 MiB"):
            await client.get(PODS, "default", "one")


async def test_a_list_without_end_is_cut_off() -> None:
    page = {"metadata": {"resourceVersion": "1", "continue": "more"}, "items": []}
    async with hostile(saying(reply(page)), 20) as (server, client):
        with pytest.raises(ProtocolError, match="has no end"):
            await client.list(PODS, "default")
        assert len(server.requests) == 1000


async def test_a_list_that_would_fill_our_memory_is_cut_off() -> None:
    page = json.dumps({"metadata": {"continue": "more"}, "items": []}).encode()
    async with hostile(saying(reply(page + b" " * (40 << 20))), 20) as (server, client):
        with pytest.raises(ProtocolError, match="longer than 256 MiB"):
            await client.list(PODS, "default")
        assert len(server.requests) == 7


async def test_a_list_whose_rest_is_not_there_any_more_begins_anew() -> None:
    first = reply({"metadata": {"continue": "more"}, "items": [POD]})
    expired = reply({"kind": "Status", "code": 410, "reason": "Expired"}, "410 Gone")
    rest = reply({"metadata": {"resourceVersion": "9"}, "items": [{"metadata": {"uid": "2"}}]})

    def answering(*texts: bytes) -> Answer:
        left = iter(texts)

        async def answer(_: Hostile, __: str, ___: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(next(left))

        return answer

    async with hostile(answering(first, expired, first, rest)) as (_, client):
        items, version = await client.list(PODS, "default", keep=lambda item: {"uid": item["metadata"]["uid"]})
        assert (items, version) == ([{"uid": "1"}, {"uid": "2"}], "9")
    async with hostile(saying(expired)) as (server, client):
        with pytest.raises(APIError):
            await client.list(PODS, "default")
        assert len(server.requests) == 3


async def test_redirects_do_not_get_our_token() -> None:
    async with hostile(saying(reply({}))) as (elsewhere, other):
        with pytest.raises(ProtocolError):
            await other.get(PODS, "default", "one")
        port = int(re.findall(r"Host: 127.0.0.1:(\d+)", elsewhere.requests.pop())[0])
        headers = f"Location: http://127.0.0.1:{port}/\r\n"
        async with hostile(saying(reply(b"", "301 Moved", headers))) as (_, client):
            with pytest.raises(APIError) as refused:
                await client.get(PODS, "default", "one")
        assert refused.value.status == 301
        assert not elsewhere.requests


async def test_a_busy_server_is_asked_again_when_it_says() -> None:
    async def busy(server: Hostile, _: str, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        good = len(server.requests) > 2
        writer.write(reply(POD) if good else reply({}, "429 Too Many Requests", "Retry-After: 0\r\n"))

    async with hostile(busy) as (server, client):
        assert await client.get(PODS, "default", "one") == POD
        assert len(server.requests) == 3
    async with hostile(saying(reply({}, "429 Too Many Requests", "Retry-After: 0\r\n")), 0.5) as (_, client):
        with pytest.raises(APIError) as refused:
            await client.get(PODS, "default", "one")
        assert refused.value.passing


async def test_a_busy_server_is_asked_for_a_program_again_when_it_says() -> None:
    async def busy(server: Hostile, head: str, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(server.requests) < 3:
            writer.write(reply({}, "429 Too Many Requests", "Retry-After: 0\r\n"))
        else:
            writer.write(accepted(head) + message(b'\x03{"status": "Success"}') + CLOSE)
            await writer.drain()
        raise EOFError

    async with hostile(busy) as (server, client), client.exec("default", "one", "main", ["true"]) as stream:
        assert await stream.wait() == 0
        assert len(server.requests) == 3


@pytest.mark.parametrize("told", ["9" * 5000, "soon", "-1", "1e3"])
async def test_a_time_to_come_back_that_is_none_is_not_believed(told: str) -> None:
    busy = reply({}, "503 Service Unavailable", f"Retry-After: {told}\r\n")
    async with hostile(saying(busy)) as (_, client):
        with pytest.raises(APIError) as refused:
            await client.get(PODS, "default", "one")
        assert refused.value.retry_after is None


def event(kind: str, content: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": content}).encode() + b"\n"


def pod(name: str, version: int) -> dict[str, Any]:
    return {"metadata": {"name": name, "uid": name, "resourceVersion": str(version)}}


async def test_a_watch_that_is_too_old_begins_anew_without_doubles() -> None:
    lists = iter([[pod("a", 1), pod("b", 2)], [pod("a", 1), pod("c", 8)]])
    watches = iter(
        [
            event("ADDED", pod("a", 1)) + event("MODIFIED", pod("b", 5)),
            event("ERROR", {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}),
            event("BOOKMARK", {"metadata": {"resourceVersion": "20"}}) + b'{"type": "ADD',
            event("MODIFIED", pod("c", 21)),
        ]
    )

    async def answer(_: Hostile, head: str, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if "watch=1" in head:
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + next(watches))
            await writer.drain()
            raise EOFError
        writer.write(reply({"metadata": {"resourceVersion": "8"}, "items": next(lists)}))

    seen = []
    async with hostile(answer) as (server, client), aclosing(client.watch(PODS, "default")) as events:
        async with asyncio.timeout(10):
            async for one in events:
                seen.append((one.type, one.object["metadata"]["name"]))
                if len(seen) == 6:
                    break
    assert seen == [
        ("ADDED", "a"), ("ADDED", "b"), ("MODIFIED", "b"), ("ADDED", "c"), ("DELETED", "b"), ("MODIFIED", "c"),
    ]  # fmt: skip
    versions = re.findall(r"resourceVersion=(\w+)", " ".join(server.requests))
    assert versions == ["8", "5", "8", "20"]


async def test_a_watch_that_fails_again_and_again_lists_anew() -> None:
    """What it knows may be of a server that was put back to an older state."""
    lists = iter([[pod("a", 9000)], [pod("a", 5)]])

    async def answer(_: Hostile, head: str, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if "resourceVersion=9000" in head:
            status = {"kind": "Status", "reason": "Timeout", "message": "Too large resource version"}
            writer.write(reply(status, "504 Gateway Timeout"))
        elif "watch=1" in head:
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + event("MODIFIED", pod("a", 6)))
            await writer.drain()
            raise EOFError
        else:
            items = next(lists)
            writer.write(
                reply({"metadata": {"resourceVersion": items[0]["metadata"]["resourceVersion"]}, "items": items})
            )

    async with hostile(answer) as (_, client), aclosing(client.watch(PODS, "default")) as events:
        async with asyncio.timeout(10):
            versions = [(await anext(events)).object["metadata"]["resourceVersion"] for _ in range(3)]
    assert versions == ["9000", "5", "6"]


async def test_a_watch_that_is_not_let_in_for_a_moment_goes_on() -> None:
    """The token has run out, and its successor is there a moment later."""
    watches = iter([reply({"kind": "Status", "reason": "Unauthorized"}, "401 Unauthorized")])

    async def answer(_: Hostile, head: str, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if "watch=1" not in head:
            writer.write(reply({"metadata": {"resourceVersion": "1"}, "items": []}))
        elif refused := next(watches, None):
            writer.write(refused)
        else:
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + event("ADDED", pod("a", 2)))
            await writer.drain()
            raise EOFError

    async with hostile(answer) as (_, client), aclosing(client.watch(PODS, "default")) as events:
        async with asyncio.timeout(10):
            assert (await anext(events)).object["metadata"]["name"] == "a"


async def test_a_watch_that_is_refused_for_good_says_so() -> None:
    async def answer(_: Hostile, head: str, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        status = {"kind": "Status", "reason": "Forbidden", "message": "may not watch"}
        listed = {"metadata": {"resourceVersion": "8"}, "items": []}
        writer.write(reply(status, "403 Forbidden") if "watch=1" in head else reply(listed))

    async with hostile(answer) as (_, client):
        with pytest.raises(APIError, match="may not watch"):
            await anext(client.watch(PODS, "default"))


# -- programs ------------------------------------------------------------------------------------------


def accepted(head: str, protocol: str = "v5.channel.k8s.io") -> bytes:
    """The answer that turns a connection into a WebSocket."""
    found = re.search(r"Sec-WebSocket-Key: (\S+)", head)
    assert found is not None
    digest = hashlib.sha1(f"{found[1]}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()
    chosen = f"Sec-WebSocket-Protocol: {protocol}\r\n" if protocol else ""
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"{chosen}Sec-WebSocket-Accept: {base64.b64encode(digest).decode()}\r\n\r\n"
    ).encode()


def message(payload: bytes, opcode: int = 2) -> bytes:
    return bytes((0x80 | opcode, 126)) + len(payload).to_bytes(2, "big") + payload


def talking(*pieces: bytes) -> Answer:
    """Accepts a WebSocket, says *pieces*, and closes the connection."""

    async def answer(_: Hostile, head: str, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(accepted(head) + b"".join(pieces))
        await writer.drain()
        raise EOFError

    return answer


CLOSE = b"\x88\x02\x03\xe8"


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
        WebSocketCodec(),
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


async def test_a_server_that_is_gone_without_a_word_is_noticed() -> None:
    heard = bytearray()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1000):
            heard.extend(data)

    async with stream_to(serve) as stream:
        async with asyncio.timeout(10):
            with pytest.raises(BackendError, match="nothing came from the API server"):
                await stream.wait()
        assert heard.startswith(b"\x89\x80")


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
