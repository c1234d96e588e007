"""The helper's side of :mod:`.helper`: forks a child for each socket that the gateway passes.

It imports little, because each child is a copy of it.
"""

from __future__ import annotations

import fcntl
import json
import os
import resource
import select
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

PACKET = 160 * 1024
"""The largest message between a helper and the gateway, in bytes; Linux sockets permit more."""

_CPU_SECONDS = 20


def begin(descriptor: int) -> socket.socket:
    """Set this process up and return the socket to the gateway; the caller sends a greeting on it."""
    os.set_inheritable(descriptor, False)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the gateway decides when this process ends
    # A core dump would contain passwords.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return socket.socket(fileno=descriptor)


def serve(gateway: socket.socket, attempt: Callable[[socket.socket], None], *, children: int, memory: int) -> None:
    """
    Fork a child that calls *attempt* for each socket, until the gateway closes the connection.

    The gateway uses at most *children* at a time; each is limited to *memory* bytes of address space.
    """
    count = 0
    while True:
        data, passed, _, _ = socket.recv_fds(gateway, 1, 1)
        if not data:
            return
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                count -= 1
        with socket.socket(fileno=passed[0]) as ours:
            # A child that has sent its answer may still be counted here, although the gateway no longer counts it.
            if count >= 2 * children:
                continue
            if os.fork() == 0:
                gateway.close()
                _child(ours, attempt, memory)
            count += 1


def _child(gateway: socket.socket, attempt: Callable[[socket.socket], None], memory: int) -> None:
    status = 1
    try:
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CPU, (_CPU_SECONDS, _CPU_SECONDS))
        signal.signal(signal.SIGIO, signal.SIG_IGN)
        attempt(gateway)
        status = 0
    finally:
        os._exit(status)


@contextmanager
def bounded(gateway: socket.socket, seconds: float) -> Iterator[None]:
    """End this process during a blocking call, after *seconds* or when the gateway closes the connection."""
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(gateway, fcntl.F_SETOWN, os.getpid())
    flags = fcntl.fcntl(gateway, fcntl.F_GETFL)
    fcntl.fcntl(gateway, fcntl.F_SETFL, flags | os.O_ASYNC)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    poll = select.poll()
    poll.register(gateway, select.POLLHUP)
    if poll.poll(0):
        os._exit(1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        fcntl.fcntl(gateway, fcntl.F_SETFL, flags)
        signal.signal(signal.SIGIO, signal.SIG_IGN)


def receive(gateway: socket.socket) -> dict[str, Any]:
    """The gateway's next order; ends the process if there are no more."""
    data = gateway.recv(PACKET)
    if not data:
        os._exit(0)
    order: dict[str, Any] = json.loads(data)
    return order


def send(gateway: socket.socket, answer: Mapping[str, Any]) -> None:
    """Answer the gateway."""
    gateway.sendall(json.dumps(answer).encode())
