"""What is read of an answer that refuses to turn a connection into a stream."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from containerssh.backends.kubernetes.credentials import Access
from containerssh.backends.kubernetes.errors import ERROR_LIMIT
from containerssh.backends.kubernetes.upgrade import read_refusal, upgrade
from containerssh.core.errors import ProtocolError
from containerssh.core.wire import Wire
from containerssh.web.head import HEAD_LIMIT, Head

CHUNKED = {"transfer-encoding": "chunked"}


def chunk(data: bytes, extension: bytes = b"") -> bytes:
    return f"{len(data):x}".encode() + extension + b"\r\n" + data + b"\r\n"


async def read(headers: dict[str, str], pieces: list[bytes]) -> bytes:
    """What is read of a body that comes in *pieces*, after which the connection ends."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    loop = asyncio.get_running_loop()
    _, wire = await loop.create_connection(Wire, sock=ours)

    async def send() -> None:
        with theirs:
            for piece in pieces:
                await loop.sock_sendall(theirs, piece)
                await asyncio.sleep(0)

    sending = asyncio.create_task(send())
    try:
        async with asyncio.timeout(10):
            return await read_refusal(wire, Head(422, headers))
    finally:
        wire.abort()
        await asyncio.gather(sending, return_exceptions=True)


@settings(max_examples=60)
@given(st.lists(st.binary(min_size=1, max_size=200), max_size=5), st.sampled_from([b"", b";a=b"]), st.data())
def test_what_came_before_a_cut_is_kept(parts: list[bytes], extension: bytes, data: st.DataObject) -> None:
    sent = b"".join(chunk(part, extension) for part in parts) + b"0\r\n\r\n"
    end = data.draw(st.integers(0, len(sent)), label="cut")
    places = sorted({0, end, *data.draw(st.lists(st.integers(0, end), max_size=3))})
    got = asyncio.run(read(CHUNKED, [sent[start:stop] for start, stop in pairwise(places)]))
    wanted, position = b"", 0
    for part in parts:
        head = len(chunk(part, extension)) - len(part) - 2
        wanted += part[: max(0, end - position - head)]
        position += head + len(part) + 2
    assert got == wanted


@settings(max_examples=60)
@given(
    st.binary(max_size=300),
    st.sampled_from([CHUNKED, {}, {"content-length": "100"}, {"content-length": "9" * 30}, {"content-length": "-1"}]),
)
def test_any_body_is_read_to_its_end_or_to_nothing(noise: bytes, headers: dict[str, str]) -> None:
    got = asyncio.run(read(headers, [noise]))
    assert len(got) <= len(noise)
    if headers is not CHUNKED:
        assert noise.startswith(got)


async def test_no_more_is_read_than_a_refusal_may_have() -> None:
    large = bytes(3 * ERROR_LIMIT)
    assert len(await read({}, [large])) == ERROR_LIMIT
    assert len(await read({"content-length": str(len(large))}, [large])) == ERROR_LIMIT
    assert len(await read(CHUNKED, [chunk(large)])) == ERROR_LIMIT
    assert len(await read(CHUNKED, [chunk(bytes(1000)) * 200])) == ERROR_LIMIT
    assert len(await read(CHUNKED, [b"ffffffff\r\n" + large])) == ERROR_LIMIT


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "the API server's answer is not HTTP"),
        (b"HTTP/1.1 101 Switching Protocols\r\nno colon\r\n\r\n", "the API server's answer has a malformed header"),
        (b"HTTP/1.1 101 Switching Protocols\r\nA: " + bytes(2 * HEAD_LIMIT), "too long"),
    ],
)
async def test_what_is_no_head_is_an_error_of_the_protocol(answer: bytes, why: str) -> None:
    served = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        with suppress(ConnectionError):
            await reader.read()
        writer.transport.abort()
        with suppress(ConnectionError):
            await writer.wait_closed()
        served.set()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        access = Access("http", "127.0.0.1", port, "", "/api", (), None, "")
        with pytest.raises(ProtocolError, match=why):
            await upgrade(access, "GET", "/x", ())
        async with asyncio.timeout(10):
            await served.wait()
