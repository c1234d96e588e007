"""Requests to one engine: replies, streams, hijacked connections, errors."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

from containerssh.backends.docker.answers import EngineInfo, Reply
from containerssh.backends.docker.endpoint import Endpoint
from containerssh.backends.docker.engine_error import Cure, EngineError, count_request, counted, engine_words, refusal
from containerssh.backends.docker.pool import Pool
from containerssh.backends.docker.wire import Request, Wire, read_all
from containerssh.core.codes import DockerCode
from containerssh.core.errors import ProtocolError, describe
from containerssh.core.tasks import time_limit
from containerssh.web.head import Head

OLDEST_API = (1, 41)
"""Docker 20.10, Podman 3.4 and later."""
NEWEST_API = (1, 48)
"""The newest API version that this client supports."""
UPGRADE = {"Connection": "Upgrade", "Upgrade": "tcp"}
"""The headers of a request that hijacks its connection."""

_REPLY_LIMIT = 4 * 1024 * 1024
_ERROR_LIMIT = 64 * 1024
_AWAY = (OSError, EOFError, ssl.SSLError)


class Exchanges:
    """
    Sends requests to one engine over reused connections.

    Every method raises :class:`EngineError` with the code of its operation. Close it at the end.
    """

    def __init__(self, endpoint: Endpoint, http_limit: timedelta) -> None:
        """*http_limit* limits the time of simple requests."""
        self.endpoint = endpoint
        self._http_limit = http_limit
        self._pool = Pool(endpoint)
        self._info: EngineInfo | None = None

    async def close(self) -> None:
        """Close idle connections; connections in use are closed after their requests."""
        self._pool.close()

    async def ping(self) -> EngineInfo:
        """Query the engine's name and API versions; an engine with only unsupported versions is refused."""
        code, doing = DockerCode.ENGINE_UNAVAILABLE, "asking the engine"
        async with self._soon(code, doing):
            head, _ = await self._exchange(code, doing, Request("GET", "/_ping"))
        if head.status != 200:
            raise refusal(code, doing, head.status, b"")
        text = head.headers.get("api-version", "")
        major, _, minor = text.partition(".")
        if not (text.isascii() and major.isdigit() and minor.isdigit() and len(text) < 16):
            raise EngineError(code, f"{self.endpoint.url} does not answer like a Docker engine", status=200)
        info = EngineInfo(head.headers.get("server", "")[:100], (int(major), int(minor)))
        if info.api < OLDEST_API:
            needed = "{}.{}".format(*OLDEST_API)
            raise EngineError(code, f"the engine is too old ({info}); API {needed} is needed", status=200)
        return info

    async def info(self) -> EngineInfo:
        """Like :meth:`ping`, but cached."""
        if self._info is None:
            self._info = await self.ping()
        return self._info

    async def _target(self, path: str, query: Mapping[str, str] | None = None) -> str:
        major, minor = min((await self.info()).api, NEWEST_API)
        return f"/v{major}.{minor}{path}" + (f"?{urlencode(query)}" if query else "")

    async def _call(
        self,
        code: DockerCode,
        doing: str,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        *,
        accept: tuple[int, ...] = (),
    ) -> Reply:
        """Send a request; return the reply, whose status is 2xx or one of *accept*."""
        headers = {"Content-Type": "application/json"} if body is not None else {}
        data = json.dumps(body).encode() if body is not None else b""
        head, reply = await self._exchange(code, doing, Request(method, await self._target(path, query), headers, data))
        if head.status not in accept and not 200 <= head.status < 300:
            raise self._refused(code, doing, head.status, reply)
        return Reply(head.status, reply, code, doing)

    async def _exchange(
        self, code: DockerCode, doing: str, request: Request, *, limit: int = _REPLY_LIMIT
    ) -> tuple[Head, bytes]:
        async with self._stream(code, doing, request, answer_errors=False) as (head, pieces):
            return head, await read_all(pieces, limit)

    @asynccontextmanager
    async def _stream(
        self, code: DockerCode, doing: str, request: Request, *, answer_errors: bool = True
    ) -> AsyncIterator[tuple[Head, AsyncIterator[bytes]]]:
        """Send a request; yield the head and the pieces of the reply. With *answer_errors*, an error status raises."""
        wire: Wire | None = None
        count_request(code)
        try:
            wire, head = await self._pool.ask(request)
            async with aclosing(wire.body(head, request.method)) as pieces:
                if answer_errors and not 200 <= head.status < 300:
                    raise self._refused(code, doing, head.status, await read_all(pieces, _ERROR_LIMIT))
                yield head, pieces
            self._pool.give_back(wire, head)
            wire = None
        except _AWAY as exc:
            self._info = None
            raise counted(self._away(doing, code, exc)) from exc
        except ProtocolError as exc:
            raise counted(EngineError(code, f"{doing}: {exc.explanation}")) from exc
        finally:
            if wire is not None:
                wire.abort()

    async def _hijacked(self, code: DockerCode, doing: str, request: Request) -> Wire:
        """Send *request* and take over its connection; the caller aborts it."""
        wire: Wire | None = None
        count_request(code)
        try:
            wire, head = await self._pool.ask(request, kept=False)
            if head.status not in (101, 200):
                body = await read_all(wire.body(head, request.method), _ERROR_LIMIT)
                raise self._refused(code, doing, head.status, body)
            opened, wire = wire, None
            return opened
        except _AWAY as exc:
            raise counted(self._away(doing, code, exc)) from exc
        except ProtocolError as exc:
            raise counted(EngineError(code, f"{doing}: {exc.explanation}")) from exc
        finally:
            if wire is not None:
                wire.abort()

    @asynccontextmanager
    async def _soon(self, code: DockerCode, doing: str) -> AsyncIterator[None]:
        def late() -> EngineError:
            text = f"{doing}: no answer within {self._http_limit.total_seconds():g} s"
            return counted(EngineError(code, text, cure=Cure.WAIT))

        async with time_limit(self._http_limit, late):
            yield

    def _refused(self, code: DockerCode, doing: str, status: int, body: bytes) -> EngineError:
        if status == 400 and "client version" in engine_words(body):
            self._info = None
        return counted(refusal(code, doing, status, body))

    def _away(self, doing: str, code: DockerCode, exc: BaseException) -> EngineError:
        text = f"{doing}: the engine at {self.endpoint.url} is not available ({describe(exc)})"
        if isinstance(exc, PermissionError):
            # An engine that is just starting sets the group of its socket a moment later.
            return EngineError(code, f"{text}: the server's user may not use the socket", cure=Cure.FEW_TRIES)
        absent = isinstance(exc, FileNotFoundError | ConnectionRefusedError)
        user_message = "The container engine is not available." if absent else None
        return EngineError(code, text, cure=Cure.WAIT, user_message=user_message, absent=absent)
