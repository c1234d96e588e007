"""The three streams of a session channel, with flow control against the client's window."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from containerssh.core.streams import CHUNK, DirectReader, DirectWriter
from containerssh.ssh.channel_adapter import AdapterChannel


class ChannelReader(DirectReader):
    """Input from the client. It holds at most one chunk and one packet; the adapter holds the rest of the window."""

    def __init__(self, channel: AdapterChannel) -> None:
        self._channel = channel
        # Created on demand, which most programs never need: an empty one takes 0.8 KiB.
        self._pieces: deque[bytes] | None = None
        self._size = 0
        self._eof = False
        self._broken = False
        self._waiter: asyncio.Future[None] | None = None
        self._take: Callable[[bytes], bool] | None = None
        self._flow_ended: Callable[[ConnectionError | None], None] | None = None
        self._refused = False

    def feed(self, data: bytes) -> None:
        """Append received data."""
        if self._take is not None and not self._pieces and not self._refused:
            if not self._take(data):
                self._refused = True
                self._channel.pause_reading()
            return
        if self._pieces is None:
            self._pieces = deque()
        self._pieces.append(data)
        self._size += len(data)
        if self._size >= CHUNK:
            self._channel.pause_reading()
        self._wake()

    def feed_eof(self) -> None:
        """EOF arrived."""
        self._eof = True
        self._wake()

    def fail(self) -> None:
        """The channel was closed."""
        self._broken = True
        self._wake()

    async def read(self) -> bytes:
        while not self._pieces:
            if self._eof:
                return b""
            if self._broken:
                raise ConnectionResetError("the client closed the channel")
            self._waiter = asyncio.get_running_loop().create_future()
            waiter = self._waiter
            # This may deliver data held by the adapter at once.
            self._channel.resume_reading()
            await waiter
        data = self._pieces.popleft()
        if self._pieces and len(data) < CHUNK:
            parts = [data]
            size = len(data)
            while self._pieces and size + len(self._pieces[0]) <= CHUNK:
                parts.append(self._pieces.popleft())
                size += len(parts[-1])
            data = b"".join(parts)
        self._size -= len(data)
        return data

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        self._end_flow()

    def flow(self, take: Callable[[bytes], bool], ended: Callable[[ConnectionError | None], None]) -> None:
        self._take = take
        self._flow_ended = ended
        self._refused = False
        self.look()

    def resume(self) -> None:
        if self._refused:
            self._refused = False
            self.look()

    def look(self) -> None:
        while self._pieces and self._take is not None and not self._refused:
            data = self._pieces.popleft()
            self._size -= len(data)
            self._refused = not self._take(data)
        if self._take is not None and not self._refused:
            self._channel.resume_reading()
        self._end_flow()

    def halt(self) -> None:
        self._take = self._flow_ended = None

    def _end_flow(self) -> None:
        if self._flow_ended is None or self._pieces or self._refused or not (self._eof or self._broken):
            return
        ended = self._flow_ended
        self.halt()
        ended(None if self._eof else ConnectionResetError("the client closed the channel"))


class ChannelWriter(DirectWriter):
    """
    Output to the client; waits until the request that starts the program is answered, and while the client's window is
    full.
    """

    def __init__(self, channel: AdapterChannel, ended: Callable[[], None], *, stderr: bool) -> None:
        self._channel = channel
        self._ended = ended
        self._stderr = stderr
        self._is_started = False
        self._gone = False
        self._waiters: set[asyncio.Future[None]] = set()
        self._on_room: Callable[[], None] | None = None
        self.ended = False

    def start(self) -> None:
        """The reply to the request that started the program was sent."""
        self._is_started = True
        self.resume()

    def resume(self) -> None:
        """The channel accepts output again."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        if self._on_room is not None:
            self._on_room()

    def fail(self) -> None:
        """The channel was closed."""
        self._gone = True
        self._ended = _nothing
        self.resume()

    async def started(self) -> None:
        """Wait until output may be sent or the channel is closed."""
        while not self._is_started and not self._gone:
            await self._wait()

    async def write(self, data: bytes) -> None:
        if not self._is_started:
            await self.started()
        if not self.take(data):
            await self._wait()
            if self._gone:
                raise BrokenPipeError("the client takes no more output")

    async def room(self) -> None:
        await self.started()
        while not self._gone and not self._channel.has_room:
            await self._wait()
        if self._gone:
            raise BrokenPipeError("the client takes no more output")

    def take(self, data: bytes) -> bool:
        if self._gone or self.ended:
            raise BrokenPipeError("the client takes no more output")
        return self._channel.put(data, stderr=self._stderr)

    def when_room(self, call: Callable[[], None] | None) -> None:
        self._on_room = call

    async def write_eof(self) -> None:
        if not self.ended:
            await self.started()
            self.ended = True
            self._ended()

    async def _wait(self) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)


def _nothing() -> None:
    """Does nothing: the callback for output that is discarded."""
