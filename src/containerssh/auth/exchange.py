"""Asking a webhook until it answers (``webhooks.md`` section 2), and what is logged about it (section 9)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import NamedTuple

from containerssh.auth.fields import read_object
from containerssh.core.codes import HTTPCode
from containerssh.core.counters import counters
from containerssh.core.messages import Code, Event, LabelValue
from containerssh.core.metrics import (
    AUTH_SERVER_FAILURES,
    AUTH_SERVER_REQUESTS,
    CONFIG_SERVER_FAILURES,
    CONFIG_SERVER_REQUESTS,
)
from containerssh.core.retry import retry
from containerssh.web.client import HTTPClient, WebhookError

logger = logging.getLogger(__name__)

_FIRST_PAUSE = timedelta(seconds=1)
_LONGEST_PAUSE = timedelta(seconds=10)
_BUSY = frozenset({408, 429})


class Metrics(NamedTuple):
    """What counts a webhook's requests, and those of them that failed."""

    requests: str
    failures: str


AUTH_SERVER = Metrics(AUTH_SERVER_REQUESTS, AUTH_SERVER_FAILURES)
CONFIG_SERVER = Metrics(CONFIG_SERVER_REQUESTS, CONFIG_SERVER_FAILURES)


@dataclass(eq=False)
class Exchange:
    """One question: attempts until there is an answer, or nothing is left to hope for."""

    client: HTTPClient
    path: str
    what: str
    """The question's name at the start of a log line."""
    request: Code
    failure: Code
    invalid_status: Code
    labels: Mapping[str, LabelValue]
    metrics: Metrics
    _tries: int = field(default=0, init=False)

    async def ask(self, fields: Mapping[str, object], *, within: timedelta) -> Mapping[str, object]:
        """
        The answer's top level, its keys in lower case; ends at once when the caller is cancelled.

        Raises:
            WebhookError: none came in time, or it was one that will not get better. It has been logged.
        """

        self._tries = 0

        async def once() -> Mapping[str, object]:
            logger.debug(Event(self.request, self.what, **self.labels))
            self._tries += 1
            counters.add(self.metrics.requests, **self._counted)
            try:
                return await self._once(fields)
            except WebhookError as exc:
                text = f"{self.what} failed ({exc})"
                logger.debug(Event(self.failure, text, **{**self.labels, "reason": exc.code}))
                self._count_failure("soft", exc)
                raise

        try:
            return await retry(
                once,
                on=WebhookError,
                within=within,
                every=_FIRST_PAUSE,
                at_most=_LONGEST_PAUSE,
                unless=lambda exc: isinstance(exc, WebhookError) and not exc.passing,
            )
        except WebhookError as exc:
            raise self.given_up(exc) from exc
        except TimeoutError as exc:
            late = WebhookError(
                HTTPCode.CLIENT_CONNECTION_FAILED, f"no answer within {within.total_seconds():g} s", passing=True
            )
            raise self.given_up(late) from exc

    async def _once(self, fields: Mapping[str, object]) -> Mapping[str, object]:
        answer = await self.client.post(self.path, fields)
        if answer.status != 200:
            raise WebhookError(
                self.invalid_status,
                f"{self.client.url}{self.path} answered with status {answer.status}",
                passing=answer.status >= 500 or answer.status in _BUSY,
            )
        return read_object(answer.json())

    def given_up(self, exc: WebhookError) -> WebhookError:
        """Log that the question stays unanswered; the error to raise, with the code of the whole question."""
        text = f"{self.what} failed, giving up ({exc})"
        logger.error(Event(self.failure, text, **{**self.labels, "reason": exc.code}))
        self._count_failure("hard", exc)
        return WebhookError(self.failure, f"{self.what} failed", passing=exc.passing, reason=exc.code)

    @property
    def _counted(self) -> dict[str, str]:
        kind = self.labels.get("authtype")
        return {"retry": "1" if self._tries > 1 else "0"} | ({"authtype": kind} if isinstance(kind, str) else {})

    def _count_failure(self, how: str, exc: WebhookError) -> None:
        """For the moment (``soft``), or for good (``hard``)."""
        counters.add(self.metrics.failures, type=how, reason=exc.code, **self._counted)
