"""Questions that the administrator's webhook asks the user (keyboard-interactive; an addition to ``webhooks.md``)."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from containerssh.auth.exchange import AUTH_SERVER, Exchange
from containerssh.auth.fields import check_name, invalid_answer, question, read_object, read_text, read_values, readable
from containerssh.config.auth import WebhookConfig
from containerssh.core.codes import AuthCode
from containerssh.core.errors import AuthFailed, AuthUnavailable
from containerssh.core.handlers import Prompts
from containerssh.core.interview import LONGEST_STATE, LONGEST_TEXT, MOST_QUESTIONS
from containerssh.core.messages import Event, LabelValue
from containerssh.core.metadata import AuthAttempt, Login
from containerssh.web.client import HTTPClient, WebhookError, open_http_client

logger = logging.getLogger(__name__)

MOST_ROUNDS = 10
"""Prompts in one attempt."""


@dataclass(frozen=True)
class Prompt:
    """What the user is asked next."""

    instruction: str
    questions: Sequence[tuple[str, bool]]
    """Texts, and whether the answer may be shown while it is typed."""


class WebhookInterview:
    """Has the webhook ask as often as it likes, within limits; see :func:`open_interview`."""

    def __init__(self, config: WebhookConfig, client: HTTPClient) -> None:
        self._config = config
        self._client = client

    async def authenticate_interactive(self, attempt: AuthAttempt, prompts: Prompts, undo: AsyncExitStack) -> Login:
        """
        The login that the answers earn.

        Raises:
            AuthFailed: the webhook said no.
            AuthUnavailable: it did not answer, not in a way that makes sense, or does not come to an end.
        """
        check_name(attempt)
        labels: dict[str, LabelValue] = {
            "connectionId": attempt.connection_id,
            "username": attempt.username,
            "url": self._client.url,
            "authtype": "keyboard-interactive",
        }
        exchange = Exchange(
            self._client,
            "/interactive",
            "Keyboard-interactive authentication request",
            AuthCode.REQUEST,
            AuthCode.BACKEND_ERROR,
            AuthCode.INVALID_STATUS,
            labels,
            AUTH_SERVER,
        )
        fields: dict[str, object] = {**question(attempt.without_sensitive()), "round": 0}
        for number in range(MOST_ROUNDS + 1):
            try:
                answer = await exchange.ask(fields, within=self._config.auth_timeout)
                try:
                    if answer.get("success") is True:
                        values = read_values(answer)
                        login = Login.of(attempt, read_text(answer, "authenticatedUsername"))
                        logger.debug(Event(AuthCode.SUCCESSFUL, "Keyboard-interactive successful", **labels))
                        return login.with_values(values.metadata, values.environment, values.files)
                    prompt, state = read_prompt(answer), read_state(answer)
                except WebhookError as exc:
                    raise exchange.given_up(exc) from exc
            except WebhookError as exc:
                text = "keyboard-interactive authentication is not available"
                raise AuthUnavailable(AuthCode.BACKEND_ERROR, text) from exc
            if prompt is None:
                logger.debug(Event(AuthCode.FAILED, "Keyboard-interactive authentication failed", **labels))
                raise AuthFailed(AuthCode.FAILED, "the webhook said no")
            if number == MOST_ROUNDS:
                break
            answers = await prompts.ask(prompt.instruction, prompt.questions)
            if any(readable(text) != text for text in answers):
                raise AuthFailed(AuthCode.FAILED, "an answer is not UTF-8")
            fields |= {"round": number + 1, "state": state, "answers": list(answers)}
        text = f"the webhook asks more than {MOST_ROUNDS} times"
        logger.error(Event(AuthCode.BACKEND_ERROR, f"Keyboard-interactive authentication given up: {text}", **labels))
        raise AuthUnavailable(AuthCode.BACKEND_ERROR, text)


def read_prompt(answer: Mapping[str, object]) -> Prompt | None:
    """
    What an answer wants to know; None if that is nothing.

    Raises:
        WebhookError: nobody could be asked so.
    """
    found = answer.get("prompt")
    if found is None:
        return None
    prompt = read_object(found)
    questions = prompt.get("questions")
    if questions is None:
        questions = []
    if not isinstance(questions, list) or len(questions) > MOST_QUESTIONS:
        raise invalid_answer(f"questions is not a list of {MOST_QUESTIONS} at most")
    return Prompt(_limited(read_text(prompt, "instruction")), [_question(item) for item in questions])


def read_state(answer: Mapping[str, object]) -> str:
    """What the webhook wants to be told with the next question; raises as above."""
    state = read_text(answer, "state")
    if len(state) > LONGEST_STATE:
        raise invalid_answer(f"state has more than {LONGEST_STATE} characters")
    return state


def _question(item: object) -> tuple[str, bool]:
    fields = read_object(item)
    echo = fields.get("echo")
    if not isinstance(echo, bool | None):
        raise invalid_answer("echo is neither true nor false")
    text = _limited(read_text(fields, "text"))
    if not text:
        # RFC 4256 section 3.2: a prompt must not be empty.
        raise invalid_answer("a question has no text")
    return text, bool(echo)


def _limited(text: str) -> str:
    if len(text) > LONGEST_TEXT:
        raise invalid_answer(f"a text has more than {LONGEST_TEXT} characters")
    return text


@asynccontextmanager
async def open_interview(config: WebhookConfig) -> AsyncIterator[WebhookInterview]:
    """An authenticator for the server's life; its connections are closed at the end."""
    async with open_http_client(config) as client:
        yield WebhookInterview(config, client)
