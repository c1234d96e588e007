"""A generic OAuth 2.0 server, used for its token only, since it reports no identity (``auth.md`` section 3.4)."""

from __future__ import annotations

from containerssh.auth.oauth2.answers import DeviceCode, Token, read_token
from containerssh.auth.oauth2.calls import Caller, basic, with_query
from containerssh.auth.oauth2.provider import Provider, Secrets
from containerssh.config.oauth2 import OAuth2Config
from containerssh.core.codes import OAuth2Code
from containerssh.core.metadata import AuthAttempt, Login, Value
from containerssh.web.client import WebhookError


class GenericProvider(Provider):
    """A server with an authorization endpoint and a token endpoint."""

    has_device_flow = False
    has_code_flow = True
    token_failed = OAuth2Code.GENERIC_ACCESS_TOKEN_FETCH_FAILED

    def __init__(self, config: OAuth2Config, caller: Caller) -> None:
        self._config = config.generic
        self._client_id = config.client_id
        self._caller = caller
        self._authorization = basic(config.client_id, config.client_secret.get_secret_value())

    async def device_code(self) -> DeviceCode:
        raise WebhookError(OAuth2Code.DEVICE_CODE_REQUEST_FAILED, "there is no device flow", passing=False)

    async def poll(self, device: DeviceCode) -> Token:
        raise WebhookError(OAuth2Code.DEVICE_CODE_REQUEST_FAILED, "there is no device flow", passing=False)

    async def link(self, attempt: AuthAttempt, values: Secrets) -> str:
        return with_query(
            self._config.authorize_endpoint_url,
            {
                "response_type": "code",
                "client_id": self._client_id,
                "scope": "",
                "state": values.state,
                "redirect_uri": self._config.redirect_uri,
                **values.challenge,
            },
        )

    async def redeem(self, code: str, values: Secrets) -> Token:
        fields = {
            "grant_type": "authorization_code",
            "code": code,
            "client_id": self._client_id,
            "redirect_uri": self._config.redirect_uri,
            "code_verifier": values.verifier,
        }
        url = self._config.token_endpoint.url
        return read_token(await self._caller.form(url, fields, authorization=self._authorization))

    async def login(self, attempt: AuthAttempt, token: Token, values: Secrets | None) -> Login:
        return Login.of(attempt, "").with_values({"OAUTH2_TOKEN": Value(token.access, sensitive=True)}, {}, {})

    async def revoke(self, token: Token) -> None:
        """Does nothing: the configuration has no revocation endpoint."""
