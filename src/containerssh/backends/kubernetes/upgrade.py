"""An HTTP/1.1 request that changes the protocol of its connection (Upgrade, RFC 9110 section 7.8)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from containerssh.backends.kubernetes.credentials import Access
from containerssh.backends.kubernetes.errors import ERROR_LIMIT, REFUSAL_SECONDS, broken
from containerssh.core.errors import ProtocolError
from containerssh.core.wire import Wire, watch_peer
from containerssh.web.head import HEAD_LIMIT, Head, parse_head

_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})(?:;[^\r\n]*)?\r\n")


@dataclass
class Upgraded:
    """A connection after the response. Its status is 101; otherwise *body* is the beginning of the error's body."""

    head: Head
    body: bytes
    wire: Wire

    def abort(self) -> None:
        """Close at once; safe to call twice."""
        self.wire.abort()


async def upgrade(access: Access, method: str, target: str, headers: Sequence[tuple[str, str]]) -> Upgraded:
    """
    Send the request on a new connection, which the caller aborts in the end.

    Raises:
        OSError: connecting or TLS failed, or the connection broke.
        ProtocolError: the response is not HTTP.
    """
    transport, wire = await asyncio.get_running_loop().create_connection(
        Wire,
        access.host,
        access.port,
        ssl=access.tls,
        server_hostname=access.server_name if access.tls else None,
    )
    try:
        watch_peer(transport.get_extra_info("socket"))
        wire.write(_request(method, target, [("Host", access.authority), *access.headers, *headers]))
        head = await _head(wire)
        body = b"" if head.status == 101 else await read_refusal(wire, head)
    except BaseException:
        wire.abort()
        raise
    return Upgraded(head, body, wire)


def _request(method: str, target: str, fields: Sequence[tuple[str, str]]) -> bytes:
    fields = [*fields, ("User-Agent", "ContainerSSH")]
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields)]
    if any("\r" in line or "\n" in line or "\0" in line for line in lines):
        raise ValueError("a header would break out of its line")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


async def _head(wire: Wire) -> Head:
    while True:
        data = await _until(wire, b"\r\n\r\n")
        try:
            head = parse_head(data)
        except ValueError as exc:
            raise broken(f"the API server's answer {exc}") from None
        if head.is_final:
            return head


async def _until(wire: Wire, mark: bytes) -> bytes:
    """
    The data up to and including *mark*.

    Raises:
        OSError: the connection broke.
        ProtocolError: it is not within the first HEAD_LIMIT bytes.
    """
    while (at := wire.collected.find(mark)) < 0:
        if len(wire.collected) > HEAD_LIMIT:
            raise broken("the head of the API server's answer is too long")
        if not await wire.more():
            raise ConnectionResetError("the API server closed the connection without an answer")
    return _taken(wire, at + len(mark))


async def read_refusal(wire: Wire, head: Head) -> bytes:
    """The beginning of the body of an error response; if it ends early, stalls or is malformed, what came before."""
    length = head.headers.get("content-length", "")
    known = length.isascii() and length.isdigit() and len(length) < 19
    body = bytearray()
    with suppress(OSError, ProtocolError):
        async with asyncio.timeout(REFUSAL_SECONDS):
            if head.headers.get("transfer-encoding", "").lower() == "chunked":
                await _chunks(wire, body)
            else:
                await _gather(wire, min(int(length), ERROR_LIMIT) if known else ERROR_LIMIT, body)
    return bytes(body)


async def _chunks(wire: Wire, body: bytearray) -> None:
    """Add the data of chunks (RFC 9112 section 7.1) to *body*, up to ERROR_LIMIT bytes."""
    while len(body) < ERROR_LIMIT:
        size = _CHUNK.fullmatch(await _until(wire, b"\r\n"))
        length = int(size[1], 16) if size else 0
        if not length:
            break
        await _gather(wire, min(length, ERROR_LIMIT - len(body)), body)
        if len(body) >= ERROR_LIMIT or await _until(wire, b"\r\n") != b"\r\n":
            break


async def _gather(wire: Wire, count: int, body: bytearray) -> None:
    """Move up to *count* bytes to *body* as they arrive, so it holds those that arrived before a failure."""
    while count:
        piece = _taken(wire, count)
        body += piece
        count -= len(piece)
        if count and not await wire.more():
            break


def _taken(wire: Wire, count: int) -> bytes:
    taken = bytes(wire.collected[:count])
    del wire.collected[:count]
    return taken
