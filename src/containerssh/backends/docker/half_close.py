"""TLS connections that can be half-closed, which asyncio does not support; needed for EOF on a program's input."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from typing import Any

from containerssh.core.flag import Flag
from containerssh.core.streams import CHUNK
from containerssh.web.head import HEAD_LIMIT

_HANDSHAKE_LIMIT = 60.0


async def open_tls(host: str, port: int, context: ssl.SSLContext) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """
    Open a TLS connection to *host*. The writer's ``write_eof`` sends close_notify (RFC 8446 section 6.1), after which
    the peer may continue to write; the peer's close_notify is read as ``b""``.

    Raises:
        OSError: the connection failed, or the certificate is not valid for the host (``ssl.SSLError``).
    """
    raw_reader, raw_writer = await asyncio.open_connection(host, port, limit=HEAD_LIMIT)
    reader = asyncio.StreamReader(limit=HEAD_LIMIT)
    protocol = asyncio.StreamReaderProtocol(reader)
    transport = _Transport(raw_reader, raw_writer, protocol, context, host)
    try:
        async with asyncio.timeout(_HANDSHAKE_LIMIT):
            await transport.shake_hands()
    except BaseException:
        raw_writer.transport.abort()
        raise
    protocol.connection_made(transport)
    transport.begin()
    return reader, asyncio.StreamWriter(transport, protocol, reader, asyncio.get_running_loop())


class _Transport(asyncio.Transport):
    """
    TLS over a pair of plain streams.

    Received data is decrypted at once and completely, so that no record is pending when the writing side is closed:
    OpenSSL would treat that as an error.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        protocol: asyncio.Protocol,
        context: ssl.SSLContext,
        host: str,
    ) -> None:
        super().__init__()
        self._reader = reader
        self._writer = writer
        self._protocol = protocol
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._may_read = Flag()
        self._may_read.set()
        self._flushing: asyncio.Task[None] | None = None
        self._reading: asyncio.Task[None] | None = None
        self._ended = False
        self._closing = False

    async def shake_hands(self) -> None:
        """Perform the TLS handshake. Raises OSError."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._send()
                if not await self._receive():
                    raise ConnectionResetError("the engine ended the connection during TLS's handshake") from None
            else:
                return await self._send()

    def begin(self) -> None:
        """Start reading."""
        self._reading = asyncio.create_task(self._read())

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if self._closing or self._ended or not data:
            return
        try:
            self._tls.write(data)
        except ssl.SSLError as exc:
            self._lose(exc)
            return
        self._flush()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        if self._ended or self._closing:
            return
        self._ended = True
        # This sends close_notify; it then asks to read the peer's, which may arrive much later.
        with suppress(ssl.SSLError):
            self._tls.unwrap()
        self._flush()

    def close(self) -> None:
        self.write_eof()
        self._lose(None)

    def abort(self) -> None:
        self._writer.transport.abort()
        self._lose(None)

    def is_closing(self) -> bool:
        return self._closing

    def pause_reading(self) -> None:
        self._may_read.clear()

    def resume_reading(self) -> None:
        self._may_read.set()

    def get_extra_info(self, name: str, default: object = None) -> Any:
        return self._writer.get_extra_info(name, default)

    async def _send(self) -> None:
        while data := self._outgoing.read(CHUNK):
            self._writer.write(data)
            await self._writer.drain()

    async def _receive(self) -> bool:
        data = await self._reader.read(CHUNK)
        if data:
            self._incoming.write(data)
        return bool(data)

    def _flush(self) -> None:
        if self._flushing is None or self._flushing.done():
            self._protocol.pause_writing()
            self._flushing = asyncio.create_task(self._flush_all())

    async def _flush_all(self) -> None:
        try:
            await self._send()
        except OSError as exc:
            self._lose(exc)
            return
        self._protocol.resume_writing()

    async def _read(self) -> None:
        error: Exception | None = None
        try:
            while await self._receive():
                if self._decrypt():
                    break
                await self._may_read.wait()
            else:
                # Without close_notify, the stream may have been truncated by an attacker.
                error = ConnectionResetError("the engine's TLS connection was cut off")
        except OSError as exc:
            error = exc
        if error is None:
            self._protocol.eof_received()
        else:
            self._lose(error)

    def _decrypt(self) -> bool:
        """Decrypt all received data; return whether the peer has closed its side."""
        while True:
            try:
                data = self._tls.read(CHUNK)
            except ssl.SSLWantReadError:
                # A key update may require a response.
                if self._outgoing.pending:
                    self._flush()
                return False
            except ssl.SSLZeroReturnError:
                return True
            if not data:
                return True
            self._protocol.data_received(data)

    def _lose(self, error: Exception | None) -> None:
        if self._closing:
            return
        self._closing = True
        current = asyncio.current_task()
        if self._reading is not None and self._reading is not current:
            self._reading.cancel()
        if self._flushing is None or self._flushing.done() or error is not None:
            self._writer.close()
        else:
            self._flushing.add_done_callback(lambda _: self._writer.close())
        self._protocol.connection_lost(error)
