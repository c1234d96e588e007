"""Logins with a scripted provider: the device flow, the code flow, and what is sent where."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from containerssh.auth.oauth2.authenticator import open_oauth2
from containerssh.config.oauth2 import OAuth2Config
from containerssh.core.codes import OAuth2Code
from containerssh.core.errors import AuthFailed, AuthUnavailable
from tests.support.identity import (
    ATTEMPT,
    TOKEN,
    Call,
    Person,
    Provider,
    Reply,
    code_only,
    link_in,
    log_in,
    oidc,
    parameters_of,
    pasting,
    providing,
)


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    async with providing() as found:
        yield found


def in_turn(*replies: Reply) -> Callable[[Call], Reply]:
    """One after another; the last one stays."""
    left = list(replies)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


def error(name: str, status: int = 400, **more: object) -> Reply:
    return Reply({"error": name, **more}, status)


PENDING = error("authorization_pending")


# -- device flow ---------------------------------------------------------------------------------


async def test_a_device_login_shows_link_and_code_and_waits(provider: Provider) -> None:
    provider.routes["/token"] = in_turn(PENDING, Reply(provider.granted()))
    person = Person()
    login = await log_in(oidc(provider, extraScopes=["email"], enforceScopes=True), person)
    assert login.authenticated_username == "alice"
    assert person.shown == [
        f"Please click the following link: {provider.url}/verify\n\nEnter the following code: WDJB-MJHT\n"
    ]
    assert not person.told
    assert login.metadata["OIDC_TOKEN"].sensitive
    assert login.metadata["OIDC_TOKEN"].value == TOKEN
    assert login.metadata["OIDC_USERINFO_EMAIL"].value == "alice@example.org"
    assert "OIDC_USERINFO_AGE" not in login.metadata
    first, second = provider.to("/token")
    assert second.at - first.at >= 0.95
    assert provider.to("/device")[0].form["scope"] == "openid email"


async def test_an_interval_of_zero_is_one_of_a_second(provider: Provider) -> None:
    provider.routes["/device"] = Reply(provider.device(interval=0))
    provider.routes["/token"] = in_turn(PENDING, Reply(provider.granted()))
    await log_in(oidc(provider))
    first, second = provider.to("/token")
    assert second.at - first.at >= 0.95


@pytest.mark.parametrize("end", ["", "/"])
async def test_the_address_of_a_provider_may_end_with_a_slash_or_not(provider: Provider, end: str) -> None:
    assert (await log_in(oidc(provider, url=f"{provider.url}{end}"))).authenticated_username == "alice"


async def test_slow_down_makes_the_pause_five_seconds_longer(provider: Provider) -> None:
    provider.routes["/token"] = in_turn(error("slow_down"), Reply(provider.granted()))
    await log_in(oidc(provider))
    first, second = provider.to("/token")
    assert second.at - first.at >= 5.9


@pytest.mark.parametrize(
    ("answer", "kind", "text"),
    [
        (error("access_denied"), AuthFailed, "The login was denied in the browser."),
        (error("expired_token"), AuthFailed, "The code has expired. Please log in again."),
        (error("invalid_client", 401), AuthUnavailable, "Authentication is not available at the moment."),
        (error("weird \x1b[2J thing"), AuthUnavailable, "Authentication is not available at the moment."),
        (Reply({"access_token": "a\nb"}), AuthUnavailable, "Authentication is not available at the moment."),
        (
            Reply({"access_token": "t", "token_type": "mac"}),
            AuthUnavailable,
            "Authentication is not available at the moment.",
        ),
        (Reply({}, 404), AuthUnavailable, "The identity provider does not answer."),
        (
            Reply(None, 302, {"Location": "http://127.0.0.1:9/"}),
            AuthUnavailable,
            "The identity provider does not answer.",
        ),
    ],
)
async def test_a_final_answer_ends_the_polling_and_the_user_reads_why(
    provider: Provider, answer: Reply, kind: type[Exception], text: str
) -> None:
    provider.routes["/token"] = answer
    person = Person()
    with pytest.raises(kind) as caught:
        await log_in(oidc(provider), person)
    assert len(provider.to("/token")) == 1
    assert person.told == [text]
    assert "\x1b" not in str(caught.value)


async def test_a_code_that_nobody_uses_expires(provider: Provider) -> None:
    provider.routes["/device"] = Reply(provider.device(expires_in=1))
    provider.routes["/token"] = PENDING
    person = Person()
    with pytest.raises(AuthFailed) as caught:
        await log_in(oidc(provider), person)
    assert caught.value.code == OAuth2Code.TIMEOUT
    assert person.told == ["The code has expired. Please log in again."]


async def test_a_provider_that_only_slows_down_is_told_of_as_such(provider: Provider) -> None:
    provider.routes["/device"] = Reply(provider.device(expires_in=3))
    provider.routes["/token"] = error("slow_down")
    with pytest.raises(AuthUnavailable) as caught:
        await log_in(oidc(provider))
    assert caught.value.code == OAuth2Code.RATE_LIMIT


@pytest.mark.parametrize("broken", ["/.well-known/openid-configuration", "/device", "/token", "/userinfo"])
@pytest.mark.parametrize("how", [Reply({}, 503), Reply({}, delay=30)], ids=["error", "silence"])
async def test_the_whole_login_has_a_time_limit(provider: Provider, broken: str, how: Reply) -> None:
    provider.routes[broken] = how
    begun = time.monotonic()
    with pytest.raises(AuthFailed) as caught:
        await log_in({**oidc(provider), "authTimeout": "600ms"})
    assert caught.value.code == OAuth2Code.TIMEOUT
    assert time.monotonic() - begun < 5


async def test_a_user_who_leaves_ends_the_polling(provider: Provider) -> None:
    provider.routes["/token"] = PENDING
    task = asyncio.create_task(log_in(oidc(provider)))
    await asyncio.wait_for(provider.polled.wait(), 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    before = len(provider.to("/token"))
    await asyncio.sleep(1.3)  # longer than the interval
    assert len(provider.to("/token")) == before


async def test_without_a_device_code_the_user_gets_a_link(provider: Provider) -> None:
    provider.routes["/device"] = error("slow_down")
    person = Person(pasting())
    await log_in(code_only(provider, deviceFlow=True), person)
    assert "/authorize?" in link_in(person.shown[0])


async def test_clients_outside_of_device_flow_clients_get_a_link(provider: Provider) -> None:
    settings = {**code_only(provider, deviceFlow=True), "deviceFlowClients": ["PuTTY"]}
    person = Person(pasting())
    await log_in(settings, person)
    assert not provider.to("/device")
    await log_in(settings, attempt=replace(ATTEMPT, client_version="SSH-2.0-PuTTY_Release_0.78"))
    assert provider.to("/device")


async def test_clients_of_the_list_see_a_picture_of_the_link(provider: Provider) -> None:
    person = Person()
    await log_in({**oidc(provider), "qrCodeClients": ["^SSH-2.0-OpenSSH"]}, person)
    assert "█" in person.shown[0]
    other = Person()
    await log_in({**oidc(provider), "qrCodeClients": ["PuTTY"]}, other)
    assert "█" not in other.shown[0]


@pytest.mark.parametrize(
    "device",
    [{"verification_uri": "javascript:alert(1)"}, {"verification_uri": "http://x/\x1b[2J"}, {"user_code": "\x07"}],
)
async def test_what_would_draw_over_the_terminal_is_not_shown(provider: Provider, device: dict[str, object]) -> None:
    provider.routes["/device"] = Reply(provider.device(**device))
    person = Person()
    with pytest.raises(AuthUnavailable):
        await log_in(oidc(provider), person)
    assert not person.shown


# -- code flow -----------------------------------------------------------------------------------


async def test_the_code_flow_sends_what_protects_it(provider: Provider) -> None:
    person = Person(pasting())

    def granted(_: Call) -> Reply:
        nonce = parameters_of(person.shown[0])["nonce"]
        return Reply(provider.granted(id_token=provider.signed(provider.claims(nonce=nonce))))

    provider.routes["/token"] = granted
    await log_in(code_only(provider), person)
    asked = parameters_of(person.shown[0])
    form = provider.to("/token")[0].form
    assert asked["code_challenge_method"] == "S256"
    assert len(form["code_verifier"]) >= 43
    assert form["code"] == "the-code"
    assert form["redirect_uri"] == asked["redirect_uri"] == "http://127.0.0.1:9/"
    assert ATTEMPT.connection_id not in link_in(person.shown[0])


@pytest.mark.parametrize("answer", ["nonsense", "|code", "foreign|code", ""])
async def test_an_answer_that_is_not_this_logins_is_refused(provider: Provider, answer: str) -> None:
    person = Person(lambda _: [answer])
    with pytest.raises(AuthFailed):
        await log_in(code_only(provider), person)
    assert not provider.to("/token"), "the code was used"
    assert person.told


async def test_code_and_state_of_one_login_are_refused_in_another(provider: Provider) -> None:
    stolen: list[str] = []

    def victim(instruction: str) -> list[str]:
        stolen.append(f"{parameters_of(instruction)['state']}|victims-code")
        return ["given up"]

    config = OAuth2Config.model_validate(code_only(provider))
    async with open_oauth2(config) as authenticator, AsyncExitStack() as undo:
        with pytest.raises(AuthFailed):
            await authenticator.authenticate_interactive(ATTEMPT, Person(victim), undo)
        for attempt in (ATTEMPT, replace(ATTEMPT, connection_id="1" * 32, username="mallory")):
            with pytest.raises(AuthFailed) as caught:
                await authenticator.authenticate_interactive(attempt, Person(lambda _: stolen), undo)
            assert caught.value.code == OAuth2Code.STATE_MISMATCH
    assert not provider.to("/token")


async def test_a_code_is_sent_once_whatever_comes_back(provider: Provider) -> None:
    provider.routes["/token"] = Reply({}, 503)
    with pytest.raises(AuthUnavailable):
        await log_in(code_only(provider), Person(pasting()))
    assert len(provider.to("/token")) == 1
