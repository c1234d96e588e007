"""Clean-up that survives cancellation, time limits with errors of their own, and scopes in separate tasks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from typing import Generic, TypeVar

from containerssh.core.codes import GeneralCode
from containerssh.core.errors import ContainerSSHError, describe
from containerssh.core.flag import Flag
from containerssh.core.messages import Event

logger = logging.getLogger(__name__)

T = TypeVar("T")


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
    except TimeoutError:
        if scope.expired():
            raise error() from None  # the error contains the text of its cause
        raise


class HeldScope(Generic[T]):
    """A scope that is entered and left in a task of its own, on behalf of others. Created by :meth:`enter`."""

    value: T

    def __init__(self, scope: AbstractAsyncContextManager[T]) -> None:
        self._letting_go = Flag()
        self._entered: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._hold(scope))

    @classmethod
    async def enter(cls, scope: AbstractAsyncContextManager[T]) -> HeldScope[T]:
        """Enter *scope*; raises what that raises. The caller leaves it by :meth:`leave` or :meth:`let_go`."""
        held = cls(scope)
        try:
            held.value = await held._entered
        except asyncio.CancelledError:
            held._task.cancel()
            await asyncio.wait([held._task])
            raise
        return held

    def let_go(self) -> None:
        """Leave the scope without waiting for it."""
        self._letting_go.set()

    @property
    def left(self) -> bool:
        """Whether the scope has been left."""
        return self._task.done()

    async def leave(self) -> None:
        """Leave the scope, and wait until that is done; raises what that raises."""
        self.let_go()
        await self._task

    async def _hold(self, scope: AbstractAsyncContextManager[T]) -> None:
        try:
            async with scope as value:
                self._entered.set_result(value)
                await self._letting_go.wait()
        except Exception as exc:
            if self._entered.done():
                raise
            self._entered.set_exception(exc)
        finally:
            # Do not wait for a body that has ended by itself.
            self._entered.cancel()


def _name(work: Callable[[], Awaitable[object]]) -> str:
    return getattr(work, "__qualname__", None) or repr(work)
