"""systemd's protocols: sd_notify(3), the watchdog, socket activation (sd_listen_fds(3))."""

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
"""
The environment variable that identifies a worker to itself: ``number/count``, and the descriptors of the life pipe, the
shared counts, the shared metrics and the listening sockets.
"""

PEER_CREDENTIALS = socket.CMSG_SPACE(struct.calcsize("3i"))
"""The size of the ancillary data that :func:`sender` reads."""

_FIRST_SOCKET = 3


@dataclass(frozen=True)
class Notifier:
    """Reports the state of this process to the service manager; without an address it does nothing."""

    address: str = ""
    """The path of a datagram socket; a leading ``@`` denotes the abstract namespace."""
    watchdog: timedelta | None = None
    """The watchdog interval: a notification is due at least this often."""

    @classmethod
    def of(cls, environment: MutableMapping[str, str]) -> Notifier:
        """Read the variables of *environment* and remove them, so that child processes do not use them."""
        address = environment.pop("NOTIFY_SOCKET", "")
        microseconds = environment.pop("WATCHDOG_USEC", "")
        pid = environment.pop("WATCHDOG_PID", "") or str(os.getpid())
        watched = address and microseconds.isdecimal() and int(microseconds) > 0 and pid == str(os.getpid())
        return cls(address, timedelta(microseconds=int(microseconds)) if watched else None)

    def ready(self, status: str) -> None:
        """Report that the server is ready, initially or after a reload."""
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """Report a reload in progress; :meth:`ready` follows."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", "STATUS=Reading the configuration")

    def stopping(self, within: timedelta) -> None:
        """Report that the server is stopping, which may take up to *within*."""
        microseconds = int(within.total_seconds() * 1_000_000)
        self._send("STOPPING=1", f"EXTEND_TIMEOUT_USEC={microseconds}", "STATUS=Waiting for sessions to end")

    def alive(self) -> None:
        """Notify the watchdog."""
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if not self.address:
            return
        address = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        # A missing receiver or a full queue must neither stop nor block the server.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.setblocking(False)
            sock.sendto("\n".join(lines).encode(), address)


@dataclass(frozen=True)
class WorkerPlace:
    """The position of this process among several that share a port."""

    number: int = 0
    count: int = 1
    life: int | None = None
    """A descriptor that becomes readable when the supervisor exits."""
    counts: int | None = None
    """The descriptor of the shared table of connection counts."""
    metrics: int | None = None
    """The descriptor of the shared metrics."""

    @property
    def is_first(self) -> bool:
        """Whether this process performs the tasks that only one process may perform."""
        return self.number == 0


def worker_place(environment: MutableMapping[str, str]) -> tuple[WorkerPlace, list[socket.socket]]:
    """
    The position of this worker and its listening sockets, read from *environment*; the variables are removed from it.

    Raises:
        OSError, ValueError: the variable was not set by a supervisor.
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
    """The process id of a datagram's sender, from the kernel's credentials; 0 if there are none."""
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
            return int(struct.unpack("3i", data[: struct.calcsize("3i")])[0])
    return 0


def inherited_sockets(environment: MutableMapping[str, str]) -> list[socket.socket]:
    """
    The listening sockets that systemd passed, according to *environment*; the variables are removed from it. The caller
    closes them.

    Raises:
        OSError: a descriptor is not a listening TCP socket.
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
