"""What systemd is told, and gives: sd_notify(3), the watchdog, sockets it listens on (sd_listen_fds(3))."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import MutableMapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

WORKER = "CONTAINERSSH_WORKER"
"""The variable by which a supervisor tells a worker who it is: ``number/of-how-many``, and the descriptors of its
life, its counts, its metrics and its sockets."""

PEER_CREDENTIALS = socket.CMSG_SPACE(struct.calcsize("3i"))
"""Room for what :func:`sender` reads."""

_FIRST_SOCKET = 3


@dataclass(frozen=True)
class Notifier:
    """Sends the state of this process to whoever started it; without an address it does nothing."""

    address: str = ""
    """The path of a datagram socket; with ``@`` first it lies in the abstract name space."""
    watchdog: timedelta | None = None
    """Within which time a sign of life is awaited, again and again."""

    @classmethod
    def of(cls, environment: MutableMapping[str, str]) -> Notifier:
        """What *environment* says; it is taken out, so that no child takes itself for the service."""
        address = environment.pop("NOTIFY_SOCKET", "")
        microseconds = environment.pop("WATCHDOG_USEC", "")
        pid = environment.pop("WATCHDOG_PID", "") or str(os.getpid())
        watched = address and microseconds.isdecimal() and int(microseconds) > 0 and pid == str(os.getpid())
        return cls(address, timedelta(microseconds=int(microseconds)) if watched else None)

    def ready(self, status: str) -> None:
        """The server serves; also after a reload."""
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """The configuration is read again; :meth:`ready` follows."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", "STATUS=Reading the configuration")

    def stopping(self, within: timedelta) -> None:
        """The server stops, and may take as long as *within*."""
        microseconds = int(within.total_seconds() * 1_000_000)
        self._send("STOPPING=1", f"EXTEND_TIMEOUT_USEC={microseconds}", "STATUS=Waiting for sessions to end")

    def alive(self) -> None:
        """A sign of life."""
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if not self.address:
            return
        address = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        # Nobody listening is no reason to end, and a full queue none to wait.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.setblocking(False)
            sock.sendto("\n".join(lines).encode(), address)


@dataclass(frozen=True)
class WorkerPlace:
    """Which of several processes on one port this is."""

    number: int = 0
    count: int = 1
    life: int | None = None
    """A descriptor that is readable once the supervisor is gone."""
    counts: int | None = None
    """The descriptor of the table in which the processes count connections together."""
    metrics: int | None = None
    """The descriptor of the memory in which they tell each other what they have counted for metrics."""

    @property
    def is_first(self) -> bool:
        """Whether this process does what only one can."""
        return self.number == 0


def worker_place(environment: MutableMapping[str, str]) -> tuple[WorkerPlace, list[socket.socket]]:
    """
    Which worker this process is, and the listening sockets that it was given; that is taken out of *environment*.

    Raises:
        OSError, ValueError: nobody but a supervisor should set this.
    """
    text = environment.pop(WORKER, "")
    if not text:
        return WorkerPlace(), inherited_sockets(environment)
    place, life, counts, metrics, descriptors = text.split(" ")
    number, _, count = place.partition("/")
    for descriptor in (life, counts, metrics):
        os.set_inheritable(int(descriptor), False)
    worker = WorkerPlace(int(number), int(count), int(life), int(counts), int(metrics))
    return worker, _sockets([int(one) for one in descriptors.split(",")])


def sender(ancillary: Sequence[tuple[int, int, bytes]]) -> int:
    """The process id of who sent a datagram, as the kernel says; 0 if it says nothing."""
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
            return int(struct.unpack("3i", data[: struct.calcsize("3i")])[0])
    return 0


def inherited_sockets(environment: MutableMapping[str, str]) -> list[socket.socket]:
    """
    The listening sockets that *environment* says are ours; that is taken out of it. Whoever calls closes them.

    Raises:
        OSError: a descriptor is no listening stream socket.
    """
    pid, count = environment.pop("LISTEN_PID", ""), environment.pop("LISTEN_FDS", "")
    environment.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    return _sockets(range(_FIRST_SOCKET, _FIRST_SOCKET + int(count)))


def _sockets(descriptors: Sequence[int]) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    try:
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
            sock = socket.socket(fileno=descriptor)
            sockets.append(sock)
            _check(sock)
            sock.setblocking(False)
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _check(sock: socket.socket) -> None:
    if sock.type != socket.SOCK_STREAM or sock.family not in (socket.AF_INET, socket.AF_INET6):
        raise OSError(f"inherited descriptor {sock.fileno()} is not a TCP socket")
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise OSError(f"inherited descriptor {sock.fileno()} does not listen: the socket unit needs Accept=no")
