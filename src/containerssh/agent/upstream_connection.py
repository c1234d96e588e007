"""A connection carried by a process of upstream's forwarding helper."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

from containerssh.agent.upstream_packets import MAX_DATA, Packet, PacketType
from containerssh.core.flag import Flag
from containerssh.core.streams import ByteStream

_HELD = 256 * 1024
"""The maximum of unread bytes of a connection; the helper must then wait."""


class Carrier(Protocol):
    """The interface of a helper to its connections."""

    silence: float
    """The seconds without data after which a connection is closed whose client has ended its input."""

    async def send(self, packet: Packet) -> None:
        """Send a packet. Raises ConnectionError if the helper has ended."""

    def accept(self, connection: Connection) -> bool:
        """Accept an announced connection; False if it has been closed meanwhile."""

    def refuse(self, connection: Connection) -> None:
        """Refuse an announced connection."""

    def close_connection(self, connection: Connection) -> None:
        """Close a connection in both directions."""

    def was_put(self, count: int) -> None:
        """Account for *count* bytes that wait for their reader."""

    def was_read(self, count: int) -> None:
        """Account for *count* bytes that have been read."""


class Connection(ByteStream):
    """A connection carried by a helper, once it was answered with success."""

    def __init__(self, helper: Carrier, identity: int) -> None:
        self.identity = identity
        self.answered: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        """Whether the other side has accepted it; only for connections announced by this side."""
        self._gone = self.left = Flag()
        self.held = 0
        self.settled = False
        """Whether the announced connection has been accepted."""
        self.helper = helper
        """The helper that carries this connection."""
        self._pieces: deque[bytes] = deque()
        self._arrived = Flag()
        self._count = 0
        self._over = False
        self._closing = False
        self._error: ConnectionError | None = None
        self._listening: asyncio.TimerHandle | None = None

    async def read(self) -> bytes:
        while not self._pieces:
            if self._closing and not self._over:
                raise ConnectionResetError("the stream was closed")
            if self._error is not None:
                raise type(self._error)(*self._error.args)
            if self._over:
                return b""
            self._arrived.clear()
            await self._arrived.wait()
        piece = self._pieces.popleft()
        self.held -= len(piece)
        self.helper.was_read(len(piece))
        return piece

    async def write(self, data: bytes) -> None:
        for start in range(0, len(data), MAX_DATA):
            if self._over or self._closing:
                raise self._error or ConnectionResetError("the connection in the container was closed")
            piece = data[start : start + MAX_DATA]
            await self.helper.send(Packet(PacketType.DATA, self.identity, piece))

    async def write_eof(self) -> None:
        if self._listening is None and not (self._over or self._closing):
            self._listen()

    async def close(self) -> None:
        """Close the connection in both directions. A second call does nothing."""
        if not (self._over or self._closing):
            self._closing = True
            self._drop()
            self.helper.close_connection(self)
        elif self._over:
            self._drop()
        self._arrived.set()

    def put(self, data: bytes) -> None:
        """Process received data."""
        # An empty piece would look like EOF, and would not count against the limit.
        if not data or self._over or self._closing:
            return
        self._pieces.append(data)
        self._count += len(data)
        self.held += len(data)
        self.helper.was_put(len(data))
        self._arrived.set()

    def end(self, error: ConnectionError | None = None) -> None:
        """The other side has closed the connection or, with *error*, it is lost."""
        if self._over:
            return
        self._over = True
        self._error = error
        if self._listening is not None:
            self._listening.cancel()
        if not self.answered.done():
            self.answered.set_result(False)
        self._gone.set()
        self._arrived.set()

    @property
    def is_over(self) -> bool:
        """Whether the connection accepts no more data."""
        return self._over or self._closing

    @property
    def has_room(self) -> bool:
        """Whether there is room for one more packet."""
        return self.held <= _HELD

    def _listen(self) -> None:
        self._listening = asyncio.get_running_loop().call_later(self.helper.silence, self._judge, self._count)

    def _judge(self, before: int) -> None:
        """Close the connection after the client's EOF once the other side is silent: the protocol cannot half-close."""
        if self._over or self._closing:
            return
        if self._count != before or self.held:
            self._listen()
            return
        self.helper.close_connection(self)
        self.end()

    def _drop(self) -> None:
        self._pieces.clear()
        self.helper.was_read(self.held)
        self.held = 0
