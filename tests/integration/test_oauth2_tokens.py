"""What a provider's tokens say about a user, and what they are believed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from joserfc import jwk

from containerssh.auth.oauth2.authenticator import open_oauth2
from containerssh.config.oauth2 import OAuth2Config
from containerssh.core.codes import OAuth2Code
from containerssh.core.errors import AuthFailed, AuthUnavailable
from tests.support.identity import (
    ATTEMPT,
    TOKEN,
    Person,
    Provider,
    Reply,
    code_only,
    log_in,
    oidc,
    pasting,
    providing,
)


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    async with providing() as found:
        yield found


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
