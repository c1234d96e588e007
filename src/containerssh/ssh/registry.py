"""The current connections of a server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from containerssh.ssh.admission import ConnectionLimiter

if TYPE_CHECKING:
    from containerssh.ssh.connection import Connection


class Registry:
    """The connections of a server, and the admission limits that they count against."""

    def __init__(self, limiter: ConnectionLimiter) -> None:
        self.all: set[Connection] = set()
        self.limiter = limiter
        self.closed = False
        """Whether the server is stopping: no more logins."""

    def add(self, connection: Connection) -> None:
        self.all.add(connection)

    def remove(self, connection: Connection) -> None:
        self.all.discard(connection)
        self.limiter.left(connection.ticket)
