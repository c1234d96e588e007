"""Providers without ID tokens: GitHub, and servers that tell no name."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from containerssh.core.codes import OAuth2Code
from containerssh.core.errors import AuthFailed, AuthUnavailable
from tests.support.identity import (
    SECRET,
    TOKEN,
    Person,
    Provider,
    Reply,
    github,
    log_in,
    parameters_of,
    pasting,
    providing,
)


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    async with providing() as found:
        yield found


def error(name: str, status: int = 400, **more: object) -> Reply:
    return Reply({"error": name, **more}, status)


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


@pytest.mark.parametrize("flow", ["device", "code"])
async def test_a_refusal_that_github_sends_with_status_200_ends_the_login(provider: Provider, flow: str) -> None:
    if flow == "code":
        provider.routes["/login/device/code"] = error("slow_down")
    provider.routes["/login/oauth/access_token"] = error("bad_verification_code", 200)
    with pytest.raises((AuthFailed, AuthUnavailable)):
        await log_in(github(provider), Person(pasting()) if flow == "code" else Person())
    assert len(provider.to("/login/oauth/access_token")) == 1
    assert not provider.to("/api/user")


async def test_what_github_adds_to_its_answers_is_ignored(provider: Provider) -> None:
    more = {"new_in_a_later_version": {"a": [1]}}
    provider.routes["/login/device/code"] = Reply(provider.device(**more))
    provider.routes["/login/oauth/access_token"] = Reply(provider.granted(**more))
    assert (await log_in(github(provider))).authenticated_username == "alice"


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
