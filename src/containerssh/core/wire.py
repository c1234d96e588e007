"""A connection that delivers data in the callback in which they arrive."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import cast

from containerssh.core.flag import Flag
from containerssh.core.streams import CHUNK

_COLLECTED_LIMIT = 2 * CHUNK

# Shared by all connections: it is used only within one callback. With this buffer, TLS delivers many records at once
# and needs no buffer per connection. It must be large enough for everything that is available: data that asyncio's TLS
# defers to its next iteration are lost if the connection ends before. asyncio reads half as much.
_BUFFER = memoryview(bytearray(1 << 20))
_RECORD = 32 * 1024
"""Bytes by which TLS may overstate what is available."""

# TCP keepalive: seconds of silence before the first probe, seconds between probes, and their number.
_KEEPALIVE = {socket.TCP_KEEPIDLE: 15, socket.TCP_KEEPINTVL: 5, socket.TCP_KEEPCNT: 6}
_UNACKNOWLEDGED_LIMIT = 45_000
"""The time in milliseconds after which unacknowledged data breaks the connection (TCP_USER_TIMEOUT)."""


class Wire(asyncio.BufferedProtocol):
    """
    Collects data until :meth:`pass_on`, and from then on delivers them in the callback in which they arrive. Close it
    with :meth:`abort`.
    """

    def __init__(self) -> None:
        self.collected = bytearray()
        self._full = False
        self._buffer = _BUFFER
        self._news = Flag()
        self._room = Flag()
        self._room.set()
        self._gone = Flag()
        self._error: Exception | None = None
        self._take: Callable[[bytes], None] | None = None
        self._lost: Callable[[Exception | None], None] | None = None
        self._transport: asyncio.Transport | None = None

    # -- asyncio's side ----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        enough = sizehint + _RECORD <= len(_BUFFER)
        self._buffer = _BUFFER if enough else memoryview(bytearray(sizehint + _RECORD))
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        data, self._buffer = bytes(self._buffer[:nbytes]), _BUFFER
        if self._take is not None:
            self._take(data)
            return
        self.collected += data
        if len(self.collected) > _COLLECTED_LIMIT:
            self._full = True
            self.pause()
        self._news.set()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._error = exc
        self._gone.set()
        self._news.set()
        self._room.set()
        if self._lost is not None:
            self._lost(exc)

    def pause_writing(self) -> None:
        self._room.clear()

    def resume_writing(self) -> None:
        self._room.set()

    # -- the users' side ----------------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._gone.is_set() and not self._transport.is_closing()

    @property
    def own_host(self) -> str:
        """The local address of this connection; empty if there is none."""
        name = None if self._transport is None else self._transport.get_extra_info("sockname")
        return str(name[0]) if isinstance(name, tuple) else ""

    @property
    def peer_certificate(self) -> bytes | None:
        """The peer's TLS certificate (DER)."""
        found: ssl.SSLObject | None = None if self._transport is None else self._transport.get_extra_info("ssl_object")
        return None if found is None else found.getpeercert(binary_form=True)

    @property
    def unsent(self) -> int:
        """The number of unsent bytes."""
        return 0 if self._transport is None or self._gone.is_set() else self._transport.get_write_buffer_size()

    async def more(self) -> bool:
        """
        Wait until more data are collected; False at the end.

        Raises:
            OSError: the connection broke.
        """
        self._news.clear()
        if not self._gone.is_set():
            await self._news.wait()
        if self._error is not None:
            raise ConnectionResetError(str(self._error) or "the connection broke") from self._error
        return not self._gone.is_set()

    def pass_on(self, take: Callable[[bytes], None], lost: Callable[[Exception | None], None]) -> None:
        """
        Deliver data to *take* from now on, at most some hundred KiB at a time, and call *lost* once at the end. Neither
        may raise. What was collected before is delivered before this returns.
        """
        self._take, self._lost = take, lost
        if self._full:
            self._full = False
            self.resume()
        collected, self.collected = bytes(self.collected), bytearray()
        if collected:
            take(collected)
        if self._gone.is_set():
            lost(self._error)

    def pause(self) -> None:
        """Stop receiving."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume(self) -> None:
        """Undo :meth:`pause`."""
        if self._transport is not None:
            self._transport.resume_reading()

    def write(self, data: bytes) -> None:
        """Send *data* without waiting; does nothing after the connection is closed."""
        if self._transport is not None and not self._gone.is_set():
            self._transport.write(data)

    async def drain(self) -> None:
        """
        Returns when there is room for more.

        Raises:
            ConnectionError: the connection is gone.
        """
        if not self._room.is_set():
            await self._room.wait()
        if self._gone.is_set():
            raise ConnectionResetError("the connection is gone") from self._error

    async def close(self, within: float) -> None:
        """Send what is unsent, then close; after *within* seconds close at once."""
        if self._transport is not None:
            self._transport.close()
            with suppress(TimeoutError):
                async with asyncio.timeout(within):
                    await self._gone.wait()
        self.abort()

    def abort(self) -> None:
        """Close at once; safe to call twice."""
        if self._transport is not None:
            with suppress(Exception):
                self._transport.abort()


def watch_peer(sock: socket.socket | None) -> None:
    """Have the kernel detect peers of a TCP connection that have vanished."""
    if sock is None:
        return
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE.items():
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED_LIMIT)
