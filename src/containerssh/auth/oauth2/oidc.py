"""OpenID Connect (``auth.md`` section 3.3)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial

from containerssh.auth.fields import readable
from containerssh.auth.oauth2.answers import DeviceCode, Reply, Token, is_visible, read_device_code, read_token
from containerssh.auth.oauth2.calls import Caller, basic, until_answered, with_query
from containerssh.auth.oauth2.discovery import Discovery
from containerssh.auth.oauth2.idtoken import Expected, Header, verified_claims
from containerssh.auth.oauth2.provider import DEVICE_GRANT, Provider, Secrets, refused
from containerssh.config.oauth2 import OAuth2Config
from containerssh.core.codes import OAuth2Code
from containerssh.core.errors import AuthUnavailable
from containerssh.core.metadata import AuthAttempt, Login, Value
from containerssh.web.client import WebhookError

_NAME_CHARACTERS = 255
_MOST_CLAIMS = 256
_CLAIM_CHARACTERS = 16 * 1024


class OIDCProvider(Provider):
    """An OpenID Connect provider with discovery."""

    token_failed = OAuth2Code.OIDC_ACCESS_TOKEN_FETCH_FAILED

    def __init__(self, config: OAuth2Config, caller: Caller) -> None:
        self._config = config.oidc
        self._client_id = config.client_id
        self._caller = caller
        self._authorization = basic(config.client_id, config.client_secret.get_secret_value())
        self._discovery = Discovery(config.oidc.url, caller)
        self._scopes = " ".join(dict.fromkeys(("openid", *config.oidc.extra_scopes)))
        self.has_device_flow = config.oidc.device_flow
        self.has_code_flow = config.oidc.authorization_code_flow

    async def device_code(self) -> DeviceCode:
        url = (await self._discovery.description()).device
        if not url:
            raise _lacks("device_authorization_endpoint")
        fields = {"client_id": self._client_id, "scope": self._scopes}
        reply = await self._caller.form(url, fields, authorization=self._authorization)
        return read_device_code(reply, secure=self._discovery.secure)

    async def poll(self, device: DeviceCode) -> Token:
        return await self._token({"grant_type": DEVICE_GRANT, "device_code": device.code})

    async def link(self, attempt: AuthAttempt, values: Secrets) -> str:
        url = (await self._discovery.description()).authorization
        if not url:
            raise _lacks("authorization_endpoint")
        return with_query(
            url,
            {
                "response_type": "code",
                "client_id": self._client_id,
                "scope": self._scopes,
                "state": values.state,
                "redirect_uri": self._config.redirect_uri,
                "nonce": values.nonce,
                **values.challenge,
            },
        )

    async def redeem(self, code: str, values: Secrets) -> Token:
        return await self._token(
            {
                "grant_type": "authorization_code",
                "code": code,
                "redirect_uri": self._config.redirect_uri,
                "code_verifier": values.verifier,
            }
        )

    async def _token(self, fields: Mapping[str, str]) -> Token:
        url = (await self._discovery.description()).token
        if not url:
            raise _lacks("token_endpoint")
        fields = {**fields, "client_id": self._client_id}
        return read_token(await self._caller.form(url, fields, authorization=self._authorization))

    async def login(self, attempt: AuthAttempt, token: Token, values: Secrets | None) -> Login:
        self._check_scopes(token)
        subject = await self._subject(token, values) if token.identity else None
        claims = await until_answered(lambda: self._userinfo(token))
        if subject is not None and claims.get("sub") != subject:
            # OpenID Connect Core section 5.3.2.
            raise AuthUnavailable(
                OAuth2Code.OIDC_USER_INFO_FETCH_FAILED, "the userinfo is about somebody else than the ID token"
            )
        name = self._name(claims)
        metadata = {"OIDC_TOKEN": Value(token.access, sensitive=True)}
        for claim, text in list(claims.items())[:_MOST_CLAIMS]:
            if _could_be_variable(claim, text):
                metadata.setdefault(f"OIDC_USERINFO_{claim.upper()}", Value(readable(str(text))))
        return Login.of(attempt, name).with_values(metadata, {}, {})

    def _check_scopes(self, token: Token) -> None:
        if not self._config.enforce_scopes or token.scopes is None:
            return
        missing = [scope for scope in self._config.extra_scopes if scope not in token.scopes]
        if missing:
            raise refused(
                f"not granted: {' '.join(missing)}",
                f"The login needs more than was granted: {' '.join(missing)}",
                OAuth2Code.OIDC_REQUIRED_SCOPE_NOT_GRANTED,
            )

    async def _subject(self, token: Token, values: Secrets | None) -> object:
        header = Header.of(token.identity)
        description = await self._discovery.description()
        keys = await until_answered(lambda: self._discovery.keys(header))
        nonce = values.nonce if values is not None else None
        expected = Expected(description.issuer, self._client_id, nonce, token.access)
        return verified_claims(token.identity, keys, expected, now=time.time())["sub"]

    async def _userinfo(self, token: Token) -> Mapping[str, object]:
        url = (await self._discovery.description()).userinfo
        if not url:
            raise _lacks("userinfo_endpoint")
        reply = await self._caller.get(url, token=token.access)
        if not reply.good or not reply.fields:
            raise WebhookError(
                OAuth2Code.OIDC_USER_INFO_FETCH_FAILED,
                f"the userinfo endpoint answered with status {reply.status}, and no object",
                passing=reply.passing,
            )
        return reply.fields

    def _name(self, claims: Mapping[str, object]) -> str:
        field = self._config.username_field
        name = claims.get(field)
        if not isinstance(name, str) or not 0 < len(name) <= _NAME_CHARACTERS or not is_visible(name):
            raise refused(
                f"the claim {field!r} is missing, or not a usable name",
                "The identity provider gave no usable user name.",
                OAuth2Code.OIDC_NO_USERNAME,
            )
        if field == "email" and claims.get("email_verified", True) not in (True, "true"):
            raise refused(
                "the e-mail address is not verified",
                "The identity provider has not verified your e-mail address.",
                OAuth2Code.OIDC_NO_USERNAME,
            )
        return name

    async def revoke(self, token: Token) -> None:
        url = (await self._discovery.description()).revocation
        if not url:
            return
        for value, kind in ((token.access, "access_token"), (token.refresh, "refresh_token")):
            if value:
                await until_answered(partial(self._revoke, url, value, kind))

    async def close(self) -> None:
        await self._discovery.close()

    async def _revoke(self, url: str, value: str, kind: str) -> None:
        fields = {"token": value, "token_type_hint": kind, "client_id": self._client_id}
        reply: Reply = await self._caller.form(url, fields, authorization=self._authorization)
        if not reply.good and reply.error != "invalid_token":
            raise WebhookError(
                OAuth2Code.OIDC_DEAUTHORIZE_FAILED,
                f"a token could not be revoked: status {reply.status} {reply.error}",
                passing=reply.passing,
            )


def _could_be_variable(claim: str, text: object) -> bool:
    """Whether a claim can become an environment variable of the container, whose names and values are restricted."""
    return (
        isinstance(text, str)
        and len(text) <= _CLAIM_CHARACTERS
        and "\0" not in text
        and 0 < len(claim) <= _NAME_CHARACTERS
        and "=" not in claim
        and is_visible(claim)
    )


def _lacks(endpoint: str) -> WebhookError:
    return WebhookError(
        OAuth2Code.OIDC_DISCOVERY_FAILED, f"the provider's description has no {endpoint}", passing=False
    )
