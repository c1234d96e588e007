"""Waiting for conditions that are not signalled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def until(condition: Callable[[], bool], limit: float = 10) -> None:
    """Return once *condition* holds; raises TimeoutError if it does not within *limit* seconds."""
    async with asyncio.timeout(limit):
        while not condition():  # noqa: ASYNC110  what others do is looked at, not told
            await asyncio.sleep(0.01)
