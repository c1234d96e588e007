"""The encoding of the agent's protocol (``docs/agent.md``): frames and their fields, big-endian.

A frame is one word with its type (8 bits) and the length of its payload (24 bits), a word with an id, and the payload.
Everything that an agent sends is untrusted: :class:`FrameDecoder` checks every length against the limit of its type
before it buffers a payload.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum, IntFlag

from containerssh.core.codes import AgentCode
from containerssh.core.errors import ProtocolError
from containerssh.core.requests import PtyRequest, WindowSize, to_wire
from containerssh.core.streams import CHUNK
from containerssh.core.text import printable

VERSION = 2
OLDEST = 1
PREAMBLE = b"\x00\x89containerssh\r\n"
STREAM_PREAMBLE = b"\x00\x89stream"
DIRECT_PREAMBLE = b"\x00\x89direct"
DIRECT_SINCE = 2
"""The first protocol version with DIRECT."""
TOKEN_SIZE = 16
TICKET_SIZE = 32
TICKET_NAME_SIZE = 16
"""The length of a ticket's name, by which it is looked up; the rest is its secret."""
MAX_PENDING = 64
"""How many connections of all its listeners an agent may have announced that are still unanswered."""
WINDOW = 256 * 1024
"""How many bytes of one multiplexed stream may be in flight in each direction."""
MAX_REQUEST = 2 * 1024 * 1024
"""The longest payload that the agent accepts."""
_MAX_CONTROL = 4096
_MAX_TEXT = 1024

_HEADER = struct.Struct(">II")
_WORD = struct.Struct(">I")


class FrameType(IntEnum):
    """The types of frames, as in ``agent/internal/wire``."""

    HELLO = 1
    WELCOME = 2
    OK = 3
    ERROR = 4
    EXITED = 5
    LISTENING = 8
    ACCEPTED = 9
    START = 16
    SIGNAL = 17
    RESIZE = 18
    BREAK = 19
    KILL = 20
    WRITE_FILE = 21
    SHUTDOWN = 22
    DIRECT = 23
    CONNECT_TCP = 32
    CONNECT_UNIX = 33
    LISTEN_TCP = 34
    LISTEN_UNIX = 35
    LISTEN_AGENT = 36
    LISTEN_X11 = 37
    ACCEPT = 38
    DECLINE = 39
    UNLISTEN = 40
    DATA = 64
    CREDIT = 65
    EOF = 66
    CLOSE = 67


class StartFlag(IntFlag):
    """The flags of a START."""

    TERMINAL = 1
    AGENT = 4
    END_LEFTOVERS = 8
    KEEP_LEFTOVERS = 16


_FROM_AGENT: dict[int, int] = {
    FrameType.HELLO: _MAX_CONTROL,
    FrameType.OK: 0,
    FrameType.ERROR: _MAX_CONTROL,
    FrameType.EXITED: _MAX_CONTROL,
    FrameType.LISTENING: _MAX_CONTROL,
    FrameType.ACCEPTED: _MAX_CONTROL,
    FrameType.DATA: CHUNK,
    FrameType.CREDIT: 4,
    FrameType.EOF: 0,
    FrameType.CLOSE: 0,
}


@dataclass(frozen=True)
class Frame:
    """One message; what the id names depends on the type: a request, a program or a stream."""

    type: FrameType
    id: int
    payload: bytes = b""

    def encode(self) -> bytes:
        """The frame's bytes; the payload must be shorter than 16 MiB."""
        return _HEADER.pack(self.type << 24 | len(self.payload), self.id) + self.payload


def broken(explanation: str) -> ProtocolError:
    """The agent violated the protocol: the link has to end."""
    return ProtocolError(
        AgentCode.PROTOCOL_BROKEN, f"the guest agent {explanation}", user_message="The container's agent failed."
    )


class Refused(Exception):
    """The agent answered a request with an error: an errno or 0, and a text."""

    def __init__(self, number: int, text: str) -> None:
        super().__init__(text)
        self.number = number
        self.text = printable(text)


class FrameDecoder:
    """Splits received data into frames. It buffers less than one frame once it has returned fewer than *most*."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes, most: int | None = None) -> list[Frame]:
        """
        The frames that *data* completes, at most *most* of them; the next call returns the others.

        Raises:
            ProtocolError: agents do not send this type, or the payload is longer than its type permits.
        """
        buffer = self._buffer
        buffer += data
        frames: list[Frame] = []
        start = 0
        while len(buffer) - start >= _HEADER.size and len(frames) != most:
            word, identity = _HEADER.unpack_from(buffer, start)
            number, length = word >> 24, word & 0xFFFFFF
            limit = _FROM_AGENT.get(number)
            if limit is None:
                raise broken(f"sent a message of the unknown type {number}")
            if length > limit:
                raise broken(f"sent {length} bytes in a message of type {number}, which may have {limit}")
            end = start + _HEADER.size + length
            if end > len(buffer):
                break
            frames.append(Frame(FrameType(number), identity, bytes(buffer[start + _HEADER.size : end])))
            start = end
        del buffer[:start]
        return frames


class Fields:
    """Reads the fields of an agent's payload in order; call :meth:`end` after the last."""

    def __init__(self, payload: bytes) -> None:
        self._payload = payload
        self._position = 0

    def _take(self, count: int) -> bytes:
        end = self._position + count
        if end > len(self._payload):
            raise broken("sent a message that is too short for its fields")
        taken = self._payload[self._position : end]
        self._position = end
        return taken

    def number(self, size: int) -> int:
        """An unsigned number of *size* bytes."""
        return int.from_bytes(self._take(size), "big")

    def flag(self) -> bool:
        """A byte that is 0 or 1."""
        value = self.number(1)
        if value > 1:
            raise broken("sent a flag that is neither 0 nor 1")
        return value == 1

    def text(self, limit: int = _MAX_TEXT) -> str:
        """A text of at most *limit* bytes; invalid UTF-8 is replaced."""
        length = self.number(4)
        if length > limit:
            raise broken(f"sent a text of {length} bytes where {limit} are allowed")
        return self._take(length).decode("utf-8", "replace")

    def end(self) -> None:
        """Raise :class:`~containerssh.core.errors.ProtocolError` if there is more."""
        if self._position != len(self._payload):
            raise broken("sent a message that is too long for its fields")


def pack_word(value: int) -> bytes:
    """An unsigned number of 32 bits."""
    return _WORD.pack(value)


def pack_bytes(data: bytes) -> bytes:
    """A length and the bytes."""
    return _WORD.pack(len(data)) + data


def pack_text(text: str) -> bytes:
    """A length and the text as it was on the wire."""
    return pack_bytes(to_wire(text))


def pack_texts(texts: Iterable[str]) -> bytes:
    """A count and the texts."""
    packed = [pack_text(text) for text in texts]
    return _WORD.pack(len(packed)) + b"".join(packed)


def pack_size(size: WindowSize) -> bytes:
    """A terminal's size; numbers above the kernel's 16 bits are reduced to the maximum."""
    numbers = (size.columns, size.rows, size.width, size.height)
    return struct.pack(">4H", *(min(max(number, 0), 0xFFFF) for number in numbers))


def pack_pty(request: PtyRequest) -> bytes:
    """The size and the encoded modes of a terminal."""
    return pack_size(request.size) + pack_bytes(request.modes)
