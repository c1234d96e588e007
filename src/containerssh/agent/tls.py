"""
The gateway's side of TLS with an agent. asyncio's own processes whatever has arrived at once: some MiB of tiny records,
or of requests for new keys, which carry no data, would keep everybody else waiting for seconds.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import cast

from containerssh.core.flag import Flag

# Shared by all connections: each is used only within one callback.
_RAW = memoryview(bytearray(32 * 1024))
_PLAIN = memoryview(bytearray(2 * len(_RAW)))
_EARLY_LIMIT = 128 * 1024
_UNSENT_LIMIT = 256 * 1024
"""Bytes at which :meth:`AgentTLS.drain` waits."""

_WORTH = 8
_MOST_OWED = 64 * 1024
"""
Each byte of data entitles to so many bytes of records; beyond that a peer may owe so many. An agent's shortest message
has 8 bytes, and takes a record of 30.
"""
_ANSWER = 64
"""How much a peer owes for each byte that TLS answers: to requests for new keys, which an agent never makes."""
_MANY_RECORDS = 32
"""In one callback: after so many it is somebody else's turn."""
_LAST_WORDS = 1.0
"""Seconds for which a peer that has ended, or is sent away, may still read what it is told."""


class AgentTLS(asyncio.BufferedProtocol):
    """
    A connection that delivers data in the callback in which they arrive, as :class:`~containerssh.core.wire.Wire` does.
    Call :meth:`handshake` once it is made, then :meth:`pass_on`. Close it with :meth:`abort` or :meth:`close`.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._established = False
        self._closing = False
        self._owed = 0
        self._paused = False
        self._resting = False
        self._early = bytearray()
        self._take: Callable[[bytes], None] = self._collect
        self._lost: Callable[[Exception | None], None] | None = None
        self._error: Exception | None = None
        self._greeted = Flag()
        self._room = Flag()
        self._room.set()
        self._gone = Flag()

    # -- asyncio's side ----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(_UNSENT_LIMIT)

    def get_buffer(self, sizehint: int) -> memoryview:
        del sizehint
        return _RAW

    def buffer_updated(self, nbytes: int) -> None:
        if self._closing:
            return
        self._incoming.write(_RAW[:nbytes])
        records = size = answers = 0
        try:
            if not self._established:
                self._tls.do_handshake()
                self._established = True
                self._greeted.set()
                self._flush()
            while count := self._decrypt(_PLAIN[size:]):
                records += 1
                size += count
            self._end(None)
        except ssl.SSLWantReadError:
            pass
        except (ssl.SSLError, OSError) as exc:
            self._end(exc)
        if self._established:
            answers = self._outgoing.pending
        self._flush()
        if size:
            self._take(bytes(_PLAIN[:size]))
        self._owed = max(0, self._owed + nbytes + _ANSWER * answers - _WORTH * size)
        if self._owed > _MOST_OWED:
            self._end(ConnectionAbortedError("it sends hardly any data in its TLS records"))
        elif records > _MANY_RECORDS or self._owed > _MOST_OWED // 2:
            self._rest()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        self._error = self._error or exc
        for flag in (self._gone, self._greeted, self._room):
            flag.set()
        if self._lost is not None:
            self._lost(self._error)

    def pause_writing(self) -> None:
        self._room.clear()

    def resume_writing(self) -> None:
        self._room.set()

    # -- the users' side ----------------------------------------------------------------------------------------

    @property
    def peer_certificate(self) -> bytes | None:
        """The peer's certificate (DER)."""
        return self._tls.getpeercert(binary_form=True)

    async def handshake(self, within: float) -> None:
        """
        Wait for it.

        Raises:
            OSError: it failed, or was not over after *within* seconds.
        """
        try:
            async with asyncio.timeout(within):
                await self._greeted.wait()
        except TimeoutError:
            raise ConnectionAbortedError(f"it took longer than {within:g} s") from None
        if not self._established:
            raise ConnectionResetError(str(self._error) or "it was left") from self._error

    def pass_on(self, take: Callable[[bytes], None], lost: Callable[[Exception | None], None]) -> None:
        """
        Deliver data to *take* from now on, at most some hundred KiB at a time, and call *lost* once at the end. Neither
        may raise. What has arrived before is delivered before this returns.
        """
        self._take, self._lost = take, lost
        self.resume()
        if self._early:
            take(bytes(self._early))
            self._early.clear()
        if self._gone.is_set():
            lost(self._error)

    def pause(self) -> None:
        """Stop receiving."""
        self._paused = True
        self._receive_or_not()

    def resume(self) -> None:
        """Undo :meth:`pause`."""
        self._paused = False
        self._receive_or_not()

    def write(self, data: bytes) -> None:
        """Send *data* without waiting; does nothing after the connection is closed."""
        rest = memoryview(data)
        try:
            while rest and not self._closing:
                rest = rest[self._tls.write(rest) :]
        except (ssl.SSLError, OSError) as exc:
            self._end(exc)
        self._flush()

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
        """Send what is unsent, then close; after *within* seconds close at once. What arrives is dropped."""
        if self._transport is not None and not self._closing:
            self._closing = True
            with suppress(ssl.SSLError, OSError):
                # It only announces the end: nobody waits for the answer.
                self._tls.unwrap()
            self._flush()
            with suppress(OSError, RuntimeError):
                self._transport.write_eof()
            self.resume()
            with suppress(TimeoutError):
                async with asyncio.timeout(within):
                    await self._gone.wait()
        self.abort()

    def abort(self) -> None:
        """Close at once; safe to call twice."""
        self._closing = True
        if self._transport is not None:
            with suppress(Exception):
                self._transport.abort()

    def _decrypt(self, into: memoryview) -> int:
        """The size of one record's data; 0: the peer has said that it ends. Raises ssl.SSLWantReadError."""
        return cast(int, self._tls.read(len(into), into))

    def _collect(self, data: bytes) -> None:
        self._early += data
        if len(self._early) > _EARLY_LIMIT:
            self.pause()

    def _flush(self) -> None:
        if self._transport is not None and self._outgoing.pending and not self._gone.is_set():
            self._transport.write(self._outgoing.read())

    def _end(self, error: Exception | None) -> None:
        """No more is received; what is unsent is sent if the peer reads it soon."""
        self._error = self._error or error
        self._closing = True
        self._flush()
        if self._transport is not None:
            self._transport.close()
            self._loop.call_later(_LAST_WORDS, self.abort)

    def _rest(self) -> None:
        if not self._resting and not self._closing:
            self._resting = True
            self._receive_or_not()
            self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._resting = False
        self._receive_or_not()

    def _receive_or_not(self) -> None:
        if self._transport is None or self._gone.is_set():
            return
        if self._paused or self._resting:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()
