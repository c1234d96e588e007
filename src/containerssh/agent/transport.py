"""Transports of frames and streams: the common interface, and the multiplexed transport."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod

from containerssh.agent.codec import (
    PREAMBLE,
    TOKEN_SIZE,
    WINDOW,
    Fields,
    Frame,
    FrameDecoder,
    FrameType,
    broken,
    pack_word,
)
from containerssh.agent.streams import Sender
from containerssh.core.codes import AgentCode
from containerssh.core.errors import BackendError
from containerssh.core.flag import Flag
from containerssh.core.streams import CHUNK, ByteReader, ByteStream, ByteWriter

MAX_NOISE = 64 * 1024
"""How many bytes an image's entrypoint may print before the agent's preamble."""
_MAX_STREAMS = 2048
# Guests can send frames of one byte each. This many take half a millisecond; then other tasks run.
_FRAMES_PER_TURN = 256
_MOST_IDS = 0xFFFFFFFF


class Expected(ABC):
    """A stream that a request has announced. Open it or abandon it."""

    reference: bytes
    """The stream as a request names it."""

    @abstractmethod
    async def opened(self) -> ByteStream:
        """The stream, once it is open. Raises :class:`ConnectionError` if the link breaks."""

    @abstractmethod
    def abandon(self) -> None:
        """Give the stream up. If it is open already, this closes it."""


class Transport(ABC):
    """A connection to an agent, after the preamble."""

    def __init__(self, reader: ByteReader, writer: ByteWriter, *, noise: int) -> None:
        self._reader = reader
        self._noise: int | None = noise
        self._decoder = FrameDecoder()
        self._before = b""
        self.sender = Sender(writer)

    async def receive(self) -> list[Frame]:
        """
        The next control frames.

        Raises:
            ProtocolError: the agent violated the protocol.
            BackendError: the connection ended.
        """
        while True:
            data = await self._read()
            if self._noise is not None and not (data := self._skip_noise(data)):
                continue
            frames: list[Frame] = []
            while True:
                found = self._decoder.feed(data, _FRAMES_PER_TURN)
                frames += (frame for frame in found if not self._deliver(frame))
                if len(found) < _FRAMES_PER_TURN:
                    break
                data = b""
                await asyncio.sleep(0)
            if frames:
                return frames

    async def _read(self) -> bytes:
        try:
            data = await self._reader.read()
        except OSError as exc:
            raise lost("the connection to the guest agent broke") from exc
        if not data:
            raise lost("the guest agent ended the connection")
        return data

    def _skip_noise(self, data: bytes) -> bytes:
        seen = self._before + data
        found = seen.find(PREAMBLE)
        assert self._noise is not None
        if found < 0 or found > self._noise:
            if len(seen) - len(PREAMBLE) >= self._noise or found > self._noise:
                raise broken(f"did not show itself within the first {self._noise} bytes")
            self._before = seen
            return b""
        self._noise = None
        self._before = b""
        return seen[found + len(PREAMBLE) :]

    @abstractmethod
    def expect(self) -> Expected:
        """Announce a stream. Raises :class:`~containerssh.core.errors.BackendError` when there are too many."""

    @abstractmethod
    def _deliver(self, frame: Frame) -> bool:
        """Process a frame of a stream; False if it is a control frame."""

    @abstractmethod
    def close(self) -> None:
        """End all streams with :class:`ConnectionError`. The sender is not stopped."""


def lost(explanation: str) -> BackendError:
    """The link has ended, and with it all programs."""
    return BackendError(AgentCode.LINK_BROKEN, explanation, user_message="The connection to the container was lost.")


class FramedTransport(Transport):
    """
    Multiplexes control frames and streams over one pair of byte streams.

    Credits limit the data in flight of each stream, so a slow reader does not delay other streams and uses at most one
    window of memory.
    """

    def __init__(self, reader: ByteReader, writer: ByteWriter) -> None:
        super().__init__(reader, writer, noise=MAX_NOISE)
        self._streams: dict[int, FramedStream] = {}
        self._last = 0
        self._closed = False

    def expect(self) -> Expected:
        if len(self._streams) >= _MAX_STREAMS or self._last == _MOST_IDS or self._closed:
            raise lost("no more streams can be opened to the guest agent")
        self._last += 1
        stream = FramedStream(self, self._last)
        self._streams[self._last] = stream
        return _FramedExpected(stream)

    def close(self) -> None:
        self._closed = True
        for stream in self._streams.values():
            stream.fail()
        self._streams.clear()

    def forget(self, identity: int) -> None:
        """Both sides have closed the stream."""
        self._streams.pop(identity, None)

    def _deliver(self, frame: Frame) -> bool:
        if frame.type < FrameType.DATA:
            return False
        stream = self._streams.get(frame.id)
        if stream is None:
            raise broken(f"sent a message for the unknown stream {frame.id}")
        stream.deliver(frame)
        return True


class _FramedExpected(Expected):
    def __init__(self, stream: FramedStream) -> None:
        self._stream = stream
        self.reference = pack_word(stream.identity) + bytes(TOKEN_SIZE)

    async def opened(self) -> ByteStream:
        return self._stream

    def abandon(self) -> None:
        self._stream.abort()


class FramedStream(ByteStream):
    """A multiplexed stream. It stays in the transport's table until both sides have sent CLOSE."""

    def __init__(self, transport: FramedTransport, identity: int) -> None:
        self.identity = identity
        self._transport = transport
        self._received = bytearray()
        self._consumed = 0
        self._credit = WINDOW
        self._changed = Flag()
        self._granted = Flag()
        self._sent_eof = self._sent_close = self._got_eof = self._got_close = self._failed = False

    async def read(self) -> bytes:
        while not self._received:
            if self._got_eof and not self._failed:
                return b""
            if self._failed or self._got_close or self._sent_close:
                raise ConnectionResetError("the stream was closed")
            self._changed.clear()
            await self._changed.wait()
        data = bytes(self._received[:CHUNK])
        del self._received[:CHUNK]
        self._consumed += len(data)
        # Half a window at a time: a frame for each read would double the traffic of small reads.
        if self._consumed >= WINDOW // 2 and not (self._got_eof or self._got_close or self._sent_close):
            self._post(FrameType.CREDIT, pack_word(self._consumed))
            self._consumed = 0
        return data

    async def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            while not self._credit or self._cannot_send:
                if self._cannot_send:
                    raise ConnectionResetError("the stream was closed")
                self._granted.clear()
                await self._granted.wait()
            count = min(len(view), self._credit, CHUNK)
            self._credit -= count
            frame = Frame(FrameType.DATA, self.identity, bytes(view[:count]))
            view = view[count:]
            await self._transport.sender.send(frame.encode())

    async def write_eof(self) -> None:
        if not self._cannot_send:
            self._sent_eof = True
            self._post(FrameType.EOF)

    async def close(self) -> None:
        self.abort()

    def abort(self) -> None:
        """Close without waiting; safe to call twice."""
        self._consumed += len(self._received)
        self._received.clear()
        if not (self._sent_close or self._failed):
            self._sent_close = True
            self._post(FrameType.CLOSE)
        self._wake()

    def fail(self) -> None:
        """The link broke."""
        self._failed = True
        self._received.clear()
        self._wake()

    def deliver(self, frame: Frame) -> None:
        """Process a frame of this stream; raises ProtocolError."""
        if self._got_close or (self._got_eof and frame.type in (FrameType.DATA, FrameType.EOF)):
            raise broken(f"sent a message for stream {self.identity} after its end")
        match frame.type:
            case FrameType.DATA:
                self._take(frame.payload)
            case FrameType.CREDIT:
                self._grant(frame.payload)
            case FrameType.EOF:
                self._got_eof = True
            case _:
                self._got_close = True
                if not self._got_eof:
                    self._received.clear()
                if not self._sent_close:
                    self._sent_close = True
                    self._post(FrameType.CLOSE)
                self._transport.forget(self.identity)
        self._wake()

    def _take(self, data: bytes) -> None:
        if not data or len(self._received) + self._consumed + len(data) > WINDOW:
            raise broken(f"sent more on stream {self.identity} than it was asked for, or nothing at all")
        if self._sent_close:
            # Counted all the same, so that an agent cannot continue forever.
            self._consumed += len(data)
        else:
            self._received += data

    def _grant(self, payload: bytes) -> None:
        fields = Fields(payload)
        credit = fields.number(4)
        fields.end()
        if not credit or self._credit + credit > WINDOW:
            raise broken(f"granted stream {self.identity} nothing, or more than was used")
        self._credit += credit

    @property
    def _cannot_send(self) -> bool:
        return self._sent_eof or self._sent_close or self._got_close or self._failed

    def _post(self, kind: FrameType, payload: bytes = b"") -> None:
        self._transport.sender.post(Frame(kind, self.identity, payload).encode())

    def _wake(self) -> None:
        self._changed.set()
        self._granted.set()
