"""Clients whose host is gone: found with TCP's own means, so that a client that only sleeps is left in peace.

The kernel asks hosts that are silent (keepalive), but goes on for a quarter of an hour where something was sent and not
confirmed; its switch for that, TCP_USER_TIMEOUT, would also cut clients that are alive and read nothing for a while, a
suspended ``ssh`` for one. Their hosts do answer, and that is what is looked at here.
"""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from datetime import timedelta

_PROBES = 4
# struct tcp_info (linux/tcp.h): retransmits and probes without an answer, and milliseconds since the last confirmation.
_UNANSWERED = struct.Struct("=2xBB")
_LAST_ACK_RECEIVED = struct.Struct("=56xI")
_UNANSWERED_MIN = 2
# Bytes that the peer has confirmed, and that it has sent.
_TRAFFIC = struct.Struct("=120xQQ")


def watch(sock: socket.socket, limit: timedelta) -> None:
    """Let the kernel ask whether the peer's host is still there, so that it notices within *limit* that it is not."""
    seconds = limit.total_seconds()
    if not seconds or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    # A third of the time in silence, the rest for the questions.
    idle = max(1, int(seconds / 3))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, int((seconds - idle) / _PROBES)))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _PROBES)


def acknowledge(sock: socket.socket) -> None:
    """
    Confirm at once what was read, instead of with what is sent next or after the kernel's 40 ms.

    OpenSSH's client turns Nagle's algorithm off only for terminals: a packet that follows another without an answer in
    between, as twice in each key exchange, waits until the one before is confirmed.
    """
    with suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def traffic(sock: socket.socket) -> int:
    """The bytes of the connection in both directions; 0 where the kernel does not tell."""
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TRAFFIC.size)
    except OSError:
        return 0
    return sum(_TRAFFIC.unpack(info)) if len(info) == _TRAFFIC.size else 0


def is_gone(sock: socket.socket, limit: timedelta) -> bool:
    """Whether the peer's host has left everything unanswered for *limit*."""
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_ACK_RECEIVED.size)
    except OSError:
        return False
    if len(info) < _LAST_ACK_RECEIVED.size:
        return False
    retransmits, probes = _UNANSWERED.unpack_from(info)
    (last_ack,) = _LAST_ACK_RECEIVED.unpack_from(info)
    return bool(retransmits + probes >= _UNANSWERED_MIN and last_ack >= limit.total_seconds() * 1000)
