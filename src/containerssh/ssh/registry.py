"""The current connections of a server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from containerssh.ssh.admission import Door

if TYPE_CHECKING:
    from containerssh.ssh.connection import Connection


class Registry:
    """The connections of a server, and the admission limits that they count against."""

    def __init__(self, door: Door) -> None:
        self.all: set[Connection] = set()
        self.door = door
        self.closed = False
        """Whether the server is stopping: no more logins."""

    def add(self, connection: Connection) -> None:
        self.all.add(connection)

    def remove(self, connection: Connection) -> None:
        self.all.discard(connection)
        self.door.left(connection.ticket)
