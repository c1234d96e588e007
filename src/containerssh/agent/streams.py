"""Sockets as byte streams, and the queue that sends a link's frames."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress

from containerssh.agent.codec import broken
from containerssh.core.flag import Flag
from containerssh.core.streams import CHUNK, ByteStream, ByteWriter, DirectReader, DirectWriter

# Reads by one task or stream before other tasks run.
_READS_PER_TURN = 4
# Seconds without data on other streams after which a stream may read several times in an iteration of the loop.
_ALONE_AFTER = 1.0
# Bytes of frames that an agent does not read.
_MAX_QUEUED = 8 * 1024 * 1024


class _Turns:
    """
    How often a stream reads in one iteration of the event loop: once if other streams have data too, since more would
    delay their keystrokes; several times if none has, since that saves iterations.
    """

    def __init__(self) -> None:
        self._latest = 0
        self._moved = 0.0
        self._alone_from = 0.0

    def reads(self, stream: int, now: float) -> int:
        """The number of reads for *stream* (its id), which has data at *now*, a time of the loop's clock in seconds."""
        if stream != self._latest:
            self._latest = stream
            self._alone_from = self._moved + _ALONE_AFTER
        self._moved = now
        return _READS_PER_TURN if now >= self._alone_from else 1


_turns = _Turns()


class SocketStream(DirectReader, DirectWriter, ByteStream):
    """
    A connected socket as a byte stream. It buffers only the unsent rest of the last write; what is not read stays in
    the kernel.

    One task may read and one write at a time. The stream owns the socket, and closes it.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._loop = asyncio.get_running_loop()
        self._busy = 0
        self._reads = 0
        self._closed = False
        self._ended = False
        self._readable: asyncio.Future[None] | None = None
        self._watched = False
        self._take: Callable[[bytes], bool] | None = None
        self._flow_ended: Callable[[ConnectionError | None], None] = _ignore
        self._refused = False
        self._rest = memoryview(b"")
        self._room: asyncio.Future[None] | None = None
        self._on_room: Callable[[], None] | None = None
        self._write_failure: ConnectionError | None = None

    # -- with tasks ---------------------------------------------------------------------------------------

    async def read(self, limit: int = CHUNK) -> bytes:
        # A read that finds data does not let other tasks run; without a pause one busy program would delay them all.
        self._reads += 1
        if self._reads % _READS_PER_TURN == 0:
            await asyncio.sleep(0)
        self._enter()
        try:
            # Not sock_recv: uvloop's registers the socket again for each read, which costs more than the read.
            while (data := self._receive(limit)) is None:
                await self._wait_until_readable()
        except ConnectionError:
            raise
        except OSError as exc:
            raise ConnectionResetError(str(exc)) from exc
        finally:
            self._leave()
        if self._closed:
            raise ConnectionResetError("the stream was closed")
        return data

    async def write(self, data: bytes) -> None:
        await self.room()
        if not self.take(data):
            await self.room()

    async def write_eof(self) -> None:
        if self._ended:
            return
        self._ended = True
        if not self._closed:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)

    async def close(self) -> None:
        self.abort()

    def abort(self) -> None:
        """Close at once; pending reads and writes raise :class:`ConnectionError`. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        self._unwatch()
        if self._rest:
            self._drop_rest()
        if self._readable is not None and not self._readable.done():
            self._readable.set_result(None)
        self._end_flow(ConnectionResetError("the stream was closed"))
        # Wakes the tasks that wait for the socket. They must have left before the descriptor is closed and reused.
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        if self._busy == 0:
            self._socket.close()

    def _receive(self, limit: int) -> bytes | None:
        """Data, ``b""`` at the end, None if there is none yet."""
        if self._closed:
            return b""
        try:
            return self._socket.recv(limit)
        except (BlockingIOError, InterruptedError):
            return None

    async def _wait_until_readable(self) -> None:
        self._readable = self._loop.create_future()
        self._watch()
        try:
            await self._readable
        finally:
            self._readable = None

    def _enter(self) -> None:
        self._check()
        self._busy += 1

    def _leave(self) -> None:
        self._busy -= 1
        if self._closed and self._busy == 0:
            self._socket.close()

    def _check(self) -> None:
        if self._closed:
            raise ConnectionResetError("the stream was closed")

    # -- receiving by callback -----------------------------------------------------------------------------------

    def flow(self, take: Callable[[bytes], bool], ended: Callable[[ConnectionError | None], None]) -> None:
        self._take = take
        self._flow_ended = ended
        self._refused = False
        if self._closed:
            self._end_flow(ConnectionResetError("the stream was closed"))
        else:
            self._watch()

    def resume(self) -> None:
        if self._refused:
            self._refused = False
            if self._take is not None and not self._closed:
                self._watch()

    def look(self) -> None:
        if self._take is not None and not self._refused and not self._closed:
            self._hand_over(self._take)

    def halt(self) -> None:
        self._take = None
        self._flow_ended = _ignore
        self._unwatch()

    def _on_readable(self) -> None:
        if self._take is not None:
            if self._refused:
                # Not stopped before, since there is often room again before more data arrives.
                self._unwatch()
            else:
                self._hand_over(self._take)
        elif self._readable is None:
            # The reader is still processing the last data; its next read watches the socket again.
            self._unwatch()
        elif not self._readable.done():
            self._readable.set_result(None)

    def _hand_over(self, take: Callable[[bytes], bool]) -> None:
        for _ in range(_turns.reads(id(self), self._loop.time())):
            try:
                data = self._socket.recv(CHUNK)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as exc:
                self._end_flow(_lost(exc))
                return
            if not data:
                self._end_flow(None)
                return
            if not take(data):
                self._refused = True
                return
            # The receiver may have called halt.
            if len(data) < CHUNK or self._take is None:
                return

    def _end_flow(self, error: ConnectionError | None) -> None:
        if self._take is not None:
            ended = self._flow_ended
            self.halt()
            ended(error)

    def _watch(self) -> None:
        if not self._watched:
            self._watched = True
            self._loop.add_reader(self._socket, self._on_readable)

    def _unwatch(self) -> None:
        if self._watched:
            self._watched = False
            self._loop.remove_reader(self._socket)

    # -- sending without waiting -----------------------------------------------------------------------------------

    def take(self, data: bytes) -> bool:
        if self._closed or self._write_failure is not None:
            self._check_writable()
        assert not self._rest
        try:
            sent = self._socket.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except ConnectionError:
            raise
        except OSError as exc:
            raise ConnectionResetError(str(exc)) from exc
        if sent == len(data):
            return True
        self._rest = memoryview(data)[sent:]
        self._loop.add_writer(self._socket, self._on_writable)
        return False

    async def room(self) -> None:
        while self._rest:
            if self._room is None:
                self._room = self._loop.create_future()
            await asyncio.shield(self._room)
        self._check_writable()

    def when_room(self, call: Callable[[], None] | None) -> None:
        self._on_room = call

    def _on_writable(self) -> None:
        try:
            sent = self._socket.send(self._rest)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as exc:
            self._write_failure = _lost(exc)
            sent = len(self._rest)
        self._rest = self._rest[sent:]
        if not self._rest:
            self._drop_rest()
            if self._on_room is not None:
                self._on_room()

    def _drop_rest(self) -> None:
        self._rest = memoryview(b"")
        self._loop.remove_writer(self._socket)
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        self._room = None

    def _check_writable(self) -> None:
        self._check()
        if self._write_failure is not None:
            raise type(self._write_failure)(*self._write_failure.args)


class Sender:
    """
    Sends frames in the order of the calls. A frame is sent whole even if the task that passed it is cancelled.

    :attr:`failed` is called with the error when the writer breaks, or when the peer leaves too much unread.
    """

    def __init__(self, writer: ByteWriter) -> None:
        self.failed: Callable[[Exception], None] = _ignore
        self._writer = writer
        self._queue: list[tuple[bytes, asyncio.Future[None] | None]] = []
        self._queued = 0
        self._filled = Flag()

    def post(self, frame: bytes) -> None:
        """Send *frame* without waiting."""
        self._put(frame, None)

    async def send(self, frame: bytes) -> None:
        """
        Send *frame*; returns when the peer has room for more.

        Raises:
            ConnectionError: the link is broken.
        """
        sent = asyncio.get_running_loop().create_future()
        self._put(frame, sent)
        await sent

    def _put(self, frame: bytes, sent: asyncio.Future[None] | None) -> None:
        self._queue.append((frame, sent))
        self._queued += len(frame)
        self._filled.set()
        if self._queued > _MAX_QUEUED:
            self.failed(broken("does not read what it is sent"))

    async def run(self) -> None:
        """Send until cancelled, or until the writer breaks."""
        while True:
            await self._filled.wait()
            self._filled.clear()
            batch, self._queue = self._queue, []
            self._queued = 0
            try:
                await self._writer.write(b"".join(frame for frame, _ in batch))
            except OSError as exc:
                _finish(batch, _lost(exc))
                self.failed(exc)
                return
            except asyncio.CancelledError:
                _finish(batch, ConnectionResetError("the link was closed"))
                raise
            _finish(batch, None)

    def close(self) -> None:
        """Drop what is queued; pending calls of :meth:`send` raise ConnectionError. The task of :meth:`run` goes on."""
        batch, self._queue = self._queue, []
        _finish(batch, ConnectionResetError("the link was closed"))
        self._queued = 0
        self.failed = _ignore


def _ignore(error: Exception | None) -> None:
    """The callback while none is set."""


def _finish(batch: list[tuple[bytes, asyncio.Future[None] | None]], error: ConnectionError | None) -> None:
    for _, sent in batch:
        if sent is None or sent.done():
            continue
        if error is None:
            sent.set_result(None)
        else:
            sent.set_exception(error)


def _lost(error: OSError) -> ConnectionError:
    return error if isinstance(error, ConnectionError) else ConnectionResetError(str(error))
