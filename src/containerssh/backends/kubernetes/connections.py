"""HTTP connections to the API server that are kept, and what happens on them."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from typing import Any

import aiohttp
from aiohttp.connector import Connection
from yarl import URL

from containerssh.backends.kubernetes.credentials import Access
from containerssh.backends.kubernetes.errors import APIError, away, broken
from containerssh.core.wire import watch_peer

_HANDSHAKE = 1.0
"""Seconds for which a connection may still be made after whoever wanted it has left."""
_AWAY = (aiohttp.ClientError, OSError, ssl.SSLError)


class Connections:
    """Kept connections; opened with the first request, since it belongs to a running event loop."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._connector: _Connector | None = None

    async def request(self, access: Access, method: str, target: str, body: Any) -> aiohttp.ClientResponse:
        headers = [("User-Agent", "ContainerSSH"), ("Accept", "application/json"), ("Accept-Encoding", "identity")]
        data = None
        if body is not None:
            kind = "merge-patch+json" if method == "PATCH" else "json"
            headers.append(("Content-Type", f"application/{kind}"))
            data = json.dumps(body).encode()
        return await self._open().request(
            method,
            URL(f"{access.scheme}://{access.authority}{target}", encoded=True),
            headers=[*headers, *access.headers],
            data=data,
            ssl=access.tls if access.tls is not None else True,
            server_hostname=access.server_name if access.tls is not None else None,
            allow_redirects=False,
        )

    async def close(self) -> None:
        session, self._session = self._session, None
        connector, self._connector = self._connector, None
        if connector is not None:
            await connector.settle()
            # TLS waits half a minute for the other side to close, too.
            await connector.close(abort_ssl=True)
        if session is not None:
            await session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            # Watches keep theirs for minutes: a limit would make a Lease's renewal wait for one of them to end.
            self._connector = _Connector(limit=0, socket_factory=_open_socket)
            self._session = aiohttp.ClientSession(
                connector=self._connector,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
            )
        return self._session


class _Connector(aiohttp.TCPConnector):
    """
    Its connections are made, and kept for others, although whoever wanted them has left: uvloop reports a fault of its
    own when that happens just as a TLS handshake is completed.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._left: set[asyncio.Task[Connection]] = set()

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Any], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        task = asyncio.create_task(super().connect(req, traces, timeout))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self._left.add(task)
            task.add_done_callback(self._keep)
            asyncio.get_running_loop().call_later(_HANDSHAKE, task.cancel)
            raise

    async def settle(self) -> None:
        """Those that nobody waits for any more are given up."""
        for task in self._left:
            task.cancel()
        if self._left:
            await asyncio.wait(self._left)

    def _keep(self, task: asyncio.Task[Connection]) -> None:
        self._left.discard(task)
        if not task.cancelled() and task.exception() is None:
            task.result().release()


def _open_socket(info: aiohttp.AddrInfoType) -> socket.socket:
    family, kind, protocol, _, _ = info
    opened = socket.socket(family, kind, protocol)
    watch_peer(opened)
    return opened


class Away:
    """Turns what a lost connection raises into our error."""

    def __init__(self, doing: str) -> None:
        self._doing = doing

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, kind: object, exc: BaseException | None, traceback: object) -> None:
        if isinstance(exc, TimeoutError):
            raise APIError(self._doing, status=0, message="the answer took too long") from exc
        if isinstance(exc, _AWAY):
            gone = isinstance(exc, aiohttp.ServerDisconnectedError)
            raise away(self._doing, EOFError() if gone else exc) from exc


def give_up(response: aiohttp.ClientResponse) -> None:
    """End the connection at once if there is more to come: left to itself, TLS would wait for the other side."""
    connection = response.connection
    if connection is not None and connection.transport is not None:
        connection.transport.abort()


async def read_more(response: aiohttp.ClientResponse, deadline: float, doing: str) -> bytes:
    # Only around the waiting: whoever gets the events does so in the same task.
    async with Away(doing), asyncio.timeout_at(deadline):
        return await response.content.readany()


async def read_all(response: aiohttp.ClientResponse, limit: int, doing: str) -> bytes:
    body = bytearray()
    async for data in response.content.iter_any():
        body += data
        if len(body) > limit:
            raise broken(f"{doing}: the API server's answer is longer than {limit >> 20} MiB")
    return bytes(body)
