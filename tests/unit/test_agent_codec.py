from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from containerssh.agent.codec import (
    PREAMBLE,
    WINDOW,
    Fields,
    Frame,
    FrameDecoder,
    FrameType,
    pack_size,
    pack_text,
    pack_texts,
)
from containerssh.agent.transport import MAX_NOISE, FramedTransport
from containerssh.core.errors import BackendError, ProtocolError
from containerssh.core.requests import WindowSize
from containerssh.core.streams import CHUNK, ByteReader, ByteWriter

AGENT_FRAMES = st.one_of(
    st.builds(Frame, st.just(FrameType.DATA), st.integers(0, 2**32 - 1), st.binary(max_size=300)),
    st.builds(
        Frame,
        st.sampled_from([FrameType.HELLO, FrameType.ERROR, FrameType.EXITED]),
        st.integers(0, 2**32 - 1),
        st.binary(max_size=300),
    ),
    st.builds(Frame, st.sampled_from([FrameType.OK, FrameType.EOF, FrameType.CLOSE]), st.integers(0, 2**32 - 1)),
)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    bounds = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in pairwise(bounds)]


@given(
    st.lists(AGENT_FRAMES, max_size=8),
    st.lists(st.integers(0, 10_000), max_size=12),
    st.one_of(st.none(), st.integers(1, 3)),
)
def test_frames_survive_any_way_of_being_cut(frames: list[Frame], places: list[int], most: int | None) -> None:
    decoder = FrameDecoder()
    found: list[Frame] = []
    for piece in cut(b"".join(frame.encode() for frame in frames), places):
        some = decoder.feed(piece, most)
        while most and len(some) == most:
            found += some
            some = decoder.feed(b"", most)
        found += some
    assert found == frames


@given(st.lists(st.binary(max_size=200), max_size=10))
def test_any_bytes_give_frames_or_a_protocol_error(pieces: list[bytes]) -> None:
    decoder = FrameDecoder()
    try:
        for piece in pieces:
            for frame in decoder.feed(piece):
                assert len(frame.payload) <= CHUNK
    except ProtocolError:
        pass


@pytest.mark.parametrize(
    ("kind", "length"),
    [
        (FrameType.DATA, CHUNK + 1),
        (FrameType.HELLO, 4097),
        (FrameType.ERROR, 0xFFFFFF),
        (FrameType.OK, 1),
        (FrameType.CREDIT, 5),
        (FrameType.EOF, 1),
        (FrameType.START, 0),
        (FrameType.WELCOME, 2),
        (0, 0),
        (255, 0),
    ],
)
def test_a_length_or_type_that_cannot_be_is_refused_by_the_header_alone(kind: int, length: int) -> None:
    with pytest.raises(ProtocolError):
        FrameDecoder().feed((kind << 24 | length).to_bytes(4, "big") + bytes(4))


@given(st.binary(max_size=100))
def test_fields_end_with_a_value_or_a_protocol_error(payload: bytes) -> None:
    fields = Fields(payload)
    try:
        assert fields.number(2) < 65536
        assert len(fields.text(32)) <= 32
        assert fields.flag() in (True, False)
        fields.end()
    except ProtocolError:
        pass


def test_a_text_longer_than_allowed_is_refused_before_it_is_taken() -> None:
    with pytest.raises(ProtocolError):
        Fields(b"\xff\xff\xff\xff" + b"x" * 50).text(1024)
    with pytest.raises(ProtocolError):
        Fields(pack_text("x" * 33)).text(32)


def test_texts_keep_bytes_that_are_no_utf8() -> None:
    assert pack_texts(["a", "\udcff"]) == b"\0\0\0\2\0\0\0\1a\0\0\0\1\xff"


def test_a_size_beyond_the_kernels_numbers_is_cut() -> None:
    assert pack_size(WindowSize(2**32 - 1, 70_000, -1, 7)) == b"\xff\xff\xff\xff\0\0\0\7"


class Given(ByteReader):
    """What an agent sent, then its end."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = [piece for piece in pieces if piece]

    async def read(self) -> bytes:
        return self.pieces.pop(0) if self.pieces else b""


class Nowhere(ByteWriter):
    async def write(self, data: bytes) -> None:
        raise BrokenPipeError

    async def write_eof(self) -> None:
        raise BrokenPipeError


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=40),
            st.builds(
                lambda kind, identity, payload: Frame(kind, identity, payload).encode(),
                st.sampled_from(sorted(FrameType)),
                st.integers(0, 4),
                st.binary(max_size=12),
            ),
        ),
        max_size=30,
    )
)
def test_no_mixture_of_messages_gets_more_than_a_protocol_error(pieces: list[bytes]) -> None:
    async def scenario() -> None:
        transport = FramedTransport(Given([PREAMBLE, *pieces]), Nowhere())
        for _ in range(3):
            transport.expect()
        with pytest.raises((ProtocolError, BackendError)):
            while True:
                await transport.receive()

    asyncio.run(scenario())


@given(st.binary(max_size=2000), st.lists(st.integers(0, 3000), max_size=6))
def test_the_preamble_is_found_behind_any_noise(noise: bytes, places: list[int]) -> None:
    assume(PREAMBLE not in noise + PREAMBLE[:-1])

    async def scenario() -> None:
        sent = noise + PREAMBLE + Frame(FrameType.OK, 7).encode()
        transport = FramedTransport(Given(cut(sent, places)), Nowhere())
        assert await transport.receive() == [Frame(FrameType.OK, 7)]

    asyncio.run(scenario())


async def test_noise_without_end_is_given_up() -> None:
    reader = Given([b"x" * CHUNK] * 50)
    with pytest.raises(ProtocolError):
        await FramedTransport(reader, Nowhere()).receive()
    assert len(reader.pieces) >= 50 - 1 - MAX_NOISE // CHUNK - 1


async def test_more_data_than_the_window_is_refused_even_in_small_pieces() -> None:
    data = Frame(FrameType.DATA, 1, b"x" * 1000).encode()
    reader = Given([PREAMBLE, *[data] * (WINDOW // 1000 + 2)])
    transport = FramedTransport(reader, Nowhere())
    transport.expect()
    with pytest.raises(ProtocolError, match="more on stream 1"):
        await transport.receive()
    assert len(reader.pieces) <= 1


async def test_others_have_their_turn_between_thousands_of_tiny_messages() -> None:
    flood = Frame(FrameType.DATA, 1, b"x").encode() * 7000
    transport = FramedTransport(Given([PREAMBLE + flood + Frame(FrameType.OK, 7).encode()]), Nowhere())
    transport.expect()
    receiving = asyncio.create_task(transport.receive())
    turns = 0
    while not receiving.done():
        await asyncio.sleep(0)
        turns += 1
    assert await receiving == [Frame(FrameType.OK, 7)]
    assert turns >= 7000 // 256
