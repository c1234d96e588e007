"""Keyboard-interactive authentication by an identity provider."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from importlib.util import find_spec

from containerssh.auth.oauth2.answers import DeviceCode, OAuthRefusal, Token
from containerssh.auth.oauth2.calls import Caller, until_answered
from containerssh.auth.oauth2.flows import code_flow, device_flow
from containerssh.auth.oauth2.generic import GenericProvider
from containerssh.auth.oauth2.github import GitHubProvider
from containerssh.auth.oauth2.oidc import OIDCProvider
from containerssh.auth.oauth2.provider import Provider, Secrets
from containerssh.config.http import HTTPClientConfig
from containerssh.config.oauth2 import OAuth2Config
from containerssh.core.codes import AuthCode, OAuth2Code
from containerssh.core.errors import AuthFailed, AuthUnavailable, ConfigError
from containerssh.core.handlers import Prompts
from containerssh.core.messages import Event
from containerssh.core.metadata import AuthAttempt, Login
from containerssh.core.tasks import finish, time_limit
from containerssh.web.client import WebhookError, open_http_client

logger = logging.getLogger(__name__)

REVOCATION = timedelta(seconds=10)
"""The time limit for revoking a token."""


class OAuth2Authenticator:
    """Authenticates users at an identity provider; see :func:`open_oauth2`."""

    def __init__(self, config: OAuth2Config, provider: Provider) -> None:
        self._config = config
        self._provider = provider
        self._device_clients = [re.compile(pattern) for pattern in config.device_flow_clients]
        self._picture_clients = [re.compile(pattern) for pattern in config.qr_code_clients]

    async def authenticate_interactive(self, attempt: AuthAttempt, prompts: Prompts, undo: AsyncExitStack) -> Login:
        """
        Authenticate the user at the provider; *undo* revokes the token.

        Raises:
            AuthFailed: the user denied the request, was too late, or is not permitted.
            AuthUnavailable: the provider is unreachable, or refuses this client.
        """
        try:
            async with time_limit(self._config.auth_timeout, self._too_late):
                return await self._judge(attempt, prompts, undo)
        except WebhookError as exc:
            failure = AuthUnavailable(
                exc.code, "the identity provider cannot be asked", user_message="The identity provider does not answer."
            )
            prompts.tell(failure.user_message)
            raise failure from exc
        except (AuthFailed, AuthUnavailable) as exc:
            prompts.tell(exc.user_message)
            raise

    async def _judge(self, attempt: AuthAttempt, prompts: Prompts, undo: AsyncExitStack) -> Login:
        provider = self._provider
        values: Secrets | None = None
        device = await self._begun_device_flow(attempt)
        if device is not None:
            has_picture = _fits(self._picture_clients, attempt)
            token = await device_flow(provider, prompts, device, _picture if has_picture else lambda _: "")
        elif provider.has_code_flow:
            values = Secrets.fresh()
            token = await code_flow(provider, prompts, attempt, values)
        else:
            raise AuthFailed(
                AuthCode.FAILED,
                "deviceFlowClients leaves no flow for this client",
                user_message="This client cannot log in with the identity provider.",
            )
        undo.push_async_callback(finish, lambda: self._revoke(token), within=REVOCATION)
        return await provider.login(attempt, token, values)

    async def _begun_device_flow(self, attempt: AuthAttempt) -> DeviceCode | None:
        """Start a device flow; None if another flow must be used."""
        provider = self._provider
        if not provider.has_device_flow:
            return None
        if self._device_clients and not _fits(self._device_clients, attempt):
            return None
        try:
            if not provider.has_code_flow:
                return await until_answered(provider.device_code)
            return await provider.device_code()
        except OAuthRefusal as exc:
            failure = AuthUnavailable(
                OAuth2Code.DEVICE_CODE_REQUEST_FAILED,
                f"the provider gives no device code: {exc.error}",
                user_message="The identity provider cannot start a login at the moment. Please try again later.",
            )
            if not provider.has_code_flow:
                raise failure from exc
            logger.debug(failure.event())
        except (WebhookError, AuthUnavailable) as exc:
            if not provider.has_code_flow:
                raise
            text = f"The provider gives no device code, so the user gets a link ({exc})"
            logger.debug(Event(OAuth2Code.DEVICE_CODE_REQUEST_FAILED, text))
        return None

    async def _revoke(self, token: Token) -> None:
        await self._provider.revoke(token)

    def _too_late(self) -> AuthFailed:
        limit = self._config.auth_timeout.total_seconds()
        return AuthFailed(
            OAuth2Code.TIMEOUT,
            f"the login was not complete within {limit:g} s",
            user_message="The login took too long. Please try again.",
        )


@asynccontextmanager
async def open_oauth2(config: OAuth2Config) -> AsyncIterator[OAuth2Authenticator]:
    """
    An authenticator for the lifetime of the server; its connections are closed at the end.

    Raises:
        ConfigError: a TLS setting is invalid.
    """
    async with AsyncExitStack() as stack:
        kind, http = _kind(config)
        client = await stack.enter_async_context(open_http_client(http))
        provider = kind(config, Caller(client))
        stack.push_async_callback(provider.close)
        yield OAuth2Authenticator(config, provider)


def _kind(config: OAuth2Config) -> tuple[Callable[[OAuth2Config, Caller], Provider], HTTPClientConfig]:
    """The configured provider, and the configuration of its HTTP client."""
    if config.qr_code_clients and find_spec("segno") is None:
        text = "qrCodeClients needs the package segno: install containerssh[qr]"
        raise ConfigError(AuthCode.CONFIG_ERROR, text)
    match config.provider:
        case "github":
            return GitHubProvider, config.github.client
        case "oidc":
            return OIDCProvider, config.oidc
        case "generic":
            return GenericProvider, config.generic.token_endpoint
        case "":
            raise ConfigError(AuthCode.CONFIG_ERROR, "no OAuth 2.0 provider is configured")


def _fits(patterns: Sequence[re.Pattern[str]], attempt: AuthAttempt) -> bool:
    return any(pattern.search(attempt.client_version) for pattern in patterns)


def _picture(link: str) -> str:
    from containerssh.auth.oauth2.qr import picture

    return "\n" + picture(link)
