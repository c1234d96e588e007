"""A pool of connections to one engine."""

from __future__ import annotations

import asyncio

from containerssh.backends.docker.endpoint import Endpoint
from containerssh.backends.docker.wire import Request, Wire
from containerssh.web.head import Head

_IDLE_CONNECTIONS = 16
_IDLE_SECONDS = 20.0


class Pool:
    """Keeps idle connections; close it at the end."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._idle: list[tuple[Wire, float]] = []
        self._closed = False

    async def ask(self, request: Request, *, kept: bool = True) -> tuple[Wire, Head]:
        """
        Send *request* on an idle connection or a new one; if an idle connection turns out to be closed, a new one is
        tried. The caller returns the connection or aborts it.

        Raises:
            ProtocolError, OSError: no reply was received.
        """
        loop = asyncio.get_running_loop()
        while self._idle and kept:
            wire, since = self._idle.pop()
            if not wire.is_fresh() or loop.time() - since > _IDLE_SECONDS:
                wire.abort()
                continue
            try:
                return wire, await self._send(wire, request)
            except OSError:
                # A request with side effects may have been processed: only the caller knows whether to retry.
                if wire.answered or request.method == "POST":
                    raise
        # A connection that will be hijacked needs half-close.
        wire = await self._endpoint.connect(half_close=not kept)
        return wire, await self._send(wire, request)

    def give_back(self, wire: Wire, head: Head) -> None:
        """Return a connection after the reply with *head* has been read completely."""
        if self._closed or not head.keeps_alive or not wire.is_fresh():
            wire.abort()
            return
        if len(self._idle) >= _IDLE_CONNECTIONS:
            self._idle.pop(0)[0].abort()
        self._idle.append((wire, asyncio.get_running_loop().time()))

    def close(self) -> None:
        """Close idle connections; connections in use are closed when they are returned."""
        self._closed = True
        while self._idle:
            self._idle.pop()[0].abort()

    async def _send(self, wire: Wire, request: Request) -> Head:
        headers = {"Host": self._endpoint.authority, **request.headers}
        addressed = Request(request.method, self._endpoint.base + request.target, headers, request.body)
        try:
            return await wire.ask(addressed)
        except BaseException:
            wire.abort()
            raise
