"""What a provider answers, and what a user pastes."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from containerssh.auth.oauth2.answers import (
    OAuthRefusal,
    Reply,
    Token,
    checked_link,
    is_visible,
    read_device_code,
    read_token,
    shown,
)
from containerssh.auth.oauth2.calls import Caller, basic, with_query
from containerssh.auth.oauth2.flows import read_pasted
from containerssh.auth.oauth2.github import GitHubProvider, is_granted, wanted_scopes
from containerssh.auth.oauth2.oidc import OIDCProvider
from containerssh.auth.oauth2.provider import Secrets
from containerssh.auth.oauth2.qr import picture
from containerssh.config.oauth2 import OAuth2Config
from containerssh.core.errors import AuthFailed, AuthUnavailable
from containerssh.core.metadata import AuthAttempt, SocketAddress
from containerssh.web.client import WebhookError, encode_json

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=2),
    max_leaves=3,
)
NAMES = ["access_token", "token_type", "scope", "id_token", "refresh_token", "error", "interval", "device_code"]
NAMES += ["user_code", "verification_uri", "verification_uri_complete", "expires_in"]
REPLIES = st.builds(Reply, st.integers(200, 599), st.dictionaries(st.sampled_from(NAMES), JSON))

# The first texts take seconds on a busy machine: tables of all characters are made for them.
patient = settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)


@patient
@given(REPLIES)
def test_any_answer_of_a_token_endpoint_is_a_token_or_an_error(reply: Reply) -> None:
    try:
        token = read_token(reply)
    except (OAuthRefusal, WebhookError, AuthUnavailable):
        return
    assert token.access
    assert is_visible(token.access)
    assert " " not in token.access


@patient
@given(REPLIES)
def test_any_answer_of_a_device_endpoint_is_a_code_that_can_be_shown_or_an_error(reply: Reply) -> None:
    try:
        device = read_device_code(reply, secure=False)
    except (OAuthRefusal, WebhookError, AuthUnavailable):
        return
    assert device.interval >= 1
    assert device.lifetime >= 0
    assert is_visible(device.user_code + device.url)


@pytest.mark.parametrize(
    "link",
    [
        "",
        "javascript:alert(1)",
        "file:///etc/passwd",
        "https://",
        "https://a b/",
        "https://x/\x1b[2J",
        "//x/",
        "http://x/",
    ],
)
def test_a_link_that_no_browser_should_open_is_not_shown(link: str) -> None:
    with pytest.raises(AuthUnavailable):
        checked_link(link, secure=True)


@patient
@given(st.text())
def test_nothing_that_is_shown_can_draw_over_the_terminal(text: str) -> None:
    found = shown(text)
    assert len(found) <= 200
    assert not any(unicodedata.category(char) in {"Cc", "Cf", "Cs"} for char in found)


@patient
@given(st.text(max_size=50))
def test_only_the_answer_to_this_link_is_a_code(text: str) -> None:
    with pytest.raises(AuthFailed):
        read_pasted(text, "the-state")


@pytest.mark.parametrize(
    "answer",
    [
        "|code",
        "the-state|",
        "the-state",
        "the-state |code",
        "the-statf|code",
        "the-state|a\nb",
        "the-state|" + "x" * 9000,
    ],
)
def test_a_wrong_answer_is_refused(answer: str) -> None:
    with pytest.raises(AuthFailed):
        read_pasted(answer, "the-state")


def test_the_code_is_what_follows_the_first_bar() -> None:
    assert read_pasted(" the-state|a|b\r\n", "the-state") == "a|b"


def test_each_login_has_secrets_of_its_own_that_no_log_tells() -> None:
    one, other = Secrets.fresh(), Secrets.fresh()
    assert len({one.state, other.state, one.nonce, other.nonce, one.verifier, other.verifier}) == 6
    assert 43 <= len(one.verifier) <= 128
    assert one.state not in repr(one)


def test_the_client_proves_itself_as_the_standard_has_it() -> None:
    assert basic("a:b", "c d%") == "Basic YSUzQWI6YytkJTI1"


def test_parameters_follow_those_that_an_endpoint_has() -> None:
    assert with_query("https://x/a?tenant=1#part", {"state": "s&t"}) == "https://x/a?tenant=1&state=s%26t"


@pytest.mark.parametrize(
    ("scope", "granted", "expected"),
    [
        ("user:email", "user", True),
        ("user:email", "user:email", True),
        ("user:email", "user:follow", False),
        ("read:org", "admin:org", True),
        ("write:org", "read:org", False),
        ("read:user", "user", True),
        ("repo", "", False),
    ],
)
def test_a_wider_scope_of_github_grants_a_narrower_one(scope: str, granted: str, expected: bool) -> None:
    assert is_granted(scope, frozenset(granted.split())) is expected


def test_the_checks_ask_for_the_scopes_that_they_need() -> None:
    github = {"requireOrgMembership": "acme", "require2FA": True, "extraScopes": ["repo"]}
    assert wanted_scopes(OAuth2Config.model_validate({"github": github})) == ["repo", "read:org", "read:user"]


class Says(Caller):
    """A provider that gives the same answer to everything, with what its description needs."""

    def __init__(self, fields: dict[str, object]) -> None:
        self._fields = {"issuer": "https://id.example.org", "userinfo_endpoint": "https://id.example.org/me", **fields}

    async def get(self, url: str, *, token: str = "") -> Reply:
        return Reply(200, self._fields)


@pytest.mark.parametrize("kind", [OIDCProvider, GitHubProvider])
async def test_half_a_surrogate_pair_in_a_users_texts_becomes_a_character(
    kind: type[OIDCProvider | GitHubProvider],
) -> None:
    """Or no webhook, and no container, could be told of them."""
    texts = {"name": "\ud800Alice", "bio": "\udfff"}
    config = OAuth2Config.model_validate(
        {"clientId": "c", "oidc": {"url": "https://id.example.org", "usernameField": "login"}}
    )
    attempt = AuthAttempt(SocketAddress("127.0.0.1", 1), "0" * 32, username="alice")
    token = Token("access", None)
    login = await kind(config, Says({"login": "alice", **texts})).login(attempt, token, None)
    said = [value.value for value in login.metadata.values()]
    assert {"\ufffdAlice", "\ufffd"} <= set(said)
    assert encode_json({"metadata": said})


def test_a_link_becomes_a_square_picture() -> None:
    lines = picture("https://id.example.org/device?user_code=WDJB-MJHT").splitlines()
    assert {len(line) for line in lines} == {len(lines[0])}
    assert len(lines) == (len(lines[0]) + 1) // 2 <= 24
    assert set("".join(lines)) <= set("█▀▄ ")
