"""Streams of programs that are cut anywhere: nothing is lost without a word, and only a whole run is a success."""

from __future__ import annotations

import asyncio
import socket
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from containerssh.backends.kubernetes.channels import STDERR, STDOUT, Codec
from containerssh.backends.kubernetes.exec_stream import RemoteStream
from containerssh.backends.kubernetes.spdy import SPDYCodec
from containerssh.backends.kubernetes.websocket import WebSocketCodec
from containerssh.core.errors import BackendError
from containerssh.core.streams import ByteReader
from containerssh.core.wire import Wire

SUCCESS = b'{"status": "Success"}'
Frames = list[tuple[int | None, bytes, bytes]]
"""Of each: the channel of its output if it has any, that output, and the frame as it is sent."""


def ws(payload: bytes, opcode: int = 2, *, final: bool = True) -> bytes:
    size = bytes((len(payload),)) if len(payload) < 126 else b"\x7e" + len(payload).to_bytes(2, "big")
    return bytes((0x80 * final | opcode,)) + size + payload


def spdy(stream: int, payload: bytes, *, final: bool = False) -> bytes:
    return stream.to_bytes(4, "big") + bytes((final,)) + len(payload).to_bytes(3, "big") + payload


def as_websocket(outputs: list[tuple[int, bytes]], status_at: int) -> Frames:
    frames: Frames = [(channel, data, ws(bytes((channel,)) + data)) for channel, data in outputs]
    frames.insert(status_at, (None, b"", ws(b"\x03" + SUCCESS)))
    return [*frames, (None, b"", ws(b"pi", 9)), (None, b"", ws(b"\x03\xe8", 8))]


def as_spdy(outputs: list[tuple[int, bytes]], status_at: int) -> Frames:
    streams = {STDOUT: 5, STDERR: 7}
    frames: Frames = [(channel, data, spdy(streams[channel], data)) for channel, data in outputs]
    frames.insert(status_at, (None, b"", spdy(1, SUCCESS, final=True)))
    return [*frames, *((None, b"", spdy(stream, b"", final=True)) for stream in streams.values())]


WAYS: list[tuple[Callable[[], Codec], Callable[[list[tuple[int, bytes]], int], Frames]]] = [
    (WebSocketCodec, as_websocket),
    (lambda: SPDYCodec(stdin=True, stderr=True, tty=False), as_spdy),
]


async def run(
    codec: Codec, pieces: list[bytes], *, pause: float = 0, close: bool = True, last_limit: float = 10
) -> tuple[object, list[bytes]]:
    """The outcome of a program whose server sends *pieces*, and what could be read of its outputs."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    loop = asyncio.get_running_loop()
    _, wire = await loop.create_connection(Wire, sock=ours)
    stream = RemoteStream(wire, codec, stdin=True, stderr=True, tty=False, last_limit=last_limit)

    async def read(source: ByteReader) -> bytes:
        seen = b""
        with suppress(ConnectionError):
            while data := await source.read():
                seen += data
        return seen

    assert stream.stderr is not None
    readers = [asyncio.create_task(read(source)) for source in (stream.stdout, stream.stderr)]
    try:
        for piece in pieces:
            await loop.sock_sendall(theirs, piece)
            await asyncio.sleep(pause)
        if close:
            theirs.shutdown(socket.SHUT_WR)
        async with asyncio.timeout(10):
            outcome: object
            try:
                outcome = await stream.wait()
            except BackendError as exc:
                outcome = exc
            return outcome, await asyncio.gather(*readers)
    finally:
        theirs.close()
        await stream.close()


@settings(max_examples=80)
@given(
    st.sampled_from(WAYS),
    st.lists(st.tuples(st.sampled_from([STDOUT, STDERR]), st.binary(min_size=1, max_size=300)), max_size=5),
    st.data(),
)
def test_a_run_that_is_cut_anywhere_is_told_apart_from_a_whole_one(
    way: tuple[Callable[[], Codec], Callable[[list[tuple[int, bytes]], int], Frames]],
    outputs: list[tuple[int, bytes]],
    data: st.DataObject,
) -> None:
    make, write = way
    frames = write(outputs, data.draw(st.integers(0, len(outputs)), label="place of the status"))
    sent = b"".join(frame for _, _, frame in frames)
    end = data.draw(st.integers(0, len(sent)), label="cut")
    places = sorted({0, end, *data.draw(st.lists(st.integers(0, end), max_size=3))})
    outcome, seen = asyncio.run(run(make(), [sent[start:stop] for start, stop in pairwise(places)]))
    whole, told, position, midway = {STDOUT: b"", STDERR: b""}, False, 0, False
    for channel, content, frame in frames:
        position += len(frame)
        if position > end:
            # Of a frame that has only begun, an output's counts; of others, what might become an output's.
            begun = end - (position - len(frame))
            midway = begun > 0 and (channel is not None or begun < 8)
            break
        told = told or SUCCESS in frame
        if channel is not None:
            whole[channel] += content
    for channel, got in zip((STDOUT, STDERR), seen, strict=True):
        written = b"".join(content for one, content in outputs if one == channel)
        assert got.startswith(whole[channel])
        assert written.startswith(got)
    if outcome == 0:
        assert told
        assert [whole[STDOUT], whole[STDERR]] == seen, "a success with half of an output"
    else:
        assert isinstance(outcome, BackendError)
        assert not told or midway, outcome.explanation


@pytest.mark.parametrize("cut", [1, 2, 4, 20])
async def test_a_status_does_not_make_half_an_output_whole(cut: int) -> None:
    outcome, seen = await run(WebSocketCodec(), [ws(b"\x03" + SUCCESS) + ws(b"\x01" + bytes(200))[:cut]])
    assert isinstance(outcome, BackendError)
    assert "in the middle of its output" in outcome.explanation
    assert set(seen[0]) <= {0}


async def test_a_status_does_not_make_half_an_output_whole_where_the_server_falls_silent() -> None:
    outcome, _ = await run(
        WebSocketCodec(), [ws(b"\x03" + SUCCESS) + ws(b"\x01abc", final=False)], close=False, last_limit=0.3
    )
    assert isinstance(outcome, BackendError)


async def test_output_behind_the_status_may_take_its_time() -> None:
    """A slow connection brings what is left for longer than anybody waits for nothing."""
    parts = [ws(b"\x01" + bytes((number,)) * 100) for number in range(12)]
    pieces = [ws(b"\x03" + SUCCESS), *parts, ws(b"\x03\xe8", 8)]
    outcome, seen = await run(WebSocketCodec(), pieces, pause=0.12, last_limit=1)
    assert outcome == 0
    assert len(seen[0]) == 1200


async def test_pings_behind_the_status_do_not_keep_a_program() -> None:
    began = asyncio.get_running_loop().time()
    pieces = [ws(b"\x03" + SUCCESS), *[ws(b"", 9)] * 8]
    outcome, _ = await run(WebSocketCodec(), pieces, pause=0.05, close=False, last_limit=0.3)
    assert outcome == 0
    assert asyncio.get_running_loop().time() - began < 5


async def test_tiny_pieces_take_no_more_memory_than_large_ones() -> None:
    """A guest chooses how large they are, and its client may read nothing."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    loop = asyncio.get_running_loop()
    _, wire = await loop.create_connection(Wire, sock=ours)
    stream = RemoteStream(wire, WebSocketCodec(), stdin=True, stderr=False, tty=False)
    sent = b"ab" * 50_000
    frames = b"".join(ws(b"\x01" + sent[at : at + 2]) for at in range(0, len(sent), 2))
    tracemalloc.start()
    try:
        await loop.sock_sendall(theirs, frames + ws(b"\x03" + SUCCESS) + ws(b"\x03\xe8", 8))
        async with asyncio.timeout(20):
            assert await stream.wait() == 0
        held, _ = tracemalloc.get_traced_memory()
        seen = b""
        while data := await stream.stdout.read():
            seen += data
    finally:
        tracemalloc.stop()
        theirs.close()
        await stream.close()
    assert seen == sent
    assert held < 5 * len(sent)


async def test_a_server_that_asks_without_end_and_reads_nothing_does_not_fill_our_memory() -> None:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    loop = asyncio.get_running_loop()
    _, wire = await loop.create_connection(Wire, sock=ours)
    stream = RemoteStream(wire, WebSocketCodec(), stdin=True, stderr=False, tty=False)
    try:
        async with asyncio.timeout(20):
            await loop.sock_sendall(theirs, ws(bytes(125), 9) * 20_000)
            assert 0 < wire.unsent < 100_000
            await loop.sock_sendall(theirs, ws(b"\x03" + SUCCESS) + ws(b"\x03\xe8", 8))
            assert await stream.wait() == 0
    finally:
        theirs.close()
        await stream.close()
