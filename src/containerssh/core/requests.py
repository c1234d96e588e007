"""The payloads of SSH channel requests as values (RFC 4254 section 6).

Strings of the wire that may hold any byte (environment, commands, names) are ``str`` with the undecodable bytes kept as
surrogates (PEP 383); :func:`to_wire` gives the original bytes back.
"""

from __future__ import annotations

from dataclasses import dataclass, field


def from_wire(data: bytes) -> str:
    """Text of the wire; bytes that are not UTF-8 become surrogates."""
    return data.decode("utf-8", "surrogateescape")


def to_wire(text: str) -> bytes:
    """The bytes that :func:`from_wire` was given."""
    return text.encode("utf-8", "surrogateescape")


def can_be_variable(name: str, value: str) -> bool:
    """Whether an environment can hold it: a name, without ``=``, and no NUL (environ(7))."""
    return bool(name) and "=" not in name and "\0" not in name + value


@dataclass(frozen=True)
class WindowSize:
    """A terminal's size in characters, and in pixels where the client told (else 0)."""

    columns: int
    rows: int
    width: int = 0
    height: int = 0


@dataclass(frozen=True)
class PtyRequest:
    """``pty-req``: terminal type, size, and the encoded terminal modes (RFC 4254 section 8)."""

    term: str
    size: WindowSize
    modes: bytes = b""


SIGNALS = frozenset(
    {
        "ABRT",
        "ALRM",
        "FPE",
        "HUP",
        "ILL",
        "INT",
        "KILL",
        "PIPE",
        "QUIT",
        "SEGV",
        "TERM",
        "USR1",
        "USR2",
    }
)
"""Signal names of RFC 4254 section 6.10, without ``SIG``."""


@dataclass(frozen=True)
class ExitSignal:
    """How a program died of a signal; *name* without ``SIG``."""

    name: str
    core_dumped: bool = False
    message: str = ""


@dataclass(frozen=True)
class X11Request:
    """``x11-req`` (RFC 4254 section 6.3.1)."""

    single_connection: bool
    """Only the first connection is to be forwarded."""
    protocol: str
    """The authentication protocol's name, ``MIT-MAGIC-COOKIE-1``."""
    cookie: str = field(repr=False)
    """Hexadecimal digits; a secret."""
    screen: int


@dataclass(frozen=True)
class Origin:
    """Where a connection that is forwarded to the client comes from (RFC 4254 section 7.2); empty for unix sockets."""

    host: str = ""
    port: int = 0
