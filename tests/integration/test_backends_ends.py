"""How logins end and what they leave, with a container of each backend: nothing, whatever happened."""

from __future__ import annotations

import asyncio
import time

import pytest

from containerssh.core.errors import BackendError
from containerssh.core.requests import ExitSignal
from tests.support.container_backends import Place, User, logged_in, nothing_left
from tests.support.docker import Channel, a_login

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def processes(user: User, name: str) -> int:
    """How many processes of this name the container has; the one that looks is another session's."""
    return (await user.run("ps -o args")).out.decode().splitlines().count(name)


async def test_a_container_that_an_administrator_removes_ends_its_sessions_with_a_reason(place: Place) -> None:
    async with logged_in(place) as user, user.running("echo up; sleep 600", b"up") as (_, channel):
        await asyncio.to_thread(place.remove, user.meta)
        end = await channel.ended(20)
        assert isinstance(end, BackendError)
        assert end.user_message == place.removed
        with pytest.raises(BackendError):
            await user.run("echo never")


async def test_a_program_that_ignores_every_signal_does_not_keep_the_container(place: Place) -> None:
    async with logged_in(place) as user:
        async with user.running("trap '' TERM INT HUP; echo up; while :; do sleep 1; done", b"up"):
            left = time.monotonic()
        assert time.monotonic() - left < 5, "nor the session"
        await user.run("setsid sh -c \"trap '' TERM INT HUP; sleep 4242\" >/dev/null 2>&1 & sleep 0.1")
    assert time.monotonic() - left < 15


async def test_a_session_that_is_left_ends_its_program_and_no_other(user: User) -> None:
    async with user.running("echo up; exec sleep 987", b"up"):
        async with user.running("(exec sleep 4242) & echo up; exec sleep 4242", b"up"):
            assert await processes(user, "sleep 4242") == 2
        assert await processes(user, "sleep 4242") == 0
        assert await processes(user, "sleep 987") == 1


async def test_a_guest_that_kills_everything_ends_its_own_login_alone(user: User, place: Place) -> None:
    async with logged_in(place) as wild:
        try:
            done = await wild.run("kill -9 -1; kill -TERM 1; kill -9 1; exec sleep 0.1")
        except BackendError:
            # The agent was killed before it had told that the program runs.
            pass
        else:
            assert isinstance(done.end, BackendError | ExitSignal) or done.end != 0
    assert (await user.run("echo alive")).out == b"alive\n"


@pytest.mark.parametrize("delay", [0.02, 0.1, None], ids=lambda delay: f"after {delay}")
async def test_a_login_that_is_cancelled_at_any_moment_leaves_nothing(place: Place, delay: float | None) -> None:
    meta, entered = a_login(), asyncio.Event()

    async def stay() -> None:
        async with place.login(meta):
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(stay())
    if delay is None:
        async with asyncio.timeout(30):
            await entered.wait()
        assert place.left(meta)
    else:
        await asyncio.wait([task], timeout=delay)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await nothing_left(place, meta)


async def test_a_session_that_is_cancelled_ends_its_program_and_the_login_goes_on(user: User) -> None:
    channel, started = Channel(ends=False), asyncio.Event()

    async def stay() -> None:
        async with user.handler.session(channel) as session:
            await session.run_command("exec sleep 4243")
            started.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(stay())
    async with asyncio.timeout(30):
        await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await processes(user, "sleep 4243") == 0


async def test_logins_at_once_have_a_container_each_and_leave_none(place: Place) -> None:
    async def one(number: int) -> bytes:
        async with logged_in(place) as user:
            assert place.left(user.meta)
            return (await user.run(f"echo {number} >>/tmp/number; cat /tmp/number")).out

    assert await asyncio.gather(*map(one, range(4))) == [b"%d\n" % number for number in range(4)]
