"""For how long a pod may be in trouble before the login that waits for it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, cast

import pytest

from containerssh.backends.kubernetes.following import Followed
from containerssh.backends.kubernetes.hearing import Heard, Hearers
from containerssh.backends.kubernetes.launch import PodError
from containerssh.backends.kubernetes.waiting import Waiting
from tests.support.docker import Seen

SCHEDULED = {"type": "PodScheduled", "status": "True"}
FAILED = {"terminated": {"reason": "Error", "exitCode": 3}}
BACKING_OFF = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 1s"}}
RUNNING: dict[str, Any] = {"running": {}}
NO_IMAGE = {"waiting": {"reason": "ErrImagePull", "message": "refused"}}
CREATING = {"waiting": {"reason": "ContainerCreating"}}


class Silent:
    """A cluster without events."""

    @asynccontextmanager
    async def hear(self, namespace: str, uid: str) -> AsyncIterator[Heard]:
        yield Heard()


def a_waiting(followed: Followed, patience: float) -> Waiting:
    return Waiting(
        cast(Hearers, Silent()), "lab", followed, "shell", Seen(), timedelta(seconds=patience)
    )  # fmt: skip


def a_followed() -> Followed:
    followed = Followed("p")
    followed.mean({"metadata": {"name": "p", "uid": "u"}, "status": {}})
    return followed


def see(followed: Followed, state: dict[str, Any], *, ready: bool = False, last: dict[str, Any] | None = None) -> None:
    conditions = [SCHEDULED, {"type": "Ready", "status": str(ready)}]
    container = {"name": "shell", "image": "i", "state": state, "lastState": last or {}}
    status = {"phase": "Running", "conditions": conditions, "containerStatuses": [container]}
    followed.see({"metadata": {"name": "p", "uid": "u"}, "status": status})


async def play(followed: Followed, *states: dict[str, Any], pause: float) -> None:
    while True:
        for state in states:
            see(followed, state, last=FAILED)
            await asyncio.sleep(pause)


async def test_a_container_that_fails_again_and_again_ends_the_wait_although_it_runs_in_between() -> None:
    followed = a_followed()
    waiting = a_waiting(followed, 0.5)
    player = asyncio.create_task(play(followed, FAILED, BACKING_OFF, RUNNING, pause=0.05))
    try:
        async with asyncio.timeout(10):
            with pytest.raises(PodError, match="it ended with Error, status 3") as failed:
                await waiting.until_ready()
    finally:
        player.cancel()
    assert failed.value.user_message == "The container shell keeps failing (Error, status 3)."


async def test_a_container_that_is_ready_for_a_moment_between_failures_has_not_recovered() -> None:
    followed = a_followed()
    waiting = a_waiting(followed, 0.3)
    began = asyncio.get_running_loop().time()
    async with asyncio.timeout(10):
        with pytest.raises(PodError, match="status 3"):
            while True:
                see(followed, BACKING_OFF, last=FAILED)
                asyncio.get_running_loop().call_later(0.1, lambda: see(followed, RUNNING, ready=True, last=FAILED))
                await waiting.until_ready()
    assert asyncio.get_running_loop().time() - began >= 0.3


async def test_a_container_that_fails_once_and_then_runs_is_waited_for() -> None:
    followed = a_followed()
    waiting = a_waiting(followed, 0.3)
    see(followed, FAILED)
    task = asyncio.create_task(waiting.until_ready())
    await asyncio.sleep(0.1)
    see(followed, RUNNING, last=FAILED)
    await asyncio.sleep(0.5)
    assert not task.done()
    see(followed, RUNNING, ready=True, last=FAILED)
    async with asyncio.timeout(10):
        await task


async def test_a_failure_long_after_the_last_one_begins_anew() -> None:
    followed = a_followed()
    waiting = a_waiting(followed, 0.4)
    see(followed, FAILED)
    task = asyncio.create_task(waiting.until_ready())
    for state, pause in ((RUNNING, 0.6), (FAILED, 0.1), (RUNNING, 0.1)):
        await asyncio.sleep(0.02)
        see(followed, state, last=FAILED)
        await asyncio.sleep(pause)
    assert not task.done()
    see(followed, RUNNING, ready=True)
    async with asyncio.timeout(10):
        await task


async def test_what_passed_before_is_not_held_against_the_next_pull() -> None:
    followed = a_followed()
    waiting = a_waiting(followed, 1.0)
    task = asyncio.create_task(waiting.until_ready())
    for state in (NO_IMAGE, CREATING, NO_IMAGE, CREATING):
        see(followed, state)
        await asyncio.sleep(0.4)
    assert not task.done()
    see(followed, RUNNING, ready=True)
    async with asyncio.timeout(10):
        await task
