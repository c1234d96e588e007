"""Requests to the API and their answers: credentials, limits in time, rate and size, and errors of ours."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from datetime import timedelta
from typing import Any, cast

import aiohttp

from containerssh.backends.kubernetes.connections import Away, Connections, give_up, read_all
from containerssh.backends.kubernetes.credentials import Credentials
from containerssh.backends.kubernetes.errors import ERROR_LIMIT, REFUSAL_SECONDS, APIError, broken, refusal
from containerssh.backends.kubernetes.kinds import Target
from containerssh.backends.kubernetes.limiter import Limiter
from containerssh.core.counters import counters
from containerssh.core.errors import ContainerSSHError
from containerssh.core.metrics import BACKEND_ERRORS, BACKEND_REQUESTS
from containerssh.core.tasks import time_limit

_OBJECT_LIMIT = 16 << 20
_RETRY_AFTER_LIMIT = 10.0
_RETRY_PAUSE = 0.1


class Exchange:
    """
    What every kind of request has in common. No request waits longer than *timeout* for its answer. Connections are
    kept; whoever made them closes them.
    """

    def __init__(self, credentials: Credentials, http: Connections, limiter: Limiter, timeout: timedelta) -> None:
        self._credentials = credentials
        self._http = http
        self._limiter = limiter
        self.timeout = timeout

    def limited(self, limiter: Limiter) -> Exchange:
        """The same with another rate of requests."""
        return Exchange(self._credentials, self._http, limiter, self.timeout)

    async def ask(
        self, doing: str, method: str, target: Target, body: Mapping[str, Any] | None = None, limit: int = _OBJECT_LIMIT
    ) -> bytes:
        """
        A whole answer of at most *limit* bytes.

        Raises:
            APIError: the API refused, or is away.
            ConfigError: something named in the configuration cannot be used.
            ProtocolError: the answer cannot be understood, or is too long.
        """
        async with self.soon(doing), self.request(doing, method, target, body) as response, Away(doing):
            return await read_all(response, limit, doing)

    @asynccontextmanager
    async def request(
        self, doing: str, method: str, target: Target, body: Mapping[str, Any] | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """
        A good answer whose body is yet to be read; waits for a server that is busy, and renews credentials once. Raises
        what :meth:`ask` does.
        """
        renewed = False
        deadline = self.deadline()
        while True:
            await self._limiter.take()
            access = await self._credentials.access()
            async with self.soon(doing), Away(doing):
                response = await self._http.request(access, method, target(access), body)
            async with response:
                if 200 <= response.status < 300:
                    try:
                        yield response
                    finally:
                        give_up(response)
                    return
                said = await _beginning(response.content, ERROR_LIMIT)
            error = refusal(doing, response.status, said, retry_after=response.headers.get("Retry-After"))
            if error.status == 401 and not renewed and self._credentials.refused(access):
                renewed = True
                continue
            await come_back(error, deadline)

    async def turn(self) -> None:
        """Wait for one's turn to make a request by other means."""
        await self._limiter.take()

    def deadline(self) -> float:
        """By when a request that begins now must be answered, on the event loop's clock."""
        return asyncio.get_running_loop().time() + self.timeout.total_seconds()

    def soon(self, doing: str) -> AbstractAsyncContextManager[None]:
        """The limit in time; raises APIError."""

        def late() -> ContainerSSHError:
            return APIError(doing, status=0, message=f"no answer within {self.timeout.total_seconds():g} s")

        return time_limit(self.timeout, late)


async def _beginning(content: aiohttp.StreamReader, most: int) -> bytes:
    """The first *most* bytes of a refusal, in however many pieces they come; less if it breaks off or stalls."""
    said = b""
    with suppress(aiohttp.ClientError, OSError):
        async with asyncio.timeout(REFUSAL_SECONDS):
            while len(said) < most and (more := await content.read(most - len(said))):
                said += more
    return said


async def come_back(error: APIError, deadline: float) -> None:
    """Wait for as long as a server that is busy wants; raises *error* if it is something else, or that is too long."""
    pause = error.retry_after
    if error.status != 429 or pause is None or pause > _RETRY_AFTER_LIMIT:
        raise error
    if asyncio.get_running_loop().time() + pause > deadline:
        raise error
    await asyncio.sleep(max(pause, _RETRY_PAUSE))


@contextmanager
def counted() -> Iterator[None]:
    """For metrics: what a login asks for."""
    counters.add(BACKEND_REQUESTS, backend="kubernetes")
    try:
        yield
    except ContainerSSHError:
        counters.add(BACKEND_ERRORS, backend="kubernetes")
        raise


def parse(data: bytes) -> dict[str, Any]:
    """
    The JSON object that *data* is.

    Raises:
        ProtocolError: it is none.
    """
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise broken("the API server's answer cannot be understood")
    return cast(dict[str, Any], found)
