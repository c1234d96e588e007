"""Retries while a peer is unavailable."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TypeVar

T = TypeVar("T")


async def retry(
    once: Callable[[], Awaitable[T]],
    *,
    on: type[Exception] | tuple[type[Exception], ...],
    within: timedelta,
    every: timedelta,
    at_most: timedelta | None = None,
    unless: Callable[[Exception], bool] = lambda _: False,
) -> T:
    """
    The result of the first call of *once* that does not raise *on*.

    *once* is called at least once. No call starts or continues after *within*. The pause between calls is *every*; with
    *at_most* it doubles each time up to that value. *unless* identifies errors for which a retry is useless.

    Raises:
        the last error of *once*, when the time is over; TimeoutError if the first call was still running then.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within.total_seconds()
    pause = every.total_seconds()
    last: Exception | None = None
    while True:
        try:
            async with asyncio.timeout_at(deadline):
                return await once()
        except on as exc:
            if unless(exc):
                raise
            last = exc
        except TimeoutError:
            if last is not None:
                raise last from None
            raise
        if loop.time() + pause >= deadline:
            raise last
        await asyncio.sleep(pause)
        if at_most is not None:
            pause = min(2 * pause, at_most.total_seconds())
