"""Detection of clients whose host is unreachable, by TCP alone, so that suspended clients are not disconnected.

TCP keepalive probes idle hosts, but a connection with unacknowledged data lives on for a quarter of an hour.
TCP_USER_TIMEOUT would also close connections of clients that are alive but read nothing for a while, such as a
suspended ``ssh``. Their hosts still acknowledge probes, which TCP_INFO shows.
"""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from datetime import timedelta

_PROBES = 4
# struct tcp_info (linux/tcp.h): unanswered retransmits and probes, and milliseconds since the last acknowledgement.
_UNANSWERED = struct.Struct("=2xBB")
_LAST_ACK_RECEIVED = struct.Struct("=56xI")
_UNANSWERED_MIN = 2
# Bytes that the peer has acknowledged, and that it has sent.
_TRAFFIC = struct.Struct("=120xQQ")


def watch(sock: socket.socket, limit: timedelta) -> None:
    """Enable TCP keepalive on *sock* so that an unreachable peer is detected within *limit*."""
    seconds = limit.total_seconds()
    if not seconds or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    # A third of the time idle, the rest for the probes.
    idle = max(1, int(seconds / 3))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, int((seconds - idle) / _PROBES)))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _PROBES)


def acknowledge(sock: socket.socket) -> None:
    """
    Acknowledge received data at once (TCP_QUICKACK), instead of with the next data sent or after the kernel's 40 ms.

    OpenSSH's client disables Nagle's algorithm only for terminals: a packet that follows another without an answer in
    between, as happens twice in each key exchange, waits for the acknowledgement of the first.
    """
    with suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def traffic(sock: socket.socket) -> int:
    """The number of bytes transferred in both directions; 0 if the kernel does not report it."""
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TRAFFIC.size)
    except OSError:
        return 0
    return sum(_TRAFFIC.unpack(info)) if len(info) == _TRAFFIC.size else 0


def is_gone(sock: socket.socket, limit: timedelta) -> bool:
    """Whether the peer's host has not responded for *limit*."""
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_ACK_RECEIVED.size)
    except OSError:
        return False
    if len(info) < _LAST_ACK_RECEIVED.size:
        return False
    retransmits, probes = _UNANSWERED.unpack_from(info)
    (last_ack,) = _LAST_ACK_RECEIVED.unpack_from(info)
    return bool(retransmits + probes >= _UNANSWERED_MIN and last_ack >= limit.total_seconds() * 1000)
