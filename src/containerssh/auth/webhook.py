"""The webhooks for passwords, public keys and authorization (``webhooks.md``)."""

from __future__ import annotations

import base64
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from containerssh.auth.exchange import AUTH_SERVER, Exchange
from containerssh.auth.fields import check_name, question, read_text, read_values
from containerssh.config.auth import WebhookConfig
from containerssh.core.codes import AuthCode
from containerssh.core.errors import AuthFailed, AuthUnavailable
from containerssh.core.handlers import PublicKey
from containerssh.core.messages import Event, LabelValue
from containerssh.core.metadata import AuthAttempt, Login
from containerssh.web.client import HTTPClient, WebhookError, open_http_client

logger = logging.getLogger(__name__)


class WebhookAuthenticator:
    """Asks the webhook about each attempt; see :func:`open_webhook`."""

    def __init__(self, config: WebhookConfig, client: HTTPClient) -> None:
        self._config = config
        self._client = client

    async def authenticate_password(self, attempt: AuthAttempt, password: bytes) -> Login:
        """
        Ask about a password.

        Raises:
            AuthFailed: the webhook refused.
            AuthUnavailable: there was no valid response.
        """
        encoded = base64.b64encode(password).decode()
        return await self._ask(attempt, "password", "Password", passwordBase64=encoded)

    async def authenticate_public_key(self, attempt: AuthAttempt, key: PublicKey) -> Login:
        """Ask about a key or certificate, before the client proves that it holds the private key; raises as above."""
        return await self._ask(attempt, "pubkey", "Public key", publicKey=key.authorized_key)

    async def _ask(self, attempt: AuthAttempt, kind: str, name: str, **credential: str) -> Login:
        check_name(attempt)
        labels: dict[str, LabelValue] = {
            "connectionId": attempt.connection_id,
            "username": attempt.username,
            "url": self._client.url,
            "authtype": kind,
        }
        exchange = Exchange(
            self._client,
            f"/{kind}",
            f"{name} authentication request",
            AuthCode.REQUEST,
            AuthCode.BACKEND_ERROR,
            AuthCode.INVALID_STATUS,
            labels,
            AUTH_SERVER,
        )
        try:
            answer = await exchange.ask(
                question(attempt.without_sensitive(), **credential), within=self._config.auth_timeout
            )
            if answer.get("success") is not True:
                text = f"{name} authentication failed"
                logger.debug(Event(AuthCode.FAILED, text, **labels))
                raise AuthFailed(AuthCode.FAILED, text)
            try:
                values = read_values(answer)
                authenticated = read_text(answer, "authenticatedUsername")
            except WebhookError as exc:
                raise exchange.given_up(exc) from exc
        except WebhookError as exc:
            raise AuthUnavailable(AuthCode.BACKEND_ERROR, f"{name} authentication is not available") from exc
        logger.debug(Event(AuthCode.SUCCESSFUL, f"{name} authentication successful", **labels))
        return Login.of(attempt, authenticated).with_values(values.metadata, values.environment, values.files)


class WebhookAuthorizer:
    """Asks the webhook about each authenticated login; see :func:`open_authorizer`."""

    def __init__(self, config: WebhookConfig, client: HTTPClient) -> None:
        self._config = config
        self._client = client

    async def authorize(self, login: Login) -> Login:
        """
        *login* with what the webhook adds. It keeps its authenticated name unless the response has one.

        Raises:
            AuthFailed: the webhook refused.
            AuthUnavailable: there was no valid response.
        """
        check_name(login)
        labels: dict[str, LabelValue] = {
            "connectionId": login.connection_id,
            "authenticatedUsername": login.authenticated_username,
            "providedUsername": login.username,
            "url": self._client.url,
            "authtype": "authorization",
        }
        exchange = Exchange(
            self._client,
            "/authz",
            "Authorization request",
            AuthCode.REQUEST,
            AuthCode.BACKEND_ERROR,
            AuthCode.INVALID_STATUS,
            labels,
            AUTH_SERVER,
        )
        name = {"authenticatedUsername": login.authenticated_username} if login.authenticated_username else {}
        try:
            answer = await exchange.ask(question(login.without_sensitive(), **name), within=self._config.auth_timeout)
            if answer.get("success") is not True:
                text = "Authorization failed"
                logger.debug(Event(AuthCode.FAILED, text, **labels))
                raise AuthFailed(AuthCode.FAILED, "the authorization webhook said no")
            try:
                values = read_values(answer)
                authenticated = read_text(answer, "authenticatedUsername") or login.authenticated_username
            except WebhookError as exc:
                raise exchange.given_up(exc) from exc
        except WebhookError as exc:
            raise AuthUnavailable(AuthCode.BACKEND_ERROR, "authorization is not available") from exc
        logger.debug(Event(AuthCode.SUCCESSFUL, "Authorization successful", **labels))
        told = login.with_values(values.metadata, values.environment, values.files)
        return replace(told, authenticated_username=authenticated)


@asynccontextmanager
async def open_webhook(config: WebhookConfig) -> AsyncIterator[WebhookAuthenticator]:
    """An authenticator for the lifetime of the server; its connections are closed at the end."""
    async with open_http_client(config) as client:
        yield WebhookAuthenticator(config, client)


@asynccontextmanager
async def open_authorizer(config: WebhookConfig) -> AsyncIterator[WebhookAuthorizer]:
    """The authorization webhook for the lifetime of the server; its connections are closed at the end."""
    async with open_http_client(config) as client:
        yield WebhookAuthorizer(config, client)
