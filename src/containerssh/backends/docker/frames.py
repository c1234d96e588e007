"""The streams of a container or an exec over one hijacked connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress

from containerssh.backends.docker.wire import Wire
from containerssh.core.codes import DockerCode
from containerssh.core.errors import ProtocolError
from containerssh.core.streams import CHUNK, ByteReader, ByteWriter

STDIN, STDOUT, STDERR = range(3)
_HEADER_LENGTH = 8
_KEPT = 500


class Demultiplexer:
    """
    Demultiplexes the engine's frames: a header of stream number, three zero bytes and the length, then the data.

    Data is passed on as it arrives, so a frame's length (up to 4 GiB) costs no memory.
    """

    def __init__(self) -> None:
        self._header = bytearray()
        self._stream = STDOUT
        self._left = 0

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """
        Process *data*; yield the stream number and the bytes of each piece.

        Raises:
            ProtocolError: a frame has an unknown stream number.
        """
        position = 0
        while position < len(data):
            if not self._left:
                wanted = _HEADER_LENGTH - len(self._header)
                self._header += data[position : position + wanted]
                position += wanted
                if len(self._header) == _HEADER_LENGTH:
                    self._begin()
                continue
            piece = data[position : position + self._left]
            position += len(piece)
            self._left -= len(piece)
            yield self._stream, piece

    def _begin(self) -> None:
        stream, zeros, length = self._header[0], self._header[1:4], int.from_bytes(self._header[4:], "big")
        if stream > STDERR or any(zeros):
            raise ProtocolError(DockerCode.PROTOCOL_ERROR, f"the engine sent a frame for stream {stream}")
        self._stream, self._left = stream, length
        self._header.clear()

    @property
    def between_frames(self) -> bool:
        """Whether the data so far ends at a frame boundary."""
        return not self._left and not self._header


class AttachedOutput(ByteReader):
    """The process's standard output; its standard error is passed to *on_error* (at most CHUNK bytes each)."""

    def __init__(self, wire: Wire, on_error: Callable[[bytes], None]) -> None:
        self._reader = wire.reader
        self._on_error = on_error
        self._frames = Demultiplexer()
        self._ready: list[bytes] = []
        self.beginning = bytearray()
        """The beginning of the output, for error messages."""

    async def read(self) -> bytes:
        while not self._ready:
            data = await self._reader.read(CHUNK)
            if not data:
                if not self._frames.between_frames:
                    raise ConnectionResetError("the engine cut the stream inside a frame")
                return b""
            try:
                for stream, piece in self._frames.feed(data):
                    if stream == STDERR:
                        self._on_error(piece)
                    else:
                        self._ready.append(piece)
            except ProtocolError as exc:
                raise ConnectionAbortedError(exc.explanation) from exc
        ready, self._ready = b"".join(self._ready), []
        if (room := _KEPT - len(self.beginning)) > 0:
            self.beginning += ready[:room]
        return ready


class AttachedInput(ByteWriter):
    """The process's standard input."""

    def __init__(self, wire: Wire) -> None:
        self._writer = wire.writer
        self._ended = False

    async def write(self, data: bytes) -> None:
        if self._ended or self._writer.is_closing():
            raise ConnectionResetError("the connection to the engine is closed")
        self._writer.write(data)
        await self._writer.drain()

    async def write_eof(self) -> None:
        if self._ended:
            return
        self._ended = True
        with suppress(OSError, RuntimeError):
            # asyncio cannot close one direction of TLS; close the connection, or the program might wait for ever.
            if self._writer.can_write_eof():
                self._writer.write_eof()
            else:
                self._writer.close()


class Attached:
    """A hijacked connection to a process without a terminal. The opener closes it."""

    def __init__(self, wire: Wire, on_error: Callable[[bytes], None]) -> None:
        self._wire = wire
        self._on_error = on_error
        self._errors = b""
        self.output = AttachedOutput(wire, self._take_error)
        self.input = AttachedInput(wire)

    @property
    def words(self) -> str:
        """The beginning of the output and the end of standard error, for engines that keep no logs."""
        return (bytes(self.output.beginning) + self._errors).decode("utf-8", "replace")

    async def close(self) -> None:
        """Close the connection, which does not end the process. A second call does nothing."""
        self._wire.writer.close()
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(1):
                await self._wire.writer.wait_closed()
        self._wire.abort()

    def _take_error(self, data: bytes) -> None:
        self._errors = (self._errors + data)[-_KEPT:]
        self._on_error(data)
