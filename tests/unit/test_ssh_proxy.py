"""The PROXY protocol's headers: good ones, broken ones, any bytes at all."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import struct
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containerssh.core.codes import SSHCode
from containerssh.core.errors import ProtocolError
from containerssh.core.metadata import SocketAddress
from containerssh.ssh.proxy import SIGNATURE, V1_MAX, V2_MAX, missing, parse, read_header

LIMIT = timedelta(seconds=5)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def v2(family: int, body: bytes, command: int = 0x21) -> bytes:
    return SIGNATURE + bytes([command, family]) + struct.pack(">H", len(body)) + body


def read(stream: bytes) -> tuple[SocketAddress | None, bytes]:
    """What the reader makes of *stream*, and what it leaves of it."""
    header = b""
    while more := missing(header):
        if not stream:
            raise ProtocolError(SSHCode.PROXY_REFUSED, "cut short")
        header, stream = header + stream[:more], stream[more:]
    return parse(header), stream


ports = st.integers(0, 65535)


@given(st.ip_addresses(), ports, st.ip_addresses(), ports, st.binary(max_size=200))
def test_version_1_gives_the_clients_address_and_leaves_what_follows(
    source: Address, port: int, other: Address, other_port: int, after: bytes
) -> None:
    if source.version != other.version:
        other = source
    header = f"PROXY TCP{source.version} {source} {other} {port} {other_port}\r\n".encode()
    if b"%" in header or len(header) > V1_MAX:
        return
    assert read(header + after) == (SocketAddress.of(str(source), port), after)


@given(st.ip_addresses(), ports, st.binary(max_size=300), st.binary(max_size=200))
def test_version_2_gives_the_clients_address_and_passes_over_everything_else(
    source: Address, port: int, more: bytes, after: bytes
) -> None:
    family = 0x11 if source.version == 4 else 0x21
    body = source.packed + source.packed + struct.pack(">HH", port, 22) + more
    assert read(v2(family, body) + after) == (SocketAddress.of(str(ipaddress.ip_address(source.packed)), port), after)


def test_the_examples_of_the_specification_are_understood() -> None:
    assert read(b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n")[0] == SocketAddress(
        "255.255.255.255", 65535
    )
    longest = b"PROXY TCP6 " + b" ".join([b"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"] * 2) + b" 65535 65535\r\n"
    assert read(longest)[0] == SocketAddress("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 65535)
    worst = b"PROXY UNKNOWN " + b" ".join([b"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"] * 2) + b" 65535 65535\r\n"
    assert len(worst) == V1_MAX
    assert read(worst + b"SSH")[1] == b"SSH"


@pytest.mark.parametrize(
    "header",
    [
        b"PROXY UNKNOWN\r\n",
        b"PROXY UNKNOWN what ever\r\n",
        v2(0x00, b""),
        v2(0x00, b"anything"),
        v2(0x31, bytes(216)),
        v2(0x11, bytes(12), command=0x20),
        v2(0x77, b"LOCAL: it does not matter", command=0x20),
    ],
)
def test_a_proxy_that_speaks_for_itself_keeps_its_own_address(header: bytes) -> None:
    assert read(header + b"SSH-2.0-x\r\n") == (None, b"SSH-2.0-x\r\n")


@pytest.mark.parametrize(
    "header",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"GET / HTTP/1.1\r\n",
        b"proxy TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
        b"PROXY\r\n" + bytes(20),
        b"PROXY \r\n" + bytes(20),
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
        b"PROXY TCP4  1.2.3.4 1.2.3.4 1 2\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 -1 2\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 \u0661 2\r\n".encode(),
        b"PROXY TCP4 1.2.3 1.2.3.4 1 2\r\n",
        b"PROXY TCP4 01.2.3.4 1.2.3.4 1 2\r\n",
        b"PROXY TCP4 ::1 ::1 1 2\r\n",
        b"PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n",
        b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
        b"PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n",
        b"PROXY UNKNOWN " + b"x" * V1_MAX + b"\r\n",
        SIGNATURE + bytes([0x11, 0x11, 0, 12]) + bytes(12),
        v2(0x11, bytes(12), command=0x22),
        v2(0x12, bytes(12)),
        v2(0x99, bytes(12)),
        v2(0x11, bytes(11)),
        v2(0x21, bytes(35)),
        v2(0x11, bytes(V2_MAX + 1)),
        SIGNATURE[:-1] + b"!" + bytes(20),
    ],
)
def test_a_malformed_header_is_refused(header: bytes) -> None:
    with pytest.raises(ProtocolError):
        read(header)


@given(st.binary(max_size=400) | st.binary(max_size=200).map(lambda rest: SIGNATURE + rest))
def test_any_bytes_are_refused_or_understood_within_the_limits(stream: bytes) -> None:
    try:
        _, left = read(stream)
    except ProtocolError:
        return
    assert len(stream) - len(left) <= 16 + V2_MAX


@given(st.text(alphabet="PROXYTCUNKW46 .:0123456789abcdef\r\n", max_size=130))
def test_any_line_is_refused_or_understood_within_the_limits(text: str) -> None:
    stream = ("PROXY " + text).encode()
    try:
        _, left = read(stream)
    except ProtocolError:
        return
    header = stream[: len(stream) - len(left)]
    assert len(header) <= V1_MAX
    assert header.endswith(b"\r\n")


async def test_a_header_that_comes_byte_by_byte_is_read_and_nothing_after_it() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        reading = asyncio.create_task(read_header(ours, within=LIMIT))
        for byte in b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 22\r\nSSH-2.0-x":
            theirs.send(bytes([byte]))
            await asyncio.sleep(0)
        assert await reading == SocketAddress("192.0.2.7", 4711)
        assert ours.recv(100) == b"SSH-2.0-x"


@pytest.mark.parametrize("sent", [b"", b"PROX", SIGNATURE, v2(0x11, bytes(12))[:-1]])
async def test_a_header_that_is_late_or_cut_short_is_refused(sent: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.send(sent)
        with pytest.raises(ProtocolError, match="in time"):
            await read_header(ours, within=timedelta(seconds=0.05))
        theirs.send(sent[:0])
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(ProtocolError):
            await read_header(ours, within=LIMIT)
