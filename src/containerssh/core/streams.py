"""
Byte streams between a client's channel and a program, with flow control by awaiting.

If both ends of a copy support it, data are passed on in the callback in which they arrive, without waking a task. A
keystroke and its echo would otherwise each wait for another iteration of the event loop.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress

from containerssh.core.flag import Flag

CHUNK = 64 * 1024
"""The most bytes that one read returns, and that a slow peer can have the server buffer per direction."""


class ByteReader(ABC):
    """A source of bytes."""

    @abstractmethod
    async def read(self) -> bytes:
        """
        The next bytes, at most :data:`CHUNK`; ``b""`` once the peer has sent its end of file.

        Raises:
            ConnectionError: the stream broke; what was unread is lost.
        """


class ByteWriter(ABC):
    """A target of bytes."""

    @abstractmethod
    async def write(self, data: bytes) -> None:
        """
        Pass *data* on; returns when the peer has room for more.

        Raises:
            ConnectionError: nobody reads any more.
        """

    @abstractmethod
    async def write_eof(self) -> None:
        """Send the end of file; the other direction stays open. A second call does nothing."""


class ByteStream(ByteReader, ByteWriter):
    """Both directions of a connection, such as a forward or a socket. Whoever opens it closes it."""

    left: Flag | None = None
    """Set once the peer has gone and accepts no more data, independent of reads and writes; None if that is not known.
    What the peer has sent before can still be read."""

    @abstractmethod
    async def close(self) -> None:
        """Close at once and drop unsent bytes; safe to call twice."""


class DirectReader(ByteReader):
    """A reader that can also deliver bytes by callback as they arrive."""

    @abstractmethod
    def flow(self, take: Callable[[bytes], bool], ended: Callable[[ConnectionError | None], None]) -> None:
        """
        Call *take* from the event loop with what arrives, at most :data:`CHUNK` at a time and a bounded number of times
        for each turn of the loop. When it returns False there is no further call before :meth:`resume`. *ended* is
        called once: with None at the end of file, with an error when the stream broke. Neither may raise. Nobody may
        read until :meth:`halt`.
        """

    @abstractmethod
    def resume(self) -> None:
        """Continue after *take* has returned False; otherwise does nothing."""

    @abstractmethod
    def look(self) -> None:
        """Deliver what is available already, if the receiver has room for it."""

    @abstractmethod
    def halt(self) -> None:
        """Make no more calls; what was not delivered can be read."""


class DirectWriter(ByteWriter):
    """A writer that can also accept bytes without waiting."""

    @abstractmethod
    async def room(self) -> None:
        """
        Returns when :meth:`take` may be called, and all that it was given before has been passed on.

        Raises:
            ConnectionError: nobody reads any more.
        """

    @abstractmethod
    def take(self, data: bytes) -> bool:
        """
        Pass *data* on; False: it is held, and nothing more may come before the callback of :meth:`when_room`.

        Raises:
            ConnectionError: nobody reads any more.
        """

    @abstractmethod
    def when_room(self, call: Callable[[], None] | None) -> None:
        """Set the callback for when there is room again; None removes it."""


class Pump:
    """One copy from *source* to *target*; use it once."""

    def __init__(self, source: ByteReader, target: ByteWriter) -> None:
        self._source = source
        self._target = target
        self._done: asyncio.Future[None] | None = None
        self.count = 0
        """Bytes passed on so far."""
        self.idle = False
        """Whether the copy is waiting for the source."""

    async def run(self) -> None:
        """
        Copy until the end of the source; the target is not ended.

        Raises:
            ConnectionError: either side broke.
        """
        source, target = self._source, self._target
        if isinstance(source, DirectReader) and isinstance(target, DirectWriter):
            await self._run_directly(source, target)
            return
        while data := await self._read():
            await target.write(data)
            self.count += len(data)

    def look(self) -> None:
        """Pass on what the source has available, as far as possible without waiting."""
        if self._done is not None and self.idle and isinstance(self._source, DirectReader):
            self._source.look()

    async def _read(self) -> bytes:
        self.idle = True
        try:
            return await self._source.read()
        finally:
            self.idle = False

    async def _run_directly(self, source: DirectReader, target: DirectWriter) -> None:
        await target.room()
        self._done = asyncio.get_running_loop().create_future()

        def take(data: bytes) -> bool:
            self.count += len(data)
            try:
                self.idle = target.take(data)
            except Exception as exc:  # noqa: BLE001  the callback of a descriptor has no caller that could handle it
                self._ended(exc)
            return self.idle

        def resume() -> None:
            if self._done is not None and not self._done.done():
                self.idle = True
                source.resume()

        target.when_room(resume)
        self.idle = True
        source.flow(take, self._ended)
        try:
            await self._done
            await target.room()
        finally:
            source.halt()
            target.when_room(None)
            # The traceback of the error refers to this frame; keeping the error here would create a reference cycle.
            self._done = None

    def _ended(self, error: Exception | None) -> None:
        self.idle = False
        if self._done is None or self._done.done():
            return
        if error is None:
            self._done.set_result(None)
        else:
            self._done.set_exception(error)


async def pump(source: ByteReader, target: ByteWriter) -> int:
    """
    Copy until the end of *source*, then end *target*; the number of bytes.

    Raises:
        ConnectionError: either side broke.
    """
    copying = Pump(source, target)
    await copying.run()
    await target.write_eof()
    return copying.count


_LAST_WORDS = 60.0


async def join(client: ByteStream, target: ByteStream) -> None:
    """
    Copy both ways until both directions have ended, or one of the two is gone. The caller closes them.

    A stream that accepts no more data may still send some; data for it are dropped until then. When the client has
    gone, what it sent before is still passed on, for a minute at most. When the target has gone, the copy ends as soon
    as everything from it has been passed on.
    """
    deaf: set[ByteStream] = set()
    silent: set[ByteStream] = set()

    async def carry(source: ByteStream, target: ByteStream) -> None:
        try:
            await Pump(source, target).run()
        except ConnectionError:
            # If the source broke, it raises the error again.
            deaf.add(target)
            while target not in silent and await source.read():
                pass
        silent.add(source)
        with suppress(ConnectionError):
            await target.write_eof()

    inwards, outwards = asyncio.create_task(carry(client, target)), asyncio.create_task(carry(target, client))
    leaving = asyncio.create_task(client.left.wait()) if client.left else None
    tasks = [inwards, outwards, *([leaving] if leaving else [])]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if inwards in done and not inwards.exception() and client not in deaf:
            await asyncio.wait(tasks[1:], return_when=asyncio.FIRST_COMPLETED)
        elif leaving in done:
            await asyncio.wait([inwards], timeout=_LAST_WORDS)
        elif outwards in done and not outwards.exception() and target not in deaf and not _has_left(target):
            await asyncio.wait([inwards, *tasks[2:]], return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait([inwards], timeout=_LAST_WORDS)
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception) and not isinstance(result, ConnectionError):
            raise result


def _has_left(stream: ByteStream) -> bool:
    return stream.left is not None and stream.left.is_set()
