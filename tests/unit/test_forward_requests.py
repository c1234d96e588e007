"""Requests for forwards, from bytes to values: whatever the bytes, a value that can be used or a ProtocolError."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containerssh.core.errors import ProtocolError
from containerssh.core.requests import X11Request, to_wire
from containerssh.ssh import requests
from tests.support.packing import strings


def word(value: int) -> bytes:
    return value.to_bytes(4, "big")


def direct(host: bytes, port: int) -> bytes:
    return strings(host) + word(port) + strings(b"127.0.0.1") + word(5)


def x11(protocol: bytes, cookie: bytes, screen: int = 0) -> bytes:
    return b"\1" + strings(protocol) + strings(cookie) + word(screen)


def test_what_is_asked_for_is_understood() -> None:
    assert requests.parse_direct_tcp(direct(b"localhost", 80)) == ("localhost", 80)
    assert requests.parse_direct_unix(strings(b"/run/x") + strings(b"") + word(0)) == "/run/x"
    assert requests.parse_listen(strings(b"") + word(0), has_port=True) == (b"", 0)
    assert requests.parse_listen(strings(b"/x"), has_port=False) == (b"/x", 0)
    request = requests.parse_x11(x11(b"MIT-MAGIC-COOKIE-1", b"00FF", 2))
    assert request == X11Request(True, "MIT-MAGIC-COOKIE-1", "00FF", 2)
    assert "00FF" not in repr(request)


@pytest.mark.parametrize(
    "payload",
    [
        direct(b"", 80),
        direct(b"a\0b", 80),
        direct(b"a b", 80),
        direct(b"a\nb", 80),
        direct(b"x" * 1025, 80),
        direct(b"host", 0),
        direct(b"host", 65536),
        direct(b"host", 80) + b"x",
        direct(b"host", 80)[:-1],
    ],
)
def test_a_target_that_cannot_be_is_malformed(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        requests.parse_direct_tcp(payload)


@pytest.mark.parametrize("cookie", [b"0", b"xy", b"00 1", b"00" * 1025])
def test_a_cookie_that_cannot_be_is_not_repeated(cookie: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        requests.parse_x11(x11(b"MIT-MAGIC-COOKIE-1", cookie))
    assert cookie.decode() not in caught.value.explanation or len(cookie) < 3


@given(st.binary(max_size=200))
def test_whatever_the_bytes_are_the_values_can_be_used(payload: bytes) -> None:
    for parse in (requests.parse_direct_unix, lambda data: requests.parse_direct_tcp(data)[0]):
        try:
            name = to_wire(parse(payload))
        except ProtocolError:
            continue
        assert name
        assert b"\0" not in name
        assert len(name) <= requests.MOST_NAME
    for has_port in (True, False):
        try:
            address, port = requests.parse_listen(payload, has_port=has_port)
        except ProtocolError:
            continue
        assert b"\0" not in address
        assert 0 <= port <= 0xFFFF
        assert has_port or address
    try:
        request = requests.parse_x11(payload)
    except ProtocolError:
        return
    bytes.fromhex(request.cookie)
    assert request.protocol.isprintable()


@given(st.binary(min_size=1, max_size=100), st.integers(1, 65535))
def test_a_hosts_bytes_come_back_as_they_were_sent(host: bytes, port: int) -> None:
    try:
        found, number = requests.parse_direct_tcp(direct(host, port))
    except ProtocolError:
        assert any(byte <= 0x20 or byte == 0x7F for byte in host)
    else:
        assert (to_wire(found), number) == (host, port)
