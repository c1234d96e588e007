"""Cached values of a provider that logins share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Generic, TypeVar

from containerssh.web.client import WebhookError

T = TypeVar("T")

KEPT = 600.0
"""How long an answer is cached, in seconds."""

FAILURE_KEPT = 3.0
"""How long a failure is cached, in seconds, so that waiting logins fail together instead of one after another."""


class Shared(Generic[T]):
    """
    A value that is fetched on demand: concurrent callers share one request, which continues if one of them is
    cancelled.
    """

    def __init__(self, fetch: Callable[[], Awaitable[T]]) -> None:
        """*fetch* raises WebhookError, within a limited time."""
        self._fetch = fetch
        self._task: asyncio.Task[None] | None = None
        self._value: T | None = None
        self._failure: WebhookError | None = None
        # The times of the value and of the failure; a value is never None.
        self._fetched = self._failed = 0.0

    def known(self, longest: float = KEPT) -> T | None:
        """The cached value, if it is no older than *longest* seconds."""
        return self._value if time.monotonic() - self._fetched <= longest else None

    async def fetch(self) -> T:
        """
        The result of the current request, or of a new one.

        Raises:
            WebhookError: the request failed, possibly a moment ago.
        """
        if self._task is None and (self._failure is None or time.monotonic() - self._failed > FAILURE_KEPT):
            # The shared request must not log with the labels of a single login.
            self._task = asyncio.get_running_loop().create_task(self._run(), context=Context())
        if self._task is not None:
            await asyncio.shield(self._task)
        if (failure := self._failure) is not None:
            raise WebhookError(failure.code, failure.explanation, passing=failure.passing)
        assert self._value is not None
        return self._value

    async def _run(self) -> None:
        try:
            self._value, self._failure = await self._fetch(), None
            self._fetched = time.monotonic()
        except WebhookError as exc:
            self._failure, self._failed = exc.with_traceback(None), time.monotonic()
        finally:
            self._task = None

    async def close(self) -> None:
        """Cancel an outstanding request."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
