"""One process of upstream's forwarding helper in the container.

The helper is under the guest's control; its misbehaviour only affects the connections that it carries. The protocol has
no flow control: a connection that is not read eventually blocks the others of the same helper, in both directions. It
cannot half-close a connection either.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from containerssh.agent.codec import MAX_PENDING, broken
from containerssh.agent.streams import Sender
from containerssh.agent.upstream_connection import Connection
from containerssh.agent.upstream_packets import NewConnection, Packet, PacketReader, PacketType, Setup
from containerssh.core.codes import AgentCode, GeneralCode
from containerssh.core.errors import BackendError, ContainerSSHError, ProtocolError, describe
from containerssh.core.flag import Flag
from containerssh.core.messages import Event
from containerssh.core.streams import ByteReader, ByteWriter
from containerssh.core.text import printable

logger = logging.getLogger(__name__)

MAX_CONNECTIONS = 128
"""The maximum of connections that one helper carries."""

_ALL_HELD = 2 * 1024 * 1024
_MAX_CLOSING = 1024
_HIGHEST = 1 << 63
"""The maximum connection number; numbers assigned by this side follow the helper's last one."""
# The number of packets after which other tasks get a turn, since packets can be as short as a byte.
_AT_ONCE = 64
_WORDS, _SHOWN = 2000, 300
_MOMENT = 0.5
_END = 5.0


class HelperProcess(Protocol):
    """The process interface that the helper needs."""

    @property
    def stdin(self) -> ByteWriter: ...

    @property
    def stdout(self) -> ByteReader: ...

    @property
    def stderr(self) -> ByteReader | None: ...

    async def kill(self) -> None:
        """Kill the process, and close its streams."""

    async def release(self) -> None:
        """Close the streams of a process that has ended, or whose container is about to."""


Announced = Callable[[Connection, NewConnection], None]


class Helper:
    """A running helper. The creator opens it, and ends it with :meth:`stop` or :meth:`release`."""

    def __init__(self, process: HelperProcess, announced: Announced | None = None, *, silence: float) -> None:
        """
        *announced* is called for each connection that the helper announces; without it, none is permitted. A connection
        is closed when no data has arrived for *silence* seconds after the client's EOF.
        """
        self.silence = silence
        self.ended = Flag()
        """Set when the helper has ended for any reason."""
        self.changed: Callable[[], None] = _ignore
        """Called when a connection is answered or has ended, and when the helper has ended."""
        self.pending: Connection | None = None
        """The connection being dialled; only one at a time, since the helper blocks all others meanwhile."""
        self._process = process
        self._announced = announced
        self._packets = PacketReader()
        self._sender = Sender(process.stdin)
        self._sender.failed = self._finish
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._connections: dict[int, Connection] = {}
        self._closing: set[int] = set()
        self._last = 0
        self._held = 0
        self._room = Flag()
        self._words = bytearray()
        self._no_more = False
        self._at_end = False
        self._tasks = [asyncio.create_task(work) for work in (self._read(), self._sender.run(), self._hear())]

    async def open(self, setup: Setup) -> None:
        """
        Send the set-up packet; returns when the helper has confirmed it. The caller limits the time.

        Raises:
            BackendError: the helper has ended, or does not follow the protocol.
        """
        self._sender.post(Packet(PacketType.SETUP, 0, setup.encode()).encode())
        await asyncio.shield(self._ready)

    def dial(self, target: NewConnection) -> Connection:
        """
        Start connecting to *target*; none may be pending. Wait for ``answered``, or :meth:`abandon` the connection.
        """
        assert self.pending is None
        self._last += 1
        connection = self.pending = self._connections[self._last] = Connection(self, self._last)
        self._post(PacketType.NEW_CONNECTION, self._last, target.encode())
        return connection

    def abandon(self, connection: Connection) -> None:
        """Stop waiting for the answer. The helper may still be dialling, and is busy until it answers."""
        if connection.settled:
            self.close_connection(connection)
        else:
            connection.end()

    def accept(self, connection: Connection) -> bool:
        """Accept an announced connection; False if it has been closed meanwhile."""
        if connection.identity not in self._connections:
            return False
        connection.settled = True
        self._post(PacketType.SUCCESS, connection.identity)
        return True

    def refuse(self, connection: Connection) -> None:
        """Refuse an announced connection."""
        if self._connections.pop(connection.identity, None) is not None:
            self._post(PacketType.ERROR, connection.identity)
            connection.end()
            self.changed()

    def end_announcing(self) -> None:
        """Permit no new connections; existing ones continue."""
        if not self._no_more:
            self._no_more = True
            self._post(PacketType.NO_MORE_CONNECTIONS, 0)

    @property
    def count(self) -> int:
        """The number of connections that it carries or was asked for."""
        return len(self._connections)

    @property
    def words(self) -> str:
        """The end of its standard error, on one line and safe for logs."""
        text = self._words.decode("utf-8", "replace")
        return printable(text, " ").strip()[-_SHOWN:]

    async def stop(self) -> None:
        """Stop the helper; it has a moment to exit by itself."""
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(_MOMENT):
                    await self.ended.wait()
            if not self._at_end:
                with suppress(ContainerSSHError, OSError, TimeoutError):
                    async with asyncio.timeout(_END):
                        await self._process.kill()
        finally:
            await self.release()

    async def release(self) -> None:
        """Close the streams of a helper that has ended, or whose container is about to."""
        self._finish(ConnectionResetError("the login is over"))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._sender.close()
        await self._process.release()

    # -- for its connections ------------------------------------------------------------------------------

    async def send(self, packet: Packet) -> None:
        """Send a packet. Raises ConnectionError if the helper has ended."""
        if self.ended.is_set():
            raise ConnectionResetError("the container's agent has ended")
        await self._sender.send(packet.encode())

    def close_connection(self, connection: Connection) -> None:
        """Close a connection in both directions."""
        identity = connection.identity
        if self._connections.pop(identity, None) is None:
            return
        self._closing.add(identity)
        self._post(PacketType.CLOSE_CONNECTION, identity)
        self._room.set()
        if len(self._closing) > _MAX_CLOSING:
            self._finish(broken("does not answer when connections are closed"))
        self.changed()

    def was_put(self, count: int) -> None:
        """Account for *count* bytes that wait for their reader."""
        self._held += count

    def was_read(self, count: int) -> None:
        """Account for *count* bytes that have been read."""
        self._held -= count
        self._room.set()

    # -- what comes ---------------------------------------------------------------------------------------

    async def _read(self) -> None:
        count = 0
        try:
            while data := await self._process.stdout.read():
                for packet in self._packets.feed(data):
                    await self._take(packet)
                    count += 1
                    if count % _AT_ONCE == 0:
                        await asyncio.sleep(0)
            self._at_end = True
            self._finish(ConnectionResetError("the container's agent has ended"))
        except (OSError, ProtocolError) as exc:
            self._finish(exc)
        except Exception as exc:
            text = f"Forwarding failed because of a fault in the server ({describe(exc)})"
            logger.exception(Event(GeneralCode.UNKNOWN_ERROR, text))
            self._finish(exc)

    async def _hear(self) -> None:
        stderr = self._process.stderr
        with suppress(OSError):
            while stderr is not None and (data := await stderr.read()):
                self._words = (self._words + data)[-_WORDS:]

    async def _take(self, packet: Packet) -> None:
        identity, kind = packet.connection, packet.type
        if not self._ready.done():
            if kind != PacketType.SUCCESS:
                raise broken("did not agree to forward")
            self._ready.set_result(None)
        elif kind == PacketType.NEW_CONNECTION:
            self._announce(identity, packet.payload or b"")
        elif identity in self._closing:
            if kind in (PacketType.SUCCESS, PacketType.ERROR, PacketType.CLOSE_CONNECTION):
                self._closing.discard(identity)
            if kind == PacketType.CLOSE_CONNECTION:
                self._post(PacketType.SUCCESS, identity)
        elif (connection := self._connections.get(identity)) is not None:
            await self._take_for(connection, kind, packet.payload or b"")

    async def _take_for(self, connection: Connection, kind: int, payload: bytes) -> None:
        if kind == PacketType.DATA and connection.settled:
            connection.put(payload)
            while not (connection.is_over or (connection.has_room and self._held <= _ALL_HELD)):
                self._room.clear()
                await self._room.wait()
        elif kind == PacketType.SUCCESS and connection is self.pending:
            self.pending = None
            connection.settled = True
            if connection.answered.done():
                self.close_connection(connection)
            else:
                connection.answered.set_result(True)
            self.changed()
        elif kind in (PacketType.ERROR, PacketType.CLOSE_CONNECTION):
            del self._connections[connection.identity]
            if connection is self.pending:
                self.pending = None
            if kind == PacketType.CLOSE_CONNECTION:
                self._post(PacketType.SUCCESS, connection.identity)
                connection.end()
            else:
                connection.end(ConnectionResetError("the container's agent broke the connection"))
            self.changed()

    def _announce(self, identity: int, payload: bytes) -> None:
        if not self._last < identity <= _HIGHEST:
            raise broken("announced a connection twice, or under a number that is none")
        self._last = identity
        details = NewConnection.decode(payload)
        waiting = sum(not connection.settled for connection in self._connections.values())
        if self._announced is None or self._no_more or waiting >= MAX_PENDING or self.count >= MAX_CONNECTIONS:
            self._post(PacketType.ERROR, identity)
            return
        connection = self._connections[identity] = Connection(self, identity)
        self._announced(connection, details)

    def _post(self, kind: PacketType, identity: int, payload: bytes | None = None) -> None:
        if not self.ended.is_set():
            self._sender.post(Packet(kind, identity, payload).encode())

    def _finish(self, error: Exception) -> None:
        """The helper has ended, or is abandoned because of *error*."""
        if self.ended.is_set():
            return
        self.ended.set()
        self.pending = None
        if not self._ready.done():
            text = f"the image's agent does not forward ({describe(error)}): {self.words}"
            self._ready.set_exception(
                BackendError(AgentCode.REQUEST_FAILED, text, user_message="The container's agent does not forward.")
            )
            # Mark as retrieved, since nothing may be waiting for it.
            self._ready.exception()
        connections, self._connections = self._connections, {}
        for connection in connections.values():
            connection.end(ConnectionResetError("the container's agent has ended"))
        self._room.set()
        self._sender.close()
        self.changed()


def _ignore() -> None:
    """The default callback."""
