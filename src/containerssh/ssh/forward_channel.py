"""The channel of one forwarded connection, as a byte stream."""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Callable

from containerssh.core.flag import Flag
from containerssh.core.messages import Event
from containerssh.core.streams import ByteStream, DirectReader, DirectWriter
from containerssh.ssh.channel_adapter import AdapterChannel
from containerssh.ssh.streams import ChannelReader, ChannelWriter

logger = logging.getLogger(__name__)


class ForwardChannel(DirectReader, DirectWriter, ByteStream):
    """The front's side of a forward's channel; the adapter calls the methods of the first part."""

    running = False
    """A forward has nothing to send after both directions have ended."""

    def __init__(self, channel: AdapterChannel, gone: Callable[[ForwardChannel], None]) -> None:
        """*gone* is called when both sides of the channel have closed, or the connection has ended."""
        self.channel = channel
        self.left: Flag = Flag()
        self._gone = gone
        self._context = contextvars.copy_context()
        self._reader = ChannelReader(channel)
        self._writer = ChannelWriter(channel, channel.end_output, stderr=False)
        self._writer.start()

    # -- called by the adapter ---------------------------------------------------------------------------

    def requested(self, name: bytes, want_reply: bool, payload: bytes) -> None:
        """Forwarded channels support no requests (RFC 4254 section 7.2 defines none)."""
        del name, payload
        if want_reply:
            self.channel.reply(False)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)

    def eof_received(self) -> None:
        self._reader.feed_eof()

    def resume_writing(self) -> None:
        self._writer.resume()

    def finished(self) -> None:
        """Everything was sent, CLOSE included."""
        self._writer.fail()

    def closed_by_peer(self) -> None:
        self.left.set()
        self._reader.fail()
        self._writer.fail()
        self._gone(self)

    def log(self, level: int, event: Event, error: BaseException | None = None) -> None:
        """Log with the labels of the opener of the channel."""
        self._context.run(logger.log, level, event, exc_info=error)

    # -- ByteStream ---------------------------------------------------------------------------------------

    async def read(self) -> bytes:
        return await self._reader.read()

    async def write(self, data: bytes) -> None:
        await self._writer.write(data)

    async def write_eof(self) -> None:
        await self._writer.write_eof()

    async def close(self) -> None:
        if self._writer.ended:
            self.channel.close_after_output()
        else:
            self.channel.cut()

    # -- without tasks ------------------------------------------------------------------------------------

    def flow(self, take: Callable[[bytes], bool], ended: Callable[[ConnectionError | None], None]) -> None:
        self._reader.flow(take, ended)

    def resume(self) -> None:
        self._reader.resume()

    def look(self) -> None:
        self._reader.look()

    def halt(self) -> None:
        self._reader.halt()

    async def room(self) -> None:
        await self._writer.room()

    def take(self, data: bytes) -> bool:
        return self._writer.take(data)

    def when_room(self, call: Callable[[], None] | None) -> None:
        self._writer.when_room(call)
