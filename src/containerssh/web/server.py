"""Small HTTP servers beside the SSH server. Clients are untrusted, so requests and connections are limited."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestHandler

from containerssh.config.address import split_address
from containerssh.config.http import HTTPServerConfig
from containerssh.core.codes import HTTPCode
from containerssh.core.errors import BackendError, reason_of

logger = logging.getLogger(__name__)
# A malformed request is the client's fault, and anybody could fill the log with them.
logger.addFilter(lambda record: not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError)))

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

LONGEST_CONNECTION = 30.0
"""The longest duration of a connection in seconds, whatever its requests, so that slow clients cannot pile up."""

MOST_CONNECTIONS = 256
"""The maximum number of connections; beyond it, the oldest is closed."""

_HANDSHAKE = 10.0
_GRACE = 0.5


@asynccontextmanager
async def serving(config: HTTPServerConfig, handler: Handler) -> AsyncIterator[list[tuple[str, int]]]:
    """
    A server inside the scope, over TLS where a certificate is configured; yields the addresses it listens on.

    Raises:
        ConfigError: a TLS setting cannot be used.
        BackendError: the server cannot listen on the address.
    """
    loop = asyncio.get_running_loop()
    context = config.ssl_context()
    server = web.Server(_nameless(handler), access_log=None, logger=logger)

    def connection() -> RequestHandler:
        for oldest in server.connections[: 1 - MOST_CONNECTIONS]:
            _cut(oldest)
        return server()

    host, port = split_address(config.listen)
    try:
        listener = await loop.create_server(
            connection, host or None, port, ssl=context, ssl_handshake_timeout=_HANDSHAKE if context else None
        )
    except OSError as exc:
        # The event loop's message repeats the address.
        reason = os.strerror(exc.errno) if exc.errno and exc.errno > 0 else reason_of(exc)
        raise BackendError(HTTPCode.LISTEN_FAILED, f"cannot listen on {config.listen} ({reason})") from None
    sweeper = asyncio.create_task(_sweep(server))
    try:
        yield [socket.getsockname()[:2] for socket in listener.sockets]
    finally:
        sweeper.cancel()
        listener.close()
        await server.shutdown(_GRACE)


def _nameless(handler: Handler) -> Handler:
    """*handler*, with responses that do not reveal software versions."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        response = await handler(request)
        response.headers["Server"] = "ContainerSSH"
        return response

    return answer


async def _sweep(server: web.Server) -> None:
    """Close connections that are too old."""
    loop = asyncio.get_running_loop()
    since: dict[RequestHandler, float] = {}
    while True:
        now = loop.time()
        since = {connection: since.get(connection, now) for connection in server.connections}
        for connection, start in since.items():
            if now - start > LONGEST_CONNECTION:
                _cut(connection)
        await asyncio.sleep(LONGEST_CONNECTION / 10)


def _cut(protocol: RequestHandler) -> None:
    if protocol.transport is not None:
        protocol.transport.abort()
