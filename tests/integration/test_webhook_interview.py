"""A webhook that asks the user questions, over real sockets and with OpenSSH's client."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containerssh.auth.interview import MOST_ROUNDS, open_interview, read_prompt
from containerssh.config.auth import WebhookConfig
from containerssh.core.errors import AuthFailed, AuthUnavailable
from containerssh.core.handlers import Prompts
from containerssh.core.interview import LONGEST_STATE, MOST_QUESTIONS
from containerssh.core.metadata import AuthAttempt, Login, SocketAddress, Value
from containerssh.layers.authentication import AuthenticationServer, Authenticators
from containerssh.web.client import WebhookError
from tests.support.local_backend import LocalBackend
from tests.support.openssh import OpenSSH
from tests.support.ssh_front import logged, serving
from tests.support.webhook import Reply, Request, Webhook, webhook

ATTEMPT = AuthAttempt(
    SocketAddress("192.0.2.7", 4711),
    "0123456789abcdef" * 2,
    {"s": Value("marker-old", sensitive=True)},
    client_version="SSH-2.0-OpenSSH_9.2p1",
    username="alice",
)
ASK: dict[str, Any] = {"prompt": {"questions": [{"text": "Word: "}]}, "state": "s"}


class User(Prompts):
    """Answers with the number of the question."""

    def __init__(self, text: str = "marker-answer") -> None:
        self.text = text
        self.asked: list[tuple[str, list[tuple[str, bool]]]] = []

    async def ask(self, instruction: str, questions: Sequence[tuple[str, bool]] = ()) -> Sequence[str]:
        self.asked.append((instruction, list(questions)))
        return [f"{self.text}-{number}" for number, _ in enumerate(questions)]

    def tell(self, text: str) -> None:
        self.asked.append((text, []))


def config(hook: Webhook) -> WebhookConfig:
    return WebhookConfig.model_validate({"url": hook.url, "authTimeout": "1s"})


async def interview(hook: Webhook, user: User | None = None) -> Login:
    async with open_interview(config(hook)) as authenticator, AsyncExitStack() as undo:
        return await authenticator.authenticate_interactive(ATTEMPT, user or User(), undo)


async def test_the_webhook_asks_until_it_knows_enough() -> None:
    user = User()
    async with webhook() as hook:
        hook.answers = [
            Reply({"prompt": {"instruction": "Hello.", "questions": [{"text": "A: "}, {"text": "B: ", "echo": True}]}}),
            Reply({"success": False, "prompt": {"instruction": "Look at your phone."}, "state": "opaque"}),
            Reply({"success": True, "authenticatedUsername": "real", "environment": {"E": {"value": "1"}}}),
        ]
        login = await interview(hook, user)
    first, second, third = hook.requests
    assert {request.path for request in hook.requests} == {"/interactive"}
    assert list(first.json.items()) == [
        ("remoteAddress", "192.0.2.7:4711"),
        ("connectionId", "0123456789abcdef" * 2),
        ("clientVersion", "SSH-2.0-OpenSSH_9.2p1"),
        ("username", "alice"),
        ("round", 0),
    ]
    assert [second.json[key] for key in ("round", "state", "answers")] == [
        1,
        "",
        ["marker-answer-0", "marker-answer-1"],
    ]
    assert [third.json[key] for key in ("round", "state", "answers")] == [2, "opaque", []]
    assert user.asked == [("Hello.", [("A: ", False), ("B: ", True)]), ("Look at your phone.", [])]
    assert (login.authenticated_username, login.environment) == ("real", {"E": Value("1")})


@pytest.mark.parametrize("answer", [{}, {"success": False}, {"success": "true"}, {"success": 1, "prompt": None}])
async def test_neither_yes_nor_question_is_a_no(answer: dict[str, object]) -> None:
    async with webhook() as hook:
        hook.answers = [Reply(ASK), Reply(answer)]
        with pytest.raises(AuthFailed):
            await interview(hook)
    assert len(hook.requests) == 2


async def test_a_webhook_that_never_ends_is_given_up() -> None:
    user = User()
    async with webhook() as hook:
        hook.answers = [Reply(ASK)]
        with pytest.raises(AuthUnavailable):
            await interview(hook, user)
    assert len(user.asked) == MOST_ROUNDS


@pytest.mark.parametrize(
    "answer",
    [
        {"prompt": "Word: "},
        {"prompt": {"questions": {}}},
        {"prompt": {"questions": ["Word: "]}},
        {"prompt": {"questions": [{"echo": True}]}},
        {"prompt": {"questions": [{"text": "A", "echo": "yes"}]}},
        {"prompt": {"questions": [{"text": "A"}] * (MOST_QUESTIONS + 1)}},
        {"prompt": {"instruction": "x" * 5000}},
        {**ASK, "state": "x" * (LONGEST_STATE + 1)},
        {**ASK, "state": 1},
    ],
)
async def test_what_nobody_could_be_asked_is_unavailable(answer: dict[str, object]) -> None:
    user = User()
    async with webhook() as hook:
        hook.answers = [Reply(answer)]
        with pytest.raises(AuthUnavailable):
            await interview(hook, user)
    assert (user.asked, len(hook.requests)) == ([], 1)


async def test_answers_that_are_no_text_are_not_sent() -> None:
    async with webhook() as hook:
        hook.answers = [Reply(ASK)]
        with pytest.raises(AuthFailed):
            await interview(hook, User("\udcff"))
    assert len(hook.requests) == 1


async def test_answers_and_what_is_sensitive_appear_in_no_log() -> None:
    with logged() as log:
        async with webhook() as hook:
            hook.answers = [Reply(ASK), Reply({"success": False}, status=403)]
            with pytest.raises(AuthUnavailable):
                await interview(hook)
    assert not any(b"marker-old" in request.raw for request in hook.requests)
    assert log.lines
    assert "marker" not in repr(log.lines)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["prompt", "questions", "text", "echo"]), inner),
)


@given(JSON)
def test_any_prompt_is_read_or_refused(found: object) -> None:
    with suppress(WebhookError):
        prompt = read_prompt({"prompt": found})
        assert prompt is None or len(prompt.questions) <= MOST_QUESTIONS


async def test_openssh_shows_the_questions(tmp_path: Path) -> None:
    def answer(asked: Request) -> Reply:
        if asked.json["round"] == 0:
            return Reply(ASK)
        return Reply({"success": asked.json["answers"] == ["open sesame"], "authenticatedUsername": "ali"})

    async with webhook() as hook, open_interview(config(hook)) as authenticator:
        hook.answers = [answer]
        found = Authenticators(interactive=authenticator)
        async with serving(LocalBackend(), around=lambda inner: AuthenticationServer(inner, found)) as server:
            (await OpenSSH(tmp_path, password="open sesame").run(server, "true")).check()
            wrong = await OpenSSH(tmp_path, password="open barley").run(server, "true")
    assert (wrong.status, b"Permission denied (keyboard-interactive)" in wrong.stderr) == (255, True)
    assert [login.authenticated_username for login in server.backend.logins] == ["ali"]
