"""Requests to a provider: forms and JSON responses (RFC 6749 section 4, RFC 6750)."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar
from urllib.parse import quote_plus, urlencode, urlsplit, urlunsplit

from containerssh.auth.oauth2.answers import Reply
from containerssh.core.messages import Event
from containerssh.web.client import HTTPClient, WebhookError, encode_json

logger = logging.getLogger(__name__)

T = TypeVar("T")

_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 8.0


class Caller:
    """Calls the endpoints of one provider; *client* has its TLS settings and timeout."""

    def __init__(self, client: HTTPClient) -> None:
        self._client = client

    async def get(self, url: str, *, token: str = "") -> Reply:
        """GET *url*, with the bearer *token* if given. Raises WebhookError if there is no response."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return Reply.of(await self._client.exchange("GET", url, headers=headers))

    async def form(self, url: str, fields: Mapping[str, str], *, authorization: str = "") -> Reply:
        """POST *fields* as a form; raises as above."""
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        if authorization:
            headers["Authorization"] = authorization
        return Reply.of(await self._client.exchange("POST", url, body=urlencode(fields).encode(), headers=headers))

    async def delete(self, url: str, fields: Mapping[str, str], *, authorization: str) -> Reply:
        """DELETE with *fields* as JSON; raises as above."""
        headers = {"Authorization": authorization}
        return Reply.of(await self._client.exchange("DELETE", url, body=encode_json(fields), headers=headers))


async def until_answered(once: Callable[[], Awaitable[T]]) -> T:
    """
    Call *once*, and retry while the provider is unavailable; the caller limits the time.

    Raises:
        WebhookError: a retry would not help.
    """
    pause = _FIRST_PAUSE
    while True:
        try:
            return await once()
        except WebhookError as exc:
            if not exc.passing:
                raise
            logger.debug(Event(exc.code, f"The identity provider will be asked again in {pause:g} s ({exc})"))
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


def basic(client_id: str, secret: str) -> str:
    """HTTP Basic client authentication (RFC 6749 section 2.3.1): both parts are form-encoded first."""
    return "Basic " + base64.b64encode(f"{quote_plus(client_id)}:{quote_plus(secret)}".encode()).decode()


def with_query(url: str, parameters: Mapping[str, str]) -> str:
    """*url* with *parameters* appended to its query."""
    parts = urlsplit(url)
    query = "&".join(filter(None, (parts.query, urlencode(parameters))))
    return urlunsplit(parts._replace(query=query, fragment=""))
