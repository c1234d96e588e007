"""Pauses between tries."""

from __future__ import annotations

import asyncio

from containerssh.backends.kubernetes.pauses import Pauses


async def test_pauses_grow_up_to_a_limit_and_begin_anew_after_a_success() -> None:
    pauses = Pauses(0.001, 0.005)
    longest = []
    for _ in range(5):
        longest.append(pauses.upcoming)
        await pauses.wait()
    assert longest == [0.001, 0.002, 0.004, 0.005, 0.005]
    pauses.reset()
    assert pauses.upcoming == 0.001


async def test_no_two_servers_come_back_at_the_same_time() -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()

    async def come_back() -> float:
        await Pauses(0.2, 1).wait()
        return loop.time() - began

    times = sorted(await asyncio.gather(*(come_back() for _ in range(20))))
    assert times[0] >= 0.09
    assert times[-1] - times[0] > 0.01
