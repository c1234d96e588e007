"""The packets of upstream's forwarding protocol (``agent.md`` section 3): a sequence of CBOR (RFC 8949) items.

Sent packets are identical to those of upstream's server. Accepted packets are those of its agents: definite lengths,
text keys, no nested values. Every length is checked against a limit before data is buffered.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum

from containerssh.agent.codec import broken

MAX_DATA = 32 * 1024
"""The maximum payload of a sent data packet, as in upstream's server."""
MAX_PAYLOAD = 256 * 1024
"""The maximum payload of a received packet."""
_MAX_FIELDS = 16
_MAX_KEY = 32
_MAX_TEXT = 1024
_MAX_PACKET = MAX_PAYLOAD + _MAX_FIELDS * (_MAX_KEY + _MAX_TEXT + 16)
"""The maximum size of a packet: an incomplete packet is parsed again with each further piece of data."""
_MAX_NUMBER = (1 << 64) - 1

_NUMBER, _BYTES, _TEXT, _MAP = 0, 2, 3, 5
_FALSE, _TRUE, _NULL = 0xF4, 0xF5, 0xF6

Value = int | bytes | str | bool | None


class PacketType(IntEnum):
    """Packet types."""

    SETUP = 0
    SUCCESS = 1
    ERROR = 2
    DATA = 3
    NEW_CONNECTION = 4
    CLOSE_CONNECTION = 5
    NO_MORE_CONNECTIONS = 6


class Purpose(IntEnum):
    """The purposes of a helper."""

    X11 = 0
    LISTEN = 1
    DIAL = 2


@dataclass(frozen=True)
class Packet:
    """A packet; *type* may be unknown."""

    type: int
    connection: int = 0
    payload: bytes | None = None

    def encode(self) -> bytes:
        return _encode({"Type": int(self.type), "ConnectionId": self.connection, "Payload": self.payload})


@dataclass(frozen=True)
class Setup:
    """The payload of the set-up packet."""

    purpose: Purpose
    host: str = ""
    """The host to listen on, or a socket's path."""
    port: int = 0
    protocol: str = ""
    """``tcp`` or ``unix``."""
    screen: str = ""
    single: bool = False
    auth_protocol: str = ""
    auth_cookie: str = ""

    def encode(self) -> bytes:
        """Encode the payload. Raises UnicodeEncodeError for text that is not valid Unicode."""
        return _encode(
            {
                "ConnectionType": int(self.purpose),
                "BindHost": self.host,
                "BindPort": self.port,
                "Protocol": self.protocol,
                "Screen": self.screen,
                "SingleConnection": self.single,
                "AuthProtocol": self.auth_protocol,
                "AuthCookie": self.auth_cookie,
            }
        )


@dataclass(frozen=True)
class NewConnection:
    """The payload of a packet that announces a connection."""

    protocol: str
    host: str
    port: int = 0
    origin_host: str = ""
    origin_port: int = 0

    def encode(self) -> bytes:
        """Encode the payload. Raises UnicodeEncodeError for text that is not valid Unicode."""
        return _encode(
            {
                "Protocol": self.protocol,
                "ConnectedAddress": self.host,
                "ConnectedPort": self.port,
                "OriginatorAddress": self.origin_host,
                "OriginatorPort": self.origin_port,
            }
        )

    @classmethod
    def decode(cls, payload: bytes) -> NewConnection:
        """Decode *payload*. Raises ProtocolError if it is invalid."""
        cursor = _Cursor(payload)
        try:
            fields = _fields(cursor)
        except _Incomplete:
            raise broken("sent half an announcement of a connection") from None
        if cursor.position != len(payload):
            raise broken("sent more than an announcement of a connection")
        return cls(
            _text(fields, "Protocol"),
            _text(fields, "ConnectedAddress"),
            _number(fields, "ConnectedPort", 0xFFFF),
            _text(fields, "OriginatorAddress"),
            _number(fields, "OriginatorPort", 0xFFFF),
        )


class PacketReader:
    """Parses packets from a stream that is split at any point."""

    def __init__(self) -> None:
        self._unread = bytearray()

    def feed(self, data: bytes) -> Iterator[Packet]:
        """
        Process *data*; yield the packets that it completes. Consume all of them before the next call.

        Raises:
            ProtocolError: the data is not a valid packet.
        """
        self._unread += data
        cursor = _Cursor(self._unread)
        try:
            while True:
                begun = cursor.position
                fields = _fields(cursor)
                payload = fields.get("Payload")
                if payload is not None and not isinstance(payload, bytes):
                    raise broken("sent a packet whose payload is not bytes")
                yield Packet(_number(fields, "Type"), _number(fields, "ConnectionId"), payload)
        except _Incomplete:
            del self._unread[:begun]


class _Incomplete(Exception):
    """More data is needed."""


class _Cursor:
    def __init__(self, data: bytes | bytearray) -> None:
        self._data = data
        self.position = 0

    def take(self, count: int) -> bytes:
        end = self.position + count
        if end > len(self._data):
            raise _Incomplete
        taken = bytes(self._data[self.position : end])
        self.position = end
        return taken

    def head(self) -> tuple[int, int, int]:
        """The item's first byte, its major type, and its value or length."""
        first = self.take(1)[0]
        kind, detail = first >> 5, first & 0x1F
        if detail < 24:
            return first, kind, detail
        if detail > 27:
            raise broken("sent an item without a definite length")
        return first, kind, int.from_bytes(self.take(1 << (detail - 24)), "big")


def _fields(cursor: _Cursor) -> dict[str, Value]:
    """Parse a map of text keys and simple values; raises _Incomplete, ProtocolError."""
    begun = cursor.position
    _, kind, count = cursor.head()
    if kind != _MAP or count > _MAX_FIELDS:
        raise broken("sent something that is not a packet")
    fields: dict[str, Value] = {}
    for _ in range(count):
        _, kind, length = cursor.head()
        if kind != _TEXT or length > _MAX_KEY:
            raise broken("sent a packet with a field that has no name")
        name = _decoded(cursor.take(length))
        if name in fields:
            raise broken("sent a field twice")
        fields[name] = _value(cursor)
        if cursor.position - begun > _MAX_PACKET:
            raise broken("sent a packet that is too long")
    return fields


def _value(cursor: _Cursor) -> Value:
    first, kind, number = cursor.head()
    if kind == _NUMBER:
        return number
    if kind == _BYTES and number <= MAX_PAYLOAD:
        return cursor.take(number)
    if kind == _TEXT and number <= _MAX_TEXT:
        return _decoded(cursor.take(number))
    if first in (_FALSE, _TRUE):
        return first == _TRUE
    if first == _NULL:
        return None
    raise broken("sent a value that is too long, or of a kind that packets do not have")


def _decoded(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise broken("sent text that is not UTF-8") from None


def _number(fields: Mapping[str, Value], name: str, highest: int = _MAX_NUMBER) -> int:
    value = fields.get(name) or 0
    if not isinstance(value, int) or isinstance(value, bool) or value > highest:
        raise broken(f"sent no proper number as {name}")
    return value


def _text(fields: Mapping[str, Value], name: str) -> str:
    value = fields.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise broken(f"sent no text as {name}")
    return value


def _encode(fields: Mapping[str, Value]) -> bytes:
    """Encode a map in the shortest form, with the fields in order."""
    parts = [_head(_MAP, len(fields))]
    for name, value in fields.items():
        parts += [_head(_TEXT, len(name)), name.encode()]
        if value is None:
            parts.append(bytes([_NULL]))
        elif isinstance(value, bool):
            parts.append(bytes([_TRUE if value else _FALSE]))
        elif isinstance(value, int):
            parts.append(_head(_NUMBER, value))
        else:
            kind, content = (_TEXT, value.encode()) if isinstance(value, str) else (_BYTES, value)
            parts += [_head(kind, len(content)), content]
    return b"".join(parts)


def _head(kind: int, number: int) -> bytes:
    if number < 24:
        return bytes([kind << 5 | number])
    power = next(power for power in range(4) if number < 1 << (8 << power))
    return bytes([kind << 5 | (24 + power)]) + number.to_bytes(1 << power, "big")
