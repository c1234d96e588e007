"""An HTTP/1.1 request that turns its connection into something else (RFC 9110 section 7.8)."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from containerssh.backends.kubernetes.credentials import Access
from containerssh.backends.kubernetes.errors import ERROR_LIMIT, broken

HEAD_LIMIT = 64 * 1024
_HEADERS_LIMIT = 100
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: [^\r\n]*)?")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}):[ \t]*([^\r\n\0]*?)[ \t]*")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})(?:;[^\r\n]*)?\r\n")

# Seconds of silence before the kernel asks whether the other side is there, between its questions, and their number.
_KEEPALIVE = {socket.TCP_KEEPIDLE: 15, socket.TCP_KEEPINTVL: 5, socket.TCP_KEEPCNT: 6}
_UNACKNOWLEDGED_LIMIT = 45_000
"""Milliseconds after which data that nobody acknowledged breaks the connection."""


@dataclass(frozen=True)
class Head:
    """A reply without its body; header names are in lower case."""

    status: int
    headers: Mapping[str, str]


@dataclass
class Upgraded:
    """A connection that answered. Its status is 101, or *body* tells why not."""

    head: Head
    body: bytes
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def abort(self) -> None:
        """Close at once; safe to call twice."""
        with suppress(Exception):
            self.writer.transport.abort()


async def upgrade(access: Access, method: str, target: str, headers: Sequence[tuple[str, str]]) -> Upgraded:
    """
    Ask on a new connection; the caller aborts what comes back.

    Raises:
        OSError: nobody listens there, TLS failed, or the connection broke.
        ProtocolError: the answer is not HTTP.
    """
    reader, writer = await asyncio.open_connection(
        access.host,
        access.port,
        limit=HEAD_LIMIT,
        ssl=access.tls,
        server_hostname=access.server_name if access.tls else None,
    )
    try:
        watch_peer(writer.get_extra_info("socket"))
        request = _request(
            method, target, [("Host", access.authority), ("User-Agent", "ContainerSSH"), *access.headers, *headers]
        )
        writer.write(request)
        await writer.drain()
        head = await _head(reader)
        body = b"" if head.status == 101 else await _body(reader, head)
    except BaseException:
        writer.transport.abort()
        raise
    return Upgraded(head, body, reader, writer)


def _request(method: str, target: str, fields: Sequence[tuple[str, str]]) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields)]
    if any("\r" in line or "\n" in line or "\0" in line for line in lines):
        raise ValueError("a header would break out of its line")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def watch_peer(sock: socket.socket | None) -> None:
    """Let the kernel find out when the other side of a TCP connection is gone without a word."""
    if sock is None:
        return
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE.items():
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED_LIMIT)


def parse_head(data: bytes) -> Head:
    """
    A status line and headers, with the empty line that ends them; of repeated headers all values, joined by commas.

    Raises:
        ProtocolError: this is not HTTP/1.
    """
    lines = data.removesuffix(b"\r\n\r\n").split(b"\r\n")
    status = _STATUS.fullmatch(lines[0])
    if status is None or len(lines) > _HEADERS_LIMIT:
        raise broken("the API server's answer is not HTTP")
    headers: dict[str, str] = {}
    for line in lines[1:]:
        header = _HEADER.fullmatch(line)
        if header is None:
            raise broken("the API server's answer has a malformed header")
        name, value = header[1].decode("ascii").lower(), header[2].decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return Head(int(status[1]), headers)


async def _head(reader: asyncio.StreamReader) -> Head:
    while True:
        try:
            head = parse_head(await reader.readuntil(b"\r\n\r\n"))
        except asyncio.IncompleteReadError:
            raise ConnectionResetError("the API server closed the connection without an answer") from None
        except asyncio.LimitOverrunError:
            raise broken("the head of the API server's answer is too long") from None
        if head.status >= 200 or head.status == 101:
            return head


async def _body(reader: asyncio.StreamReader, head: Head) -> bytes:
    """The first of what a refusal says; a body that breaks off is as good as none."""
    length = head.headers.get("content-length", "")
    try:
        if head.headers.get("transfer-encoding", "").lower() == "chunked":
            return await _chunks(reader)
        if length.isascii() and length.isdigit() and len(length) < 19:
            return await reader.readexactly(min(int(length), ERROR_LIMIT))
        return await reader.read(ERROR_LIMIT)
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as exc:
        return exc.partial if isinstance(exc, asyncio.IncompleteReadError) else b""


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    body = bytearray()
    while len(body) < ERROR_LIMIT:
        size = _CHUNK.fullmatch(await reader.readuntil(b"\r\n"))
        if size is None or not int(size[1], 16):
            break
        body += await reader.readexactly(min(int(size[1], 16), ERROR_LIMIT))
        if int(size[1], 16) <= ERROR_LIMIT:
            await reader.readexactly(2)
    return bytes(body[:ERROR_LIMIT])
