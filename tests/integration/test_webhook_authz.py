"""The authorization webhook, asked over real sockets."""

from __future__ import annotations

from dataclasses import replace

import pytest

from containerssh.auth.webhook import open_authorizer
from containerssh.config.auth import WebhookConfig
from containerssh.core.codes import AuthCode
from containerssh.core.errors import AuthFailed, AuthUnavailable
from containerssh.core.metadata import Login, SocketAddress, Value
from tests.support.ssh_front import logged
from tests.support.webhook import Reply, Webhook, webhook

LOGIN = Login(
    SocketAddress("192.0.2.7", 4711),
    "0123456789abcdef" * 2,
    {"team": Value("blue"), "token": Value("marker-1", sensitive=True)},
    {"A": Value("1"), "B": Value("marker-2", sensitive=True)},
    {"/f": Value(b"marker-3", sensitive=True)},
    "SSH-2.0-OpenSSH_9.2p1",
    "alice",
    authenticated_username="real",
)


async def authorize(hook: Webhook, login: Login = LOGIN) -> Login:
    config = WebhookConfig.model_validate({"url": hook.url, "authTimeout": "1s"})
    async with open_authorizer(config) as authorizer:
        return await authorizer.authorize(login)


async def test_the_question_has_every_field_in_upstreams_order_and_nothing_sensitive() -> None:
    async with webhook() as hook:
        hook.answers = [Reply({"success": True})]
        login = await authorize(hook)
    (request,) = hook.requests
    assert (request.method, request.path) == ("POST", "/authz")
    assert list(request.json.items()) == [
        ("remoteAddress", "192.0.2.7:4711"),
        ("connectionId", "0123456789abcdef" * 2),
        ("metadata", {"team": {"value": "blue", "sensitive": False}}),
        ("environment", {"A": {"value": "1", "sensitive": False}}),
        ("clientVersion", "SSH-2.0-OpenSSH_9.2p1"),
        ("username", "alice"),
        ("authenticatedUsername", "real"),
    ]
    assert b"marker" not in request.raw
    assert login == LOGIN, "a plain yes changes nothing, the name included"


async def test_without_a_vouched_name_the_question_has_none() -> None:
    async with webhook() as hook:
        hook.answers = [Reply({"success": True})]
        login = await authorize(hook, replace(LOGIN, authenticated_username=""))
    assert "authenticatedUsername" not in hook.requests[0].json
    assert login.authenticated_username == ""


async def test_values_of_a_yes_win_over_those_before() -> None:
    async with webhook() as hook:
        hook.answers = [
            Reply(
                {
                    "success": True,
                    "authenticatedUsername": "other",
                    "environment": {"A": {"value": "2", "sensitive": True}, "C": {"value": "3"}},
                    "files": {"/f": {"value": "eA=="}},
                }
            )
        ]
        login = await authorize(hook)
    assert login.authenticated_username == "other"
    assert login.environment == {
        "A": Value("2", sensitive=True),
        "B": Value("marker-2", sensitive=True),
        "C": Value("3"),
    }
    assert login.files == {"/f": Value(b"x")}
    assert login.metadata == LOGIN.metadata


async def test_a_plain_yes_changes_nothing() -> None:
    async with webhook() as hook:
        hook.answers = [Reply({"success": True})]
        assert await authorize(hook) == LOGIN
    assert LOGIN.authenticated_username


@pytest.mark.parametrize("answer", [{}, {"success": False}, {"success": 1}, {"success": "true"}])
async def test_anything_but_true_is_a_no(answer: dict[str, object]) -> None:
    async with webhook() as hook:
        hook.answers = [Reply(answer)]
        with pytest.raises(AuthFailed):
            await authorize(hook)


@pytest.mark.parametrize(
    "reply",
    [Reply({"success": True}, status=403), Reply({"success": True}, status=500), Reply(raw=b"{"), Reply(hang_up=True)],
    ids=["403", "500", "cut off", "hung up"],
)
async def test_no_proper_answer_is_unavailable_and_logged_without_secrets(reply: Reply) -> None:
    with logged() as log:
        async with webhook() as hook:
            hook.answers = [reply]
            with pytest.raises(AuthUnavailable):
                await authorize(hook)
    (event, labels) = next(line for line in log.of(AuthCode.BACKEND_ERROR) if line[0] in log.errors)
    assert "giving up" in event.text
    assert (labels["authtype"], labels["providedUsername"]) == ("authorization", "alice")
    assert "marker" not in repr(log.lines)


async def test_a_yes_that_makes_no_sense_is_none() -> None:
    async with webhook() as hook:
        hook.answers = [Reply({"success": True, "files": {"relative": {"value": ""}}})]
        with pytest.raises(AuthUnavailable):
            await authorize(hook)
