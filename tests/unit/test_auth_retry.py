"""How long the pauses between questions are."""

from __future__ import annotations

import itertools
import time
from datetime import timedelta

import pytest

from containerssh.core.retry import retry


def milliseconds(count: int) -> timedelta:
    return timedelta(milliseconds=count)


async def test_pauses_double_until_they_are_long_enough() -> None:
    calls: list[float] = []

    async def once() -> str:
        calls.append(time.monotonic())
        if len(calls) < 6:
            raise OSError("away")
        return "here"

    found = await retry(
        once, on=OSError, within=timedelta(seconds=30), every=milliseconds(10), at_most=milliseconds(40)
    )
    assert found == "here"
    pauses = [after - before for before, after in itertools.pairwise(calls)]
    assert all(pause > wanted for pause, wanted in zip(pauses, (0.009, 0.019, 0.039, 0.039, 0.039), strict=True))


async def test_no_pause_outlasts_the_time_that_is_left() -> None:
    async def once() -> None:
        raise OSError("away")

    start = time.monotonic()
    with pytest.raises(OSError, match="away"):
        await retry(once, on=OSError, within=milliseconds(50), every=timedelta(seconds=30))
    assert time.monotonic() - start < 5
