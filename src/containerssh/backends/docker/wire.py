"""An HTTP/1.1 client for the engine (RFC 9112): sequential exchanges on a connection, with limits on all lengths."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from containerssh.core.codes import DockerCode
from containerssh.core.errors import ProtocolError
from containerssh.core.streams import CHUNK
from containerssh.web.head import HEADERS_LIMIT, Head, parse_head

_CHUNK_SIZE = re.compile(rb"([0-9a-fA-F]{1,15})[ \t]*(?:;[^\r\n]*)?\r\n")
_LENGTH = re.compile(r"[0-9]{1,15}")


@dataclass(frozen=True)
class Request:
    """A request; *target* must be escaped."""

    method: str
    target: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)


def body_length(head: Head, method: str) -> int | None:
    """
    The length of the body that follows *head*: a number, -1 for chunked, None for all data until the connection closes
    (RFC 9112 section 6.3).

    Raises:
        ProtocolError: the headers are contradictory.
    """
    if method == "HEAD" or head.status < 200 or head.status in (204, 304):
        return 0
    coding, length = head.headers.get("transfer-encoding"), head.headers.get("content-length")
    if coding is not None:
        if coding.lower() != "chunked" or length is not None:
            raise _broken("the engine's answer is framed in an unknown way")
        return -1
    if length is None:
        return None
    if not _LENGTH.fullmatch(length):
        raise _broken("the engine's answer has a malformed length")
    return int(length)


class Wire:
    """
    A connection to the engine, whose *reader* has a buffer of ``HEAD_LIMIT`` bytes. The user closes it or returns it to
    the pool.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.answered = False
        """Whether any byte of the current response has been received."""
        self._spoiled = False

    async def ask(self, request: Request) -> Head:
        """
        Send *request* and return the head of the response. It may arrive before a large body is sent completely; it is
        then a refusal, and the rest of the body is not sent.

        Raises:
            ProtocolError: the response is not HTTP.
            OSError: the connection broke.
        """
        if len(request.body) <= CHUNK:
            await self.send(request)
            return await self.head()
        sending, answering = asyncio.create_task(self.send(request)), asyncio.create_task(self.head())
        try:
            await asyncio.wait((sending, answering), return_when=asyncio.FIRST_COMPLETED)
            self._spoiled = not sending.done() or sending.exception() is not None
            return await answering
        finally:
            sending.cancel()
            answering.cancel()
            await asyncio.gather(sending, answering, return_exceptions=True)

    async def send(self, request: Request) -> None:
        """
        Send *request* and all of its body.

        Raises:
            OSError: the connection broke.
        """
        self.answered = False
        headers = {"User-Agent": "containerssh", **request.headers}
        if request.body or request.method in ("POST", "PUT"):
            headers["Content-Length"] = str(len(request.body))
        lines = [
            f"{request.method} {request.target} HTTP/1.1",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        text = "\r\n".join(lines)
        if "\r\n" in text.replace("\r\n", "", len(lines) - 1) or "\0" in text:
            raise ValueError("a header would break out of its line")
        self.writer.write(text.encode("latin-1") + b"\r\n\r\n" + request.body[:CHUNK])
        await self.writer.drain()
        for start in range(CHUNK, len(request.body), CHUNK):
            self.writer.write(request.body[start : start + CHUNK])
            await self.writer.drain()

    async def head(self) -> Head:
        """
        Read the head of the response; interim responses (1xx) are skipped.

        Raises:
            ProtocolError: the response is not HTTP, or its head is too long.
            OSError: the connection broke.
        """
        while True:
            try:
                data = await self.reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError as exc:
                self.answered = bool(exc.partial)
                raise ConnectionResetError("the engine closed the connection without an answer") from None
            except asyncio.LimitOverrunError:
                raise _broken("the head of the engine's answer is too long") from None
            self.answered = True
            try:
                head = parse_head(data)
            except ValueError as exc:
                raise _broken(f"the engine's answer {exc}") from None
            if head.is_final:
                return head

    async def body(self, head: Head, method: str) -> AsyncGenerator[bytes]:
        """
        Read the body in pieces of at most CHUNK bytes.

        Raises:
            ProtocolError: the framing is invalid.
            OSError: the connection broke before the end of the body.
        """
        length = body_length(head, method)
        if length is None:
            while data := await self.reader.read(CHUNK):
                yield data
        elif length >= 0:
            async for data in self._exactly(length):
                yield data
        else:
            while size := await self._chunk_size():
                async for data in self._exactly(size):
                    yield data
                if await self._exact(2) != b"\r\n":
                    raise _broken("a chunk of the engine's answer is longer than it says")
            for _ in range(HEADERS_LIMIT):
                if await self._line() == b"\r\n":
                    return
            raise _broken("the engine's answer has too many trailers")

    def is_fresh(self) -> bool:
        """Whether the connection can be used for another exchange, that is, has not been closed."""
        return not (self._spoiled or self.reader.at_eof() or self.writer.is_closing())

    def abort(self) -> None:
        """Close at once; unsent data is dropped. A second call does nothing."""
        with suppress(Exception):
            self.writer.transport.abort()

    async def _exactly(self, count: int) -> AsyncIterator[bytes]:
        while count:
            data = await self.reader.read(min(count, CHUNK))
            if not data:
                raise ConnectionResetError("the engine's answer ended early")
            count -= len(data)
            yield data

    async def _exact(self, count: int) -> bytes:
        try:
            return await self.reader.readexactly(count)
        except asyncio.IncompleteReadError:
            raise ConnectionResetError("the engine's answer ended early") from None

    async def _line(self) -> bytes:
        try:
            return await self.reader.readuntil(b"\r\n")
        except asyncio.IncompleteReadError:
            raise ConnectionResetError("the engine's answer ended early") from None
        except asyncio.LimitOverrunError:
            raise _broken("a line of the engine's answer is too long") from None

    async def _chunk_size(self) -> int:
        match = _CHUNK_SIZE.fullmatch(await self._line())
        if match is None:
            raise _broken("a chunk of the engine's answer has a malformed size")
        return int(match[1], 16)


async def read_all(pieces: AsyncIterator[bytes], limit: int) -> bytes:
    """
    Read a complete body.

    Raises:
        ProtocolError: it is longer than *limit* bytes.
    """
    data = bytearray()
    async for piece in pieces:
        data += piece
        if len(data) > limit:
            raise _broken(f"the engine's answer is longer than {limit} bytes")
    return bytes(data)


def _broken(text: str) -> ProtocolError:
    return ProtocolError(DockerCode.PROTOCOL_ERROR, text)
