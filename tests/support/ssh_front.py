"""A whole SSH front with the local backend, on a free port."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from typing import Any

import asyncssh

from containerssh.core.handlers import ServerHandler
from containerssh.core.messages import Code, Event, current_labels
from containerssh.core.metadata import SocketAddress
from containerssh.ssh.options import ServerOptions
from containerssh.ssh.server import SSHServer
from tests.support.local_backend import LocalBackend


@cache
def host_key(kind: str) -> str:
    """A host key's text; made once."""
    return asyncssh.generate_private_key(kind).export_private_key("openssh").decode()


@dataclass
class Log(logging.Handler):
    """What was logged, with the labels of its context."""

    lines: list[tuple[int, Event, dict[str, Any]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def emit(self, record: logging.LogRecord) -> None:
        if isinstance(record.msg, Event):
            self.lines.append((record.levelno, record.msg, {**current_labels(), **record.msg.labels}))

    def __contains__(self, code: object) -> bool:
        return any(event.code == code for _, event, _ in self.lines)

    def of(self, code: Code) -> list[tuple[Event, dict[str, Any]]]:
        """The lines with *code*, and all their labels."""
        return [(event, labels) for _, event, labels in self.lines if event.code == code]

    @property
    def errors(self) -> list[Event]:
        """Lines of level ERROR and above."""
        return [event for level, event, _ in self.lines if level >= logging.ERROR]

    __hash__ = object.__hash__


@dataclass
class Front:
    """A server that runs."""

    backend: LocalBackend
    addresses: Sequence[SocketAddress]
    log: Log
    server: SSHServer

    @property
    def port(self) -> int:
        return self.addresses[0].port


@contextmanager
def logged() -> Iterator[Log]:
    """Collect what containerssh logs."""
    log = Log()
    root = logging.getLogger("containerssh")
    before = root.level
    root.addHandler(log)
    root.setLevel(logging.DEBUG)
    try:
        yield log
    finally:
        root.removeHandler(log)
        root.setLevel(before)


@asynccontextmanager
async def serving(
    backend: LocalBackend | None = None,
    *,
    around: Callable[[ServerHandler], ServerHandler] = lambda inner: inner,
    **options: Any,
) -> AsyncIterator[Front]:
    """
    The server on 127.0.0.1 with an Ed25519 host key; *options* as of :class:`ServerOptions`, *around* adds a layer.
    """
    backend = backend or LocalBackend()
    settings = {
        "host_keys": [host_key("ssh-ed25519")],
        "host": "127.0.0.1",
        "port": 0,
        "shutdown_grace": timedelta(seconds=2),
        **options,
    }
    with logged() as log:
        server = SSHServer(around(backend), ServerOptions(**settings))
        async with server.serving() as listening:
            yield Front(backend, listening.addresses, log, server)
