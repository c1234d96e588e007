"""The engine's frames: taken apart wherever they are cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containerssh.backends.docker.frames import STDERR, STDOUT, Demultiplexer
from containerssh.core.errors import ProtocolError


def frame(stream: int, data: bytes) -> bytes:
    return bytes([stream, 0, 0, 0]) + len(data).to_bytes(4, "big") + data


@given(
    st.lists(st.tuples(st.sampled_from([STDOUT, STDERR]), st.binary(max_size=50)), max_size=6),
    st.lists(st.integers(0, 300), max_size=5),
)
def test_frames_arrive_whole_wherever_the_bytes_are_cut(frames: list[tuple[int, bytes]], cuts: list[int]) -> None:
    data = b"".join(frame(*one) for one in frames)
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    demultiplexer = Demultiplexer()
    got = {STDOUT: b"", STDERR: b""}
    for start, end in pairwise(places):
        for stream, piece in demultiplexer.feed(data[start:end]):
            got[stream] += piece
    for stream, whole in got.items():
        assert whole == b"".join(piece for number, piece in frames if number == stream)
    assert demultiplexer.between_frames


@pytest.mark.parametrize("header", [b"\x03\0\0\0\0\0\0\1", b"\xff\0\0\0\0\0\0\1", b"\x01\1\0\0\0\0\0\1"])
def test_a_frame_of_no_stream_is_refused(header: bytes) -> None:
    with pytest.raises(ProtocolError):
        list(Demultiplexer().feed(header + b"x"))


def test_a_huge_frame_is_passed_on_as_it_comes() -> None:
    demultiplexer = Demultiplexer()
    assert list(demultiplexer.feed(b"\x01\0\0\0\xff\xff\xff\xff" + b"abc")) == [(STDOUT, b"abc")]
    assert list(demultiplexer.feed(b"def")) == [(STDOUT, b"def")]
    assert not demultiplexer.between_frames


@given(st.binary(max_size=200))
def test_any_bytes_are_frames_or_a_protocol_error(data: bytes) -> None:
    try:
        pieces = list(Demultiplexer().feed(data))
    except ProtocolError:
        return
    assert sum(len(piece) for _, piece in pieces) <= len(data)
