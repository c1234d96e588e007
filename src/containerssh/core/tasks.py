"""Ending things properly: clean-up that completes, and time limits that say what they limited."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

from containerssh.core.codes import GeneralCode
from containerssh.core.errors import ContainerSSHError, describe
from containerssh.core.messages import Event

logger = logging.getLogger(__name__)


async def finish(work: Callable[[], Awaitable[object]], *, within: timedelta) -> None:
    """
    Run clean-up to its end, even when the caller is cancelled meanwhile, but no longer than *within*.

    Errors are logged, not raised: clean-up must not hide the error that led to it. A cancellation that arrived during
    the clean-up is raised once it is over.
    """

    async def run() -> None:
        try:
            async with asyncio.timeout(within.total_seconds()):
                await work()
        except ContainerSSHError as exc:
            logger.warning(exc.event())
        except TimeoutError:
            text = f"Clean-up took longer than {within.total_seconds():g} s and was given up: {_name(work)}"
            logger.warning(Event(GeneralCode.UNKNOWN_ERROR, text))
        except Exception as exc:
            text = f"Clean-up failed: {_name(work)} ({describe(exc)})"
            logger.warning(Event(GeneralCode.UNKNOWN_ERROR, text), exc_info=exc)

    task = asyncio.create_task(run())
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as exc:
            if task.done() and task.cancelled():
                break
            cancelled = exc
    if cancelled is not None:
        raise cancelled


@asynccontextmanager
async def time_limit(limit: timedelta, error: Callable[[], ContainerSSHError]) -> AsyncIterator[None]:
    """Raise ``error()`` when the body takes longer than *limit*; time limits nested inside keep their own errors."""
    try:
        async with asyncio.timeout(limit.total_seconds()) as scope:
            yield
    except TimeoutError as exc:
        if scope.expired():
            raise error() from exc
        raise


def _name(work: Callable[[], Awaitable[object]]) -> str:
    return getattr(work, "__qualname__", None) or repr(work)
