"""The PROXY protocol, versions 1 and 2, by which a proxy in front of the server passes on the client's address.

Follows HAProxy's specification (``proxy-protocol.txt``), receiver's side. Exactly the header is read, so everything
after it is the client's.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from datetime import timedelta

from containerssh.core.codes import SSHCode
from containerssh.core.errors import ProtocolError
from containerssh.core.metadata import SocketAddress

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
V1_MAX = 107
V2_MAX = 4096
"""The maximum of bytes after the 16 bytes of a version 2 header: addresses and extensions (TLVs), which are ignored."""

_V2_FIXED = 16
_FIRST = len(SIGNATURE)
_V1 = b"PROXY "
_PORT = re.compile(r"0|[1-9][0-9]{0,4}")


def missing(header: bytes) -> int:
    """
    How many more bytes the header needs at least; 0 if it is complete.

    Raises:
        ProtocolError: this is not a PROXY header, or it is too long.
    """
    if header[:1] == _V1[:1]:
        return _missing_v1(header)
    if not SIGNATURE.startswith(header[:_FIRST]):
        raise _broken("it does not begin with a PROXY header")
    if len(header) < _V2_FIXED:
        # Not 16 at once: the shortest header of version 1 has 15 bytes.
        return (_FIRST if len(header) < _FIRST else _V2_FIXED) - len(header)
    length = int.from_bytes(header[14:16], "big")
    if length > V2_MAX:
        raise _broken("its PROXY header is too long")
    return _V2_FIXED + length - len(header)


def _missing_v1(header: bytes) -> int:
    if not _V1.startswith(header[: len(_V1)]):
        raise _broken("it does not begin with a PROXY header")
    end = header.find(b"\n")
    if end >= 0:
        return 0
    if len(header) >= V1_MAX:
        raise _broken("its PROXY header is too long")
    if len(header) < len("PROXY UNKNOWN\r\n"):
        return len("PROXY UNKNOWN\r\n") - len(header)
    return 1 if header.endswith(b"\r") else min(2, V1_MAX - len(header))


def parse(header: bytes) -> SocketAddress | None:
    """
    The client's address in a complete header; None for a connection of the proxy itself, or an unknown address.

    Raises:
        ProtocolError: the header violates the specification.
    """
    return _parse_v1(header) if header.startswith(_V1) else _parse_v2(header)


def _parse_v1(header: bytes) -> SocketAddress | None:
    if not header.endswith(b"\r\n") or len(header) > V1_MAX:
        raise _broken("its PROXY header has no proper end")
    try:
        words = header[:-2].decode("ascii").split(" ")
    except UnicodeDecodeError:
        raise _broken("its PROXY header is not ASCII") from None
    family = words[1]
    if family == "UNKNOWN":
        return None
    if family not in ("TCP4", "TCP6") or len(words) != 6:
        raise _broken("its PROXY header is malformed")
    source, _ = (_address(family, text) for text in words[2:4])
    port, _ = (_port(text) for text in words[4:])
    return SocketAddress.of(source, port)


def _address(family: str, text: str) -> str:
    kind = ipaddress.IPv4Address if family == "TCP4" else ipaddress.IPv6Address
    try:
        address = kind(text)
    except ValueError:
        raise _broken("its PROXY header holds a malformed address") from None
    if "%" in text:
        raise _broken("its PROXY header holds a malformed address")
    return str(address)


def _port(text: str) -> int:
    if not _PORT.fullmatch(text) or int(text) > 65535:
        raise _broken("its PROXY header holds a malformed port")
    return int(text)


def _parse_v2(header: bytes) -> SocketAddress | None:
    version, command = header[12] >> 4, header[12] & 15
    if version != 2 or command > 1:
        raise _broken("its PROXY header is of an unknown version or command")
    if command == 0:  # LOCAL: a health check of the proxy itself; whatever follows means nothing
        return None
    rest = header[_V2_FIXED:]
    match header[13]:
        case 0x11:
            size = 4
        case 0x21:
            size = 16
        case 0x00 | 0x31:  # unknown; a unix socket, which has no address
            return None
        case _:
            raise _broken("its PROXY header is of an unknown family")
    if len(rest) < 2 * size + 4:
        raise _broken("its PROXY header is cut short")
    host = ipaddress.ip_address(rest[:size])
    return SocketAddress.of(str(host), int.from_bytes(rest[2 * size : 2 * size + 2], "big"))


async def read_header(sock: socket.socket, *, within: timedelta) -> SocketAddress | None:
    """
    Read exactly the header at the beginning of *sock*; return the client's address like :func:`parse`.

    Raises:
        ProtocolError: the header is missing, malformed, incomplete or late.
    """
    loop = asyncio.get_running_loop()
    header = b""
    try:
        async with asyncio.timeout(within.total_seconds()):
            while more := missing(header):
                data = await loop.sock_recv(sock, more)
                if not data:
                    raise _broken("it ended before its PROXY header did")
                header += data
    except TimeoutError:
        raise _broken("its PROXY header did not come in time") from None
    except OSError as exc:
        raise _broken("it broke before its PROXY header came") from exc
    return parse(header)


def _broken(what: str) -> ProtocolError:
    return ProtocolError(SSHCode.PROXY_REFUSED, what)
