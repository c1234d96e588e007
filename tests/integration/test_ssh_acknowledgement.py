"""TCP's own confirmations, which clients with Nagle's algorithm wait for in a handshake."""

from __future__ import annotations

import asyncio
import socket
import struct
import time

from tests.support.ssh_front import serving

_IGNORE = struct.pack(">IBBI", 12, 6, 2, 0) + bytes(6)
_UNACKED = struct.Struct("=24xI")
# The kernel's shortest delay is 40 ms (TCP_DELACK_MIN).
_AT_ONCE = 0.03


def _unconfirmed(sock: socket.socket) -> int:
    """Packets on their way (linux/tcp.h: tcpi_unacked)."""
    (count,) = _UNACKED.unpack(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _UNACKED.size))
    return int(count)


async def _confirmed_after(sock: socket.socket, data: bytes) -> float:
    """Seconds until the peer's host has confirmed *data*, to which there is no answer."""
    began = time.monotonic()
    sock.sendall(data)
    async with asyncio.timeout(10):
        while _unconfirmed(sock):  # noqa: ASYNC110  the kernel tells nobody
            await asyncio.sleep(0)
    return time.monotonic() - began


async def _first_confirmation(port: int) -> float:
    """The time for the first packet after the server has answered something: that turns its delays on."""
    loop = asyncio.get_running_loop()
    with socket.socket() as sock:
        sock.setblocking(False)
        await loop.sock_connect(sock, ("127.0.0.1", port))
        sock.sendall(b"SSH-2.0-test\r\n")
        received = b""
        while len(received) < 500:  # its version, and what it proposes
            received += await loop.sock_recv(sock, 65_536)
        return await _confirmed_after(sock, _IGNORE)


async def test_what_a_client_sends_before_it_is_logged_in_is_confirmed_at_once() -> None:
    async with serving() as server:
        # The best of some, since the machine may be busy.
        times = [await _first_confirmation(server.port) for _ in range(5)]
    assert min(times) < _AT_ONCE
