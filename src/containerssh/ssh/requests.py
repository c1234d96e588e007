"""Parsers for the payloads of channel requests (RFC 4254 section 6, RFC 4335).

A payload that is truncated, has trailing bytes, or contains values that no program could receive raises
:class:`ProtocolError`; the request is refused.
"""

from __future__ import annotations

from dataclasses import dataclass

from containerssh.core.codes import SSHCode
from containerssh.core.errors import ProtocolError
from containerssh.core.requests import PtyRequest, WindowSize, X11Request, from_wire
from containerssh.keys.wire import Reader

_TERM_BYTES = 256
_MODES_BYTES = 4096
_COOKIE_DIGITS = 2048
MOST_NAME = 1024
"""The maximum length of a host name or socket path."""
# The kernel stores a terminal's rows and columns in 16 bits.
_SIZE_MAX = 0xFFFF


class Fields(Reader):
    """Reads the fields of a payload in order; raises ProtocolError."""

    def malformed(self, why: str) -> Exception:
        return malformed(why)


@dataclass(frozen=True)
class Env:
    name: str
    value: str


def parse_env(payload: bytes) -> Env:
    """An environment variable; invalid names are refused (empty, ``=``, NUL, line ends)."""
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
    """The string of ``exec``, ``subsystem`` and ``signal``; NUL is refused."""
    fields = Fields(payload)
    text = fields.string()
    fields.end()
    if b"\0" in text:
        raise malformed("the text holds a NUL")
    return from_wire(text)


def parse_x11(payload: bytes) -> X11Request:
    """An X11 request (RFC 4254 section 6.3.1). The cookie is a secret and never part of an error."""
    fields = Fields(payload)
    single, protocol, cookie, screen = fields.boolean(), fields.string(), fields.string(), fields.uint32()
    fields.end()
    if len(protocol) > _TERM_BYTES or any(not 0x20 < byte < 0x7F for byte in protocol):
        raise malformed("the authentication protocol's name cannot be used")
    if len(cookie) > _COOKIE_DIGITS or len(cookie) % 2 or any(byte not in b"0123456789abcdefABCDEF" for byte in cookie):
        raise malformed("the cookie is not written in hexadecimal digits, or too long")
    if screen > _SIZE_MAX:
        raise malformed("there is no such screen")
    return X11Request(single, protocol.decode("ascii"), cookie.decode("ascii"), screen)


def parse_direct_tcp(payload: bytes) -> tuple[str, int]:
    """
    Host and port of a ``direct-tcpip`` (RFC 4254 section 7.2); the originator is ignored, as it cannot be trusted.
    """
    fields = Fields(payload)
    host, port = fields.string(), fields.uint32()
    fields.string()
    fields.uint32()
    fields.end()
    if not host or len(host) > MOST_NAME or any(byte <= 0x20 or byte == 0x7F for byte in host):
        raise malformed("there is no such host")
    if not 0 < port <= 0xFFFF:
        raise malformed("there is no such port")
    return from_wire(host), port


def parse_direct_unix(payload: bytes) -> str:
    """The path of a ``direct-streamlocal@openssh.com`` (OpenSSH's PROTOCOL, section 2.4)."""
    fields = Fields(payload)
    path = fields.string()
    fields.string()
    fields.uint32()
    fields.end()
    if not path or len(path) > MOST_NAME or b"\0" in path:
        raise malformed("there is no such socket")
    return from_wire(path)


def parse_listen(payload: bytes, *, has_port: bool) -> tuple[bytes, int]:
    """The address of a request to start or stop listening (RFC 4254 section 7.1), or a socket path and no port."""
    fields = Fields(payload)
    address = fields.string()
    port = fields.uint32() if has_port else 0
    fields.end()
    if port > 0xFFFF or b"\0" in address or len(address) > MOST_NAME or not (address or has_port):
        raise malformed("there is no such address")
    return address, port


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
