"""The own side of a helper process (:mod:`.helper`): a child for each socket that the gateway passes on.

It imports little, for a child is a copy of it.
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
"""The largest message between a helper and the gateway, in bytes; a socket of Linux takes more."""

_CPU_SECONDS = 20


def begin(descriptor: int) -> socket.socket:
    """The socket to the gateway, once this process is set up; a greeting must go out on it."""
    os.set_inheritable(descriptor, False)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the gateway decides when we end
    # A core would hold passwords.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return socket.socket(fileno=descriptor)


def serve(gateway: socket.socket, attempt: Callable[[socket.socket], None], *, children: int, memory: int) -> None:
    """
    Give each socket to a child that calls *attempt*, until the gateway hangs up.

    The gateway has at most so many *children* at a time; each may take so many bytes of address space (*memory*).
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
            # One whose answer has gone out may be counted still, although the gateway counts it no more.
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
    """A call that may block ends with this process, after so many *seconds* or when the gateway hangs up."""
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
    """The gateway's next order; the process ends where none comes any more."""
    data = gateway.recv(PACKET)
    if not data:
        os._exit(0)
    order: dict[str, Any] = json.loads(data)
    return order


def send(gateway: socket.socket, answer: Mapping[str, Any]) -> None:
    """Answer the gateway."""
    gateway.sendall(json.dumps(answer).encode())
