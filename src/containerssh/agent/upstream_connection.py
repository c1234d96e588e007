"""A connection that a process of upstream's forwarding helper carries."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

from containerssh.agent.upstream_packets import MAX_DATA, Packet, PacketType
from containerssh.core.flag import Flag
from containerssh.core.streams import ByteStream

_HELD = 256 * 1024
"""How many bytes of one connection wait for its reader before the helper has to."""


class Carrier(Protocol):
    """The helper, as its connections see it."""

    silence: float
    """Seconds without a byte after which a connection whose client has ended its input is done."""

    async def send(self, packet: Packet) -> None:
        """Raises ConnectionError: it has ended."""

    def accept(self, connection: Connection) -> bool:
        """Take an announced connection; False: it has gone meanwhile."""

    def refuse(self, connection: Connection) -> None:
        """Refuse an announced connection."""

    def close_connection(self, connection: Connection) -> None:
        """Close it both ways."""

    def was_put(self, count: int) -> None:
        """So many bytes wait for their reader."""

    def was_read(self, count: int) -> None:
        """So many bytes wait no longer."""


class Connection(ByteStream):
    """A connection that a helper carries, once it was answered with success."""

    def __init__(self, helper: Carrier, identity: int) -> None:
        self.identity = identity
        self.answered: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        """Whether the other side has taken it; only for connections that we announced."""
        self._gone = self.left = Flag()
        self.held = 0
        self.settled = False
        """Whether one side has taken what the other announced."""
        self.helper = helper
        """Who carries it."""
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
        """Close it both ways; safe to call twice."""
        if not (self._over or self._closing):
            self._closing = True
            self._drop()
            self.helper.close_connection(self)
        elif self._over:
            self._drop()
        self._arrived.set()

    def put(self, data: bytes) -> None:
        """These came."""
        # An empty piece would look like the end, and wait for its reader beyond any limit.
        if not data or self._over or self._closing:
            return
        self._pieces.append(data)
        self._count += len(data)
        self.held += len(data)
        self.helper.was_put(len(data))
        self._arrived.set()

    def end(self, error: ConnectionError | None = None) -> None:
        """Nothing follows: the other side has closed it, or with *error* it is lost."""
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
        """Whether it takes nothing any more."""
        return self._over or self._closing

    @property
    def has_room(self) -> bool:
        """Whether its reader may be behind by one more packet."""
        return self.held <= _HELD

    def _listen(self) -> None:
        self._listening = asyncio.get_running_loop().call_later(self.helper.silence, self._judge, self._count)

    def _judge(self, before: int) -> None:
        """The client's end cannot be passed on but by closing: done when nothing more seems to come."""
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
