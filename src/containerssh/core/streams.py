"""
Byte streams between a client's channel and a program, with flow control by awaiting.

Where both ends of a copy can, bytes pass in the callback in which they arrive, without waking a task: a keystroke has
two such ways to go, each of which would cost a turn of the event loop, with other people's work in it.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress

from containerssh.core.flag import Flag

CHUNK = 64 * 1024
"""The most bytes that one read gives: what a slow peer can make us hold, per direction."""


class ByteReader(ABC):
    """Where bytes come from."""

    @abstractmethod
    async def read(self) -> bytes:
        """
        The next bytes, at most :data:`CHUNK`; ``b""`` once the peer has sent its end of file.

        Raises:
            ConnectionError: the stream broke; what was unread is lost.
        """


class ByteWriter(ABC):
    """Where bytes go to."""

    @abstractmethod
    async def write(self, data: bytes) -> None:
        """
        Pass *data* on; returns when the peer has room for more.

        Raises:
            ConnectionError: nobody reads any more.
        """

    @abstractmethod
    async def write_eof(self) -> None:
        """Say that nothing follows; the other direction goes on. A second call does nothing."""


class ByteStream(ByteReader, ByteWriter):
    """Both directions of a connection: a forward, a dialled socket. Close it where it was opened."""

    left: Flag | None = None
    """Set once the peer has gone and takes nothing any more, whether or not something is read or written just then;
    None where that is not known. What the peer had sent before can still be read."""

    @abstractmethod
    async def close(self) -> None:
        """Give it back at once, unsent bytes included; safe to call twice."""


class DirectReader(ByteReader):
    """A reader that can also hand bytes over as they arrive."""

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
        """There is room for more. Does nothing when nothing was refused."""

    @abstractmethod
    def look(self) -> None:
        """Hand over what is there already, if there is room for it."""

    @abstractmethod
    def halt(self) -> None:
        """No more calls; what was not handed over can be read."""


class DirectWriter(ByteWriter):
    """A writer that can also be given bytes without waiting."""

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
        """What to call when there is room again; None: nobody is interested any more."""


class Pump:
    """One copy from *source* to *target*; use it once."""

    def __init__(self, source: ByteReader, target: ByteWriter) -> None:
        self._source = source
        self._target = target
        self._done: asyncio.Future[None] | None = None
        self.count = 0
        """Bytes passed on so far."""
        self.idle = False
        """Whether it is the source that it waits for."""

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
        """Pass on what the source has already, as far as that is possible without waiting."""
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
            except Exception as exc:  # noqa: BLE001  the callback of a descriptor has nobody to raise it to
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
            # An error has this call in its traceback: kept here, it would lead to itself.
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

    A stream that takes nothing any more may still send: what is meant for it is dropped until it has sent all. When the
    client has left, what it had sent is still passed on, for a minute at most. For a target that has left, there is
    nothing to wait for once all that came from it was passed on.
    """
    deaf: set[ByteStream] = set()
    silent: set[ByteStream] = set()

    async def carry(source: ByteStream, target: ByteStream) -> None:
        try:
            await Pump(source, target).run()
        except ConnectionError:
            # If it was the source that broke, it says so again.
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
