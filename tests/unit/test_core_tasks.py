"""Scopes that are left elsewhere than they were entered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from containerssh.core.tasks import HeldScope


@asynccontextmanager
async def steps(told: list[str], error: BaseException | None = None) -> AsyncIterator[str]:
    told.append("entered")
    if error is not None:
        raise error
    yield "value"
    told.append("left")


async def test_a_held_scope_is_left_by_whoever_is_asked_to() -> None:
    told: list[str] = []
    held = await HeldScope.enter(steps(told))
    assert (held.value, held.left) == ("value", False)
    await asyncio.create_task(held.leave())
    assert (told, held.left) == (["entered", "left"], True)


@pytest.mark.parametrize("error", [ValueError("no"), asyncio.CancelledError()], ids=["error", "cancelled by itself"])
async def test_a_scope_that_cannot_be_entered_says_so_at_once(error: BaseException) -> None:
    async with asyncio.timeout(5):
        with pytest.raises(type(error)):
            await HeldScope.enter(steps([], error))
