"""A provider that is away: what it costs many logins at once."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from containerssh.auth.oauth2.authenticator import OAuth2Authenticator, open_oauth2
from containerssh.auth.oauth2.shared import FAILURE_KEPT, Shared
from containerssh.config.oauth2 import OAuth2Config
from containerssh.core.codes import OAuth2Code
from containerssh.core.errors import AuthFailed, AuthUnavailable
from containerssh.web.client import WebhookError
from tests.support.identity import ATTEMPT, Person, Provider, Reply, code_only, pasting, providing
from tests.support.waiting import until

WELL_KNOWN = "/.well-known/openid-configuration"


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    async with providing() as running:
        yield running


async def outcome(authenticator: OAuth2Authenticator, person: Person) -> type[BaseException]:
    async with AsyncExitStack() as undo:
        try:
            await authenticator.authenticate_interactive(ATTEMPT, person, undo)
        except (AuthFailed, AuthUnavailable) as exc:
            return type(exc)
    raise AssertionError("somebody was let in")


async def test_twenty_logins_wait_together_for_a_provider_that_hangs(provider: Provider) -> None:
    described = provider.routes[WELL_KNOWN]
    provider.routes[WELL_KNOWN] = Reply(delay=60)
    settings = {**code_only(provider, timeout="400ms"), "authTimeout": "1500ms"}
    async with open_oauth2(OAuth2Config.model_validate(settings)) as authenticator:
        began = time.monotonic()
        people = [Person(pasting()) for _ in range(20)]
        ends = await asyncio.gather(*(outcome(authenticator, person) for person in people))
        # One after another they would take 8 seconds.
        assert time.monotonic() - began < 6
        assert set(ends) == {AuthFailed}, "their time was over"
        assert all(person.told for person in people)
        assert len(provider.to(WELL_KNOWN)) <= 2
        provider.routes[WELL_KNOWN] = described
        person = Person(pasting())
        async with AsyncExitStack() as undo:

            async def comes_back() -> bool:
                try:
                    await authenticator.authenticate_interactive(ATTEMPT, person, undo)
                except AuthFailed:
                    return False
                return True

            deadline = time.monotonic() + FAILURE_KEPT + 10
            while not await comes_back():
                assert time.monotonic() < deadline


async def test_who_leaves_takes_the_shared_request_from_nobody() -> None:
    answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    shared = Shared(lambda: answer)
    one, other = (asyncio.create_task(shared.fetch()) for _ in range(2))
    await until(lambda: shared._task is not None)
    one.cancel()
    answer.set_result("endpoints")
    assert await other == "endpoints"
    assert shared.known() == "endpoints"
    with pytest.raises(asyncio.CancelledError):
        await one


async def test_a_failure_is_told_for_a_moment_and_a_close_ends_what_is_under_way() -> None:
    calls = 0

    async def fetch() -> str:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise WebhookError(OAuth2Code.OIDC_DISCOVERY_FAILED, "away", passing=True)
        await asyncio.sleep(60)
        return ""

    shared = Shared(fetch)
    for _ in range(3):
        with pytest.raises(WebhookError, match="away") as caught:
            await shared.fetch()
        assert caught.value.passing
    assert calls == 1
    shared._failed -= FAILURE_KEPT + 1
    waiting = asyncio.create_task(shared.fetch())
    await until(lambda: calls == 2)
    await shared.close()
    assert shared.known() is None
    with pytest.raises(asyncio.CancelledError):
        await waiting
    gc.collect()
