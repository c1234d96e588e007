"""For how long a pod may be in trouble before the login that waits for it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, cast

import pytest

from containerssh.backends.kubernetes.events import EventWatches, PodEvents
from containerssh.backends.kubernetes.following import Followed
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
    async def of_pod(self, namespace: str, uid: str) -> AsyncIterator[PodEvents]:
        yield PodEvents()


def a_waiting(followed: Followed, patience: float) -> Waiting:
    return Waiting(
        cast(EventWatches, Silent()), "lab", followed, "shell", Seen(), timedelta(seconds=patience)
    )  # fmt: skip


def a_followed() -> Followed:
    followed = Followed("p")
    followed.follow_only({"metadata": {"name": "p", "uid": "u"}, "status": {}})
    return followed


def see(followed: Followed, state: dict[str, Any], *, ready: bool = False, last: dict[str, Any] | None = None) -> None:
    conditions = [SCHEDULED, {"type": "Ready", "status": str(ready)}]
    container = {"name": "shell", "image": "i", "state": state, "lastState": last or {}}
    status = {"phase": "Running", "conditions": conditions, "containerStatuses": [container]}
    followed.see({"metadata": {"name": "p", "uid": "u"}, "status": status})


class Clock:
    """The event loop's clock, which a test puts forward."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._ahead = 0.0
        loop = asyncio.get_running_loop()
        real = loop.time
        monkeypatch.setattr(loop, "time", lambda: real() + self._ahead)

    async def advance(self, seconds: float) -> None:
        """Returns when everybody has noticed; what happened before did so at the time before."""
        for ahead in (0.0, seconds):
            self._ahead += ahead
            for _ in range(20):
                await asyncio.sleep(0)


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


async def test_a_container_that_fails_again_and_again_ends_the_wait_although_it_runs_in_between(clock: Clock) -> None:
    followed = a_followed()
    task = asyncio.create_task(a_waiting(followed, 100).until_ready())
    for _ in range(3):
        for state in (FAILED, BACKING_OFF, RUNNING):
            see(followed, state, last=FAILED)
            await clock.advance(11)
    assert not task.done()
    see(followed, BACKING_OFF, last=FAILED)
    await clock.advance(11)
    assert task.done()
    with pytest.raises(PodError, match="it ended with Error, status 3") as failed:
        await task
    assert failed.value.user_message == "The container shell keeps failing (Error, status 3)."


async def test_a_container_that_is_ready_for_a_moment_between_failures_has_not_recovered(clock: Clock) -> None:
    followed = a_followed()
    waiting = a_waiting(followed, 100)
    for _ in range(2):
        see(followed, BACKING_OFF, last=FAILED)
        task = asyncio.create_task(waiting.until_ready())
        await clock.advance(40)
        see(followed, RUNNING, ready=True, last=FAILED)
        await clock.advance(5)
        assert task.done()
        await task
    see(followed, BACKING_OFF, last=FAILED)
    task = asyncio.create_task(waiting.until_ready())
    await clock.advance(20)
    assert task.done()
    with pytest.raises(PodError, match="status 3"):
        await task


async def test_a_container_that_fails_once_and_then_runs_is_waited_for(clock: Clock) -> None:
    followed = a_followed()
    task = asyncio.create_task(a_waiting(followed, 100).until_ready())
    see(followed, FAILED)
    await clock.advance(50)
    see(followed, RUNNING, last=FAILED)
    await clock.advance(1000)
    assert not task.done()
    see(followed, RUNNING, ready=True, last=FAILED)
    await clock.advance(0)
    assert task.done()
    await task


async def test_a_failure_long_after_the_last_one_begins_anew(clock: Clock) -> None:
    followed = a_followed()
    task = asyncio.create_task(a_waiting(followed, 100).until_ready())
    for state, seconds in ((FAILED, 50), (RUNNING, 150), (FAILED, 50), (RUNNING, 10)):
        see(followed, state, last=FAILED)
        await clock.advance(seconds)
    assert not task.done()
    see(followed, RUNNING, ready=True)
    await clock.advance(0)
    assert task.done()
    await task


async def test_what_passed_before_is_not_held_against_the_next_pull(clock: Clock) -> None:
    followed = a_followed()
    task = asyncio.create_task(a_waiting(followed, 100).until_ready())
    for state in (NO_IMAGE, CREATING, NO_IMAGE, CREATING):
        see(followed, state)
        await clock.advance(60)
    assert not task.done()
    see(followed, RUNNING, ready=True)
    await clock.advance(0)
    assert task.done()
    await task


async def test_trouble_that_stays_ends_the_wait_after_the_configured_time(clock: Clock) -> None:
    followed = a_followed()
    task = asyncio.create_task(a_waiting(followed, 100).until_ready())
    see(followed, NO_IMAGE)
    await clock.advance(90)
    assert not task.done()
    await clock.advance(20)
    assert task.done()
    with pytest.raises(PodError, match="ErrImagePull"):
        await task
