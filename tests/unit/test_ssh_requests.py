"""Payloads of channel requests: what may arrive, and what only an attacker sends."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containerssh.core.errors import ProtocolError
from containerssh.core.requests import PtyRequest, WindowSize, to_wire
from containerssh.ssh import requests

PARSERS: list[Callable[[bytes], object]] = [
    requests.parse_env,
    requests.parse_pty,
    requests.parse_size,
    requests.parse_text,
    requests.parse_nothing,
    requests.parse_break,
]


def string(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def uint32(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(4, "big") for number in numbers)


@pytest.mark.parametrize("parse", PARSERS)
@given(payload=st.binary(max_size=200))
def test_any_bytes_give_a_value_or_a_protocol_error(parse: Callable[[bytes], object], payload: bytes) -> None:
    try:
        parse(payload)
    except ProtocolError:
        return


@given(text=st.binary(max_size=50).filter(lambda text: b"\0" not in text))
def test_texts_keep_every_byte(text: bytes) -> None:
    assert to_wire(requests.parse_text(string(text))) == text


@given(name=st.binary(min_size=1, max_size=20), value=st.binary(max_size=20))
def test_variables_keep_every_byte_or_are_refused(name: bytes, value: bytes) -> None:
    odd = any(byte in name for byte in b"=\0\r\n") or b"\0" in value
    payload = string(name) + string(value)
    if odd:
        with pytest.raises(ProtocolError):
            requests.parse_env(payload)
    else:
        env = requests.parse_env(payload)
        assert (to_wire(env.name), to_wire(env.value)) == (name, value)


def test_a_terminal_request_is_read() -> None:
    payload = string(b"xterm-256color") + uint32(80, 24, 640, 480) + string(b"\x35\0\0\0\x01\0")
    assert requests.parse_pty(payload) == PtyRequest(
        "xterm-256color", WindowSize(80, 24, 640, 480), b"\x35\0\0\0\x01\0"
    )


def test_sizes_that_no_terminal_has_are_cut() -> None:
    assert requests.parse_size(uint32(2**32 - 1, 24, 0, 2**31)) == WindowSize(65535, 24, 0, 65535)


@pytest.mark.parametrize("term", [b"xterm\x1b[31m", b"x\n", b"x" * 257])
def test_odd_terminal_types_are_refused(term: bytes) -> None:
    with pytest.raises(ProtocolError):
        requests.parse_pty(string(term) + uint32(80, 24, 0, 0) + string(b""))


@pytest.mark.parametrize("parse", PARSERS)
def test_bytes_that_are_left_over_are_refused(parse: Callable[[bytes], object]) -> None:
    with pytest.raises(ProtocolError):
        parse(string(b"A") + string(b"B") + uint32(*range(8)))
