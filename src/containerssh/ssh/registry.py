"""The connections that a server has at this moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from containerssh.ssh.admission import Door

if TYPE_CHECKING:
    from containerssh.ssh.connection import Connection


class Registry:
    """The connections of a server, and the door that they came through."""

    def __init__(self, door: Door) -> None:
        self.all: set[Connection] = set()
        self.door = door
        self.closed = False
        """Whether the server stops: nobody logs in any more."""

    def add(self, connection: Connection) -> None:
        self.all.add(connection)

    def remove(self, connection: Connection) -> None:
        self.all.discard(connection)
        self.door.left(connection.ticket)
