"""Payloads of channel requests, from bytes to values (RFC 4254 section 6, RFC 4335).

A payload that is cut short, has bytes left over, or holds what no program could be given is a :class:`ProtocolError`:
the request is refused, and nothing else happens.
"""

from __future__ import annotations

from dataclasses import dataclass

from containerssh.core.codes import SSHCode
from containerssh.core.errors import ProtocolError
from containerssh.core.requests import PtyRequest, WindowSize, from_wire

_TERM_BYTES = 256
_MODES_BYTES = 4096
# A terminal of the kernel counts its rows and columns in 16 bits.
_SIZE_MAX = 0xFFFF


class Fields:
    """Reads the fields of a payload one after another."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def uint32(self) -> int:
        return int.from_bytes(self._take(4), "big")

    def boolean(self) -> bool:
        return self._take(1) != b"\0"

    def string(self) -> bytes:
        return self._take(self.uint32())

    def end(self) -> None:
        if self._at != len(self._data):
            raise malformed("bytes are left over")

    def _take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._data):
            raise malformed("it ends too early")
        piece = self._data[self._at : end]
        self._at = end
        return piece


@dataclass(frozen=True)
class Env:
    name: str
    value: str


def parse_env(payload: bytes) -> Env:
    """A variable; names that no environment can hold are refused (empty, ``=``, NUL, line ends)."""
    fields = Fields(payload)
    name, value = fields.string(), fields.string()
    fields.end()
    if not name or any(byte in name for byte in (b"=", b"\0", b"\n", b"\r")):
        raise malformed("the variable has a name that cannot be used")
    if b"\0" in value:
        raise malformed("the variable's value holds a NUL")
    return Env(from_wire(name), from_wire(value))


def parse_pty(payload: bytes) -> PtyRequest:
    fields = Fields(payload)
    term = fields.string()
    size = _size(fields)
    modes = fields.string()
    fields.end()
    if len(term) > _TERM_BYTES or len(modes) > _MODES_BYTES:
        raise malformed("the terminal's description is too long")
    if any(byte < 0x20 or byte == 0x7F for byte in term):
        raise malformed("the terminal's type holds control characters")
    return PtyRequest(from_wire(term), size, modes)


def parse_size(payload: bytes) -> WindowSize:
    fields = Fields(payload)
    size = _size(fields)
    fields.end()
    return size


def parse_text(payload: bytes) -> str:
    """The one string of ``exec``, ``subsystem`` and ``signal``; no program can be given a NUL."""
    fields = Fields(payload)
    text = fields.string()
    fields.end()
    if b"\0" in text:
        raise malformed("the text holds a NUL")
    return from_wire(text)


def parse_nothing(payload: bytes) -> None:
    Fields(payload).end()


def parse_break(payload: bytes) -> int:
    """The break's length in milliseconds."""
    fields = Fields(payload)
    length = fields.uint32()
    fields.end()
    return length


def malformed(why: str) -> ProtocolError:
    return ProtocolError(SSHCode.DECODE_FAILED, f"the request cannot be used: {why}")


def _size(fields: Fields) -> WindowSize:
    return WindowSize(*(min(fields.uint32(), _SIZE_MAX) for _ in range(4)))
