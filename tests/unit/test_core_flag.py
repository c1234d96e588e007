"""Flags behave as asyncio's events."""

from __future__ import annotations

import asyncio

import pytest

from containerssh.core.flag import Flag


async def turns() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_all_who_wait_are_woken() -> None:
    flag = Flag()
    waiting = [asyncio.create_task(flag.wait()) for _ in range(3)]
    await turns()
    assert not any(task.done() for task in waiting)
    flag.set()
    assert await asyncio.gather(*waiting) == [True, True, True]
    assert flag.is_set()


async def test_nobody_waits_for_a_flag_that_is_set() -> None:
    flag = Flag()
    flag.set()
    flag.set()
    waiting = asyncio.create_task(flag.wait())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert waiting.done()


async def test_a_flag_can_be_used_again() -> None:
    flag = Flag()
    flag.set()
    flag.clear()
    assert not flag.is_set()
    waiting = asyncio.create_task(flag.wait())
    await turns()
    assert not waiting.done()
    flag.set()
    flag.clear()
    assert await waiting is True, "it was set meanwhile"


async def test_one_who_gives_up_takes_nothing_from_the_others() -> None:
    flag = Flag()
    first, second = asyncio.create_task(flag.wait()), asyncio.create_task(flag.wait())
    await turns()
    first.cancel()
    flag.set()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await second is True
    assert flag._waiters == []
