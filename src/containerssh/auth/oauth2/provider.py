"""The interface of identity providers."""

from __future__ import annotations

import base64
import hashlib
import secrets
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Self

from containerssh.auth.oauth2.answers import DeviceCode, Token
from containerssh.core.codes import AuthCode, OAuth2Code
from containerssh.core.errors import AuthFailed
from containerssh.core.metadata import AuthAttempt, Login

DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"


@dataclass(frozen=True)
class Secrets:
    """The secrets that bind the response to one code flow of one login; used once."""

    state: str = field(repr=False)
    verifier: str = field(repr=False)
    nonce: str = field(repr=False)

    @classmethod
    def fresh(cls) -> Self:
        return cls(secrets.token_urlsafe(24), secrets.token_urlsafe(48), secrets.token_urlsafe(24))

    @property
    def challenge(self) -> dict[str, str]:
        """The PKCE parameters of the link (RFC 7636)."""
        digest = hashlib.sha256(self.verifier.encode()).digest()
        encoded = base64.urlsafe_b64encode(digest).decode().rstrip("=")
        return {"code_challenge": encoded, "code_challenge_method": "S256"}


class Provider(ABC):
    """
    An identity provider, shared by concurrent logins.

    The methods make one or more requests, and raise WebhookError if there is no valid response, OAuthRefusal if the
    provider refuses the request, AuthFailed if the user is not permitted, and AuthUnavailable if no login is possible.
    """

    has_device_flow: bool
    has_code_flow: bool
    token_failed: OAuth2Code
    """The message code that is logged when the token endpoint refuses."""

    @abstractmethod
    async def device_code(self) -> DeviceCode:
        """Start a device flow."""

    @abstractmethod
    async def poll(self, device: DeviceCode) -> Token:
        """Poll once whether the user has decided."""

    @abstractmethod
    async def link(self, attempt: AuthAttempt, values: Secrets) -> str:
        """The authorization link for the user's browser."""

    @abstractmethod
    async def redeem(self, code: str, values: Secrets) -> Token:
        """Redeem the *code* that the user pasted for a token."""

    @abstractmethod
    async def login(self, attempt: AuthAttempt, token: Token, values: Secrets | None) -> Login:
        """The login of the token's owner; *values* are those of a code flow."""

    @abstractmethod
    async def revoke(self, token: Token) -> None:
        """Revoke *token*; the caller limits the time."""

    async def close(self) -> None:
        """Close the provider, after the last login."""


def refused(explanation: str, user_message: str, code: AuthCode | OAuth2Code = AuthCode.FAILED) -> AuthFailed:
    """The error for a user who is not permitted and may know the reason."""
    return AuthFailed(code, explanation, user_message=user_message)
