"""The two protocols that carry a program's streams, fed by what a server might send."""

from __future__ import annotations

import zlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containerssh.backends.kubernetes import spdy, websocket
from containerssh.backends.kubernetes.channels import (
    RESIZE,
    STATUS,
    STDERR,
    STDIN,
    STDOUT,
    Closed,
    Codec,
    Ended,
    Happening,
    Piece,
    Reply,
)
from containerssh.backends.kubernetes.spdy import DICTIONARY, SPDYCodec
from containerssh.backends.kubernetes.websocket import WebSocketCodec
from containerssh.core.errors import ProtocolError

CODECS = (WebSocketCodec, lambda: SPDYCodec(stdin=True, stderr=True, tty=False))


def frame(opcode: int, payload: bytes, *, final: bool = True) -> bytes:
    """A frame as a server sends it."""
    length = len(payload)
    size = bytes((length,)) if length < 126 else bytes((126,)) + length.to_bytes(2, "big")
    return bytes((0x80 * final | opcode,)) + size + payload


def settled(happenings: list[Happening]) -> list[Happening]:
    """The same, with neighbouring pieces of a channel joined."""
    joined: list[Happening] = []
    for one in happenings:
        last = joined[-1] if joined else None
        if isinstance(one, Piece) and isinstance(last, Piece) and one.channel == last.channel:
            joined[-1] = Piece(one.channel, last.data + one.data)
        else:
            joined.append(one)
    return joined


def fed(codec: Codec, data: bytes, cuts: list[int]) -> list[Happening]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    pieces = [data[start:end] for start, end in pairwise(places)]
    return [happening for piece in pieces for happening in codec.feed(piece)]


CUTS = st.lists(st.integers(0, 1 << 20), max_size=8)


@given(st.lists(st.tuples(st.sampled_from([STDOUT, STDERR, STATUS]), st.binary(max_size=300)), max_size=8), CUTS)
def test_websocket_messages_arrive_however_they_are_cut(messages: list[tuple[int, bytes]], cuts: list[int]) -> None:
    data = b"".join(frame(2, bytes((channel,)) + payload) for channel, payload in messages) + frame(8, b"\x03\xe8")
    wanted: list[Happening] = [Piece(channel, payload) for channel, payload in messages if payload]
    assert settled(fed(WebSocketCodec(), data, cuts)) == settled([*wanted, Closed()])


@given(CUTS)
def test_websocket_fragments_pings_and_closed_channels_are_understood(cuts: list[int]) -> None:
    data = (
        frame(2, b"", final=False)
        + frame(9, b"ping")
        + frame(0, b"\x01he", final=False)
        + frame(10, b"")
        + frame(0, b"llo")
        + frame(2, b"\xff\x01")
        + frame(8, b"\x03\xf3bad\nthing")
    )
    found = settled(fed(WebSocketCodec(), data, cuts))
    replies = [one for one in found if isinstance(one, Reply)]
    assert [one for one in found if not isinstance(one, Reply)] == [
        Piece(STDOUT, b"hello"),
        Ended(STDOUT),
        Closed("it closed the connection with code 1011 bad thing"),
    ]
    (reply,) = replies
    assert reply.data[:2] == b"\x8a\x84"
    assert websocket.masked(reply.data[6:], reply.data[2:6]) == b"ping"


@pytest.mark.parametrize(
    "data",
    [
        frame(1, b"\x01text"),
        frame(2, b""),
        frame(2, b"\x07"),
        frame(0, b"\x01late"),
        frame(2, b"\x01", final=False) + frame(2, b"\x01"),
        frame(9, b"x", final=False),
        frame(9, b"x" * 126),
        frame(11, b""),
        frame(3, b""),
        b"\xc2\x01\x01",
        b"\x82\x81abcd\x01",
        b"\x82\x7f" + b"\xff" * 8,
    ],
)
def test_websocket_nonsense_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        list(WebSocketCodec().feed(data))


@given(st.binary(max_size=1000), st.binary(min_size=4, max_size=4))
def test_a_mask_is_laid_over_every_byte(payload: bytes, mask: bytes) -> None:
    wanted = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
    assert websocket.masked(payload, mask) == websocket.masked_slowly(payload, mask) == wanted


@pytest.mark.parametrize("length", [0, 1, 123, 124, 125, 126, 127, 65_534, 65_535, 65_536])
def test_a_websocket_message_says_its_length(length: int) -> None:
    message = WebSocketCodec().data(STDIN, bytes(length))
    assert message[0] == 0x82
    size, start = message[1] & 0x7F, 2
    if size >= 126:
        start += 2 if size == 126 else 8
        size = int.from_bytes(message[2:start], "big")
    assert message[1] & 0x80
    assert (size, len(message)) == (length + 1, start + 4 + length + 1)


@given(st.sampled_from(CODECS), st.lists(st.binary(max_size=200), max_size=10))
def test_noise_ends_in_an_error_or_in_nothing(make: type[WebSocketCodec], pieces: list[bytes]) -> None:
    codec = make()
    try:
        for piece in pieces:
            for happening in codec.feed(piece):
                if isinstance(happening, Piece):
                    assert len(happening.data) <= len(piece)
    except ProtocolError:
        pass
    held = {name: value for name, value in vars(codec).items() if isinstance(value, bytes | bytearray)}
    assert sum(map(len, held.values())) < 300


def spdy_data(stream: int, payload: bytes, *, final: bool = False) -> bytes:
    return stream.to_bytes(4, "big") + bytes((final,)) + len(payload).to_bytes(3, "big") + payload


def spdy_control(kind: int, payload: bytes, flags: int = 0) -> bytes:
    return b"\x80\x03" + kind.to_bytes(2, "big") + bytes((flags,)) + len(payload).to_bytes(3, "big") + payload


def test_spdy_opens_a_stream_for_each_channel() -> None:
    data = SPDYCodec(stdin=True, stderr=True, tty=True).opening()
    unpack = zlib.decompressobj(zdict=DICTIONARY)
    found = {}
    while data[:4] == b"\x80\x03\x00\x01":
        length = int.from_bytes(data[5:8], "big")
        stream, block = int.from_bytes(data[8:12], "big"), unpack.decompress(data[18 : 8 + length])
        found[stream] = block.removeprefix(b"\0\0\0\x01\0\0\0\x0astreamtype\0\0\0")[1:].decode()
        data = data[8 + length :]
    assert found == {1: "error", 3: "stdin", 5: "stdout", 7: "resize"}
    assert data == spdy_data(1, b"", final=True)


@given(CUTS)
def test_spdy_frames_arrive_however_they_are_cut(cuts: list[int]) -> None:
    data = (
        spdy_control(2, b"\0\0\0\x05" + b"x" * 40)
        + spdy_data(5, b"hello")
        + spdy_control(6, b"\0\0\0\x02")
        + spdy_control(6, b"\0\0\0\x01")
        + spdy_control(9, b"\0" * 8)
        + spdy_data(7, b"oops", final=True)
        + spdy_data(1, b"status", final=True)
        + spdy_control(3, b"\0\0\0\x03\0\0\0\x05")
        + spdy_data(5, b"", final=True)
    )
    assert settled(fed(SPDYCodec(stdin=True, stderr=True, tty=False), data, cuts)) == [
        Piece(STDOUT, b"hello"),
        Reply(spdy_control(6, b"\0\0\0\x02")),
        Piece(STDERR, b"oops"),
        Ended(STDERR),
        Piece(STATUS, b"status"),
        Ended(STATUS),
        Ended(STDOUT),
        Closed(),
    ]


@pytest.mark.parametrize(
    "data",
    [
        spdy_control(1, b"\0" * 10),
        spdy_data(3, b"to our input"),
        spdy_data(9, b"nowhere"),
        b"\x80\x02\x00\x06\0\0\0\x04\0\0\0\x02",
    ],
)
def test_spdy_nonsense_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        list(SPDYCodec(stdin=True, stderr=True, tty=False).feed(data))


def test_both_protocols_say_that_the_input_ends() -> None:
    message = WebSocketCodec().end(STDIN)
    assert websocket.masked(message[6:], message[2:6]) == b"\xff\x00"
    assert SPDYCodec(stdin=True, stderr=False, tty=True).end(STDIN) == b"\0\0\0\x03\x01\0\0\0"
    assert SPDYCodec(stdin=False, stderr=False, tty=True).data(RESIZE, b"{}") == b"\0\0\0\x05\0\0\0\x02{}"
    assert spdy.PROTOCOL != websocket.PROTOCOL
