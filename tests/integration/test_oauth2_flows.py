"""Logins with a scripted provider: faults, refusals, and what is sent where."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest
from joserfc import jwk

from containerssh.auth.oauth2.authenticator import open_oauth2
from containerssh.config.oauth2 import OAuth2Config
from containerssh.core.codes import OAuth2Code
from containerssh.core.errors import AuthFailed, AuthUnavailable
from tests.support.identity import (
    ATTEMPT,
    SECRET,
    TOKEN,
    Call,
    Person,
    Provider,
    Reply,
    code_only,
    github,
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


# -- who it is -----------------------------------------------------------------------------------


async def test_a_good_id_token_passes(provider: Provider) -> None:
    provider.routes["/token"] = Reply(provider.granted(id_token=provider.signed(provider.claims())))
    assert (await log_in(oidc(provider))).authenticated_username == "alice"


@pytest.mark.parametrize(
    "claims",
    [{"aud": "somebody-else"}, {"iss": "http://127.0.0.1:1"}, {"exp": 1}, {"sub": "mallory"}],
    ids=["audience", "issuer", "expired", "another subject than the userinfo"],
)
async def test_a_bad_id_token_ends_the_login(provider: Provider, claims: dict[str, object]) -> None:
    provider.routes["/token"] = Reply(provider.granted(id_token=provider.signed(provider.claims(**claims))))
    with pytest.raises(AuthUnavailable):
        await log_in(oidc(provider))


async def test_a_nonce_of_another_login_ends_the_login(provider: Provider) -> None:
    token = provider.signed(provider.claims(nonce="somebody-elses"))
    provider.routes["/token"] = Reply(provider.granted(id_token=token))
    with pytest.raises(AuthUnavailable) as caught:
        await log_in(code_only(provider), Person(pasting()))
    assert caught.value.code == OAuth2Code.OIDC_ID_TOKEN_INVALID


async def test_a_key_that_is_new_is_asked_for_and_a_foreign_one_refused(provider: Provider) -> None:
    config = OAuth2Config.model_validate(oidc(provider))
    provider.routes["/token"] = lambda _: Reply(provider.granted(id_token=provider.signed(provider.claims())))
    async with open_oauth2(config) as authenticator, AsyncExitStack() as undo:
        await authenticator.authenticate_interactive(ATTEMPT, Person(), undo)
        await authenticator.authenticate_interactive(ATTEMPT, Person(), undo)
        assert len(provider.to("/jwks")) == len(provider.to("/.well-known/openid-configuration")) == 1
        provider.key = jwk.RSAKey.generate_key(2048, {"kid": "one"})
        with pytest.raises(AuthUnavailable):
            await authenticator.authenticate_interactive(ATTEMPT, Person(), undo)


async def test_a_description_of_another_issuer_is_not_used(provider: Provider) -> None:
    route = provider.routes["/.well-known/openid-configuration"]
    assert isinstance(route, Reply)
    assert isinstance(route.body, dict)
    provider.routes["/.well-known/openid-configuration"] = Reply({**route.body, "issuer": "https://other.example.org"})
    with pytest.raises(AuthUnavailable) as caught:
        await log_in(oidc(provider))
    assert caught.value.code == OAuth2Code.OIDC_DISCOVERY_FAILED
    assert not provider.to("/device")


@pytest.mark.parametrize(
    "userinfo",
    [{"sub": ""}, {"sub": 5}, {"email": "x"}, {"sub": "a\x1b[2Jb"}, {"sub": "a\u202eb"}, {"sub": "x" * 256}],
)
async def test_a_name_that_is_none_is_refused(provider: Provider, userinfo: dict[str, object]) -> None:
    provider.routes["/userinfo"] = Reply(userinfo)
    with pytest.raises(AuthFailed) as caught:
        await log_in(oidc(provider))
    assert caught.value.code == OAuth2Code.OIDC_NO_USERNAME


async def test_an_address_that_was_not_verified_is_no_name(provider: Provider) -> None:
    provider.routes["/userinfo"] = Reply({"sub": "1", "email": "alice@example.org", "email_verified": False})
    with pytest.raises(AuthFailed):
        await log_in(oidc(provider, usernameField="email"))


async def test_claims_that_could_not_be_variables_are_left_out(provider: Provider) -> None:
    provider.routes["/userinfo"] = Reply({"sub": "alice", "a=b": "x", "nul": "a\0b", "long": "x" * 20_000})
    login = await log_in(oidc(provider))
    assert set(login.metadata) == {"OIDC_TOKEN", "OIDC_USERINFO_SUB"}


async def test_a_scope_that_was_not_granted_ends_the_login_where_it_is_enforced(provider: Provider) -> None:
    with pytest.raises(AuthFailed) as caught:
        await log_in(oidc(provider, extraScopes=["groups"], enforceScopes=True))
    assert caught.value.code == OAuth2Code.OIDC_REQUIRED_SCOPE_NOT_GRANTED
    await log_in(oidc(provider, extraScopes=["groups"]))


async def test_an_answer_without_scopes_grants_what_was_asked(provider: Provider) -> None:
    provider.routes["/token"] = Reply({"access_token": TOKEN})
    assert await log_in(oidc(provider, extraScopes=["groups"], enforceScopes=True))


async def test_an_endless_answer_is_cut_off(provider: Provider) -> None:
    provider.routes["/userinfo"] = Reply({"sub": "alice", "more": "x" * 100_000})
    with pytest.raises(AuthUnavailable):
        await log_in(oidc(provider, maxAnswerBytes=64 * 1024))


# -- giving the token back -----------------------------------------------------------------------


async def test_tokens_are_revoked_after_a_login_and_after_a_failure(provider: Provider) -> None:
    provider.routes["/token"] = Reply(provider.granted(refresh_token="refresh"))
    await log_in(oidc(provider))
    assert [call.form["token"] for call in provider.to("/revoke")] == [TOKEN, "refresh"]
    provider.routes["/userinfo"] = Reply({}, 401)
    with pytest.raises(AuthUnavailable):
        await log_in(oidc(provider))
    assert len(provider.to("/revoke")) == 4


# -- GitHub --------------------------------------------------------------------------------------


async def test_github_tells_who_it_is(provider: Provider) -> None:
    login = await log_in(github(provider, requireOrgMembership="acme", require2FA=True))
    assert login.authenticated_username == "alice"
    found = {name: value.value for name, value in login.metadata.items()}
    assert found["GITHUB_METHOD"] == "device"
    assert found["GITHUB_TOKEN"] == TOKEN
    assert (found["GITHUB_ID"], found["GITHUB_NAME"], found["GITHUB_2FA"]) == ("42", "", "true")
    assert all(value.sensitive for name, value in login.metadata.items() if name != "GITHUB_METHOD")
    deleted = provider.to("/api/applications/containerssh/token")[0]
    assert deleted.method == "DELETE"
    assert json.loads(deleted.raw) == {"access_token": TOKEN}
    assert deleted.headers["Authorization"].startswith("Basic ")


async def test_the_code_flow_of_github_is_named_as_such(provider: Provider) -> None:
    provider.routes["/login/device/code"] = error("slow_down")
    person = Person(pasting())
    login = await log_in(github(provider), person)
    assert login.metadata["GITHUB_METHOD"].value == "authorization_code"
    assert parameters_of(person.shown[0])["login"] == "alice"
    assert provider.to("/login/oauth/access_token")[0].form["client_secret"] == SECRET


@pytest.mark.parametrize(
    ("settings", "path", "reply", "code"),
    [
        ({}, "/api/user", Reply({"login": "mallory"}), OAuth2Code.GITHUB_USER_DOES_NOT_MATCH),
        ({"require2FA": True}, "/api/user", Reply({"login": "alice"}), OAuth2Code.GITHUB_2FA_NOT_ENABLED),
        ({"requireOrgMembership": "acme"}, "MEMBER", Reply({}, 404), OAuth2Code.GITHUB_NOT_A_MEMBER),
        ({"requireOrgMembership": "acme"}, "MEMBER", Reply({}, 403), OAuth2Code.GITHUB_NOT_A_MEMBER),
        (
            {"requireOrgMembership": "acme"},
            "MEMBER",
            Reply({"state": "pending", "organization": {"login": "acme"}}),
            OAuth2Code.GITHUB_NOT_A_MEMBER,
        ),
        (
            {"requireOrgMembership": "acme"},
            "MEMBER",
            Reply({"state": "active", "organization": {"login": "renamed"}}),
            OAuth2Code.GITHUB_NOT_A_MEMBER,
        ),
        (
            {"extraScopes": ["repo"], "enforceScopes": True},
            "/revoke",
            Reply(),
            OAuth2Code.GITHUB_REQUIRED_SCOPE_NOT_GRANTED,
        ),
    ],
)
async def test_github_users_who_may_not_log_in_are_refused(
    provider: Provider, settings: dict[str, Any], path: str, reply: Reply, code: OAuth2Code
) -> None:
    provider.routes["/api/user/memberships/orgs/acme" if path == "MEMBER" else path] = reply
    with pytest.raises(AuthFailed) as caught:
        await log_in(github(provider, **settings))
    assert caught.value.code == code
    assert provider.to("/api/applications/containerssh/token"), "the token was left"


# -- any other server ----------------------------------------------------------------------------


async def test_a_generic_server_gives_a_token_and_no_name(provider: Provider) -> None:
    block = {
        "authorizeEndpointURL": f"{provider.url}/authorize",
        "redirectURI": "http://127.0.0.1:9/",
        "tokenEndpoint": {"url": f"{provider.url}/token"},
    }
    settings = {"provider": "generic", "clientId": "containerssh", "clientSecret": SECRET, "generic": block}
    login = await log_in(settings, Person(pasting()))
    assert login.authenticated_username == ""
    assert {name: (value.value, value.sensitive) for name, value in login.metadata.items()} == {
        "OAUTH2_TOKEN": (TOKEN, True)
    }
    with pytest.raises(AuthFailed):
        await log_in(settings, Person(lambda _: ["foreign|code"]))
