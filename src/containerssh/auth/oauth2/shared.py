"""What many logins want of a provider, asked for once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Generic, TypeVar

from containerssh.web.client import WebhookError

T = TypeVar("T")

KEPT = 600.0
"""Seconds that an answer is kept."""

FAILURE_KEPT = 3.0
"""Seconds that a failure is: a provider that is away makes each of many logins wait, but not one after another."""


class Shared(Generic[T]):
    """
    A value that is fetched when somebody wants it: all who come meanwhile wait for the same request, which goes on when
    one of them leaves.
    """

    def __init__(self, fetch: Callable[[], Awaitable[T]]) -> None:
        """*fetch* raises WebhookError, after a limited time."""
        self._fetch = fetch
        self._task: asyncio.Task[None] | None = None
        self._value: T | None = None
        self._failure: WebhookError | None = None
        # When each of the two came; a value is never None.
        self._fetched = self._failed = 0.0

    def known(self, longest: float = KEPT) -> T | None:
        """What is known, if it is no older than *longest* seconds."""
        return self._value if time.monotonic() - self._fetched <= longest else None

    async def fetch(self) -> T:
        """
        What the request that is under way gives, or a new one.

        Raises:
            WebhookError: it failed, perhaps a moment ago.
        """
        if self._task is None and (self._failure is None or time.monotonic() - self._failed > FAILURE_KEPT):
            # Its log lines are no single login's.
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
        """Nobody asks any more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
