"""What the flows need of a provider."""

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
    """What ties the answer to one code flow of one login; nobody else knows it, and it is used once."""

    state: str = field(repr=False)
    verifier: str = field(repr=False)
    nonce: str = field(repr=False)

    @classmethod
    def fresh(cls) -> Self:
        return cls(secrets.token_urlsafe(24), secrets.token_urlsafe(48), secrets.token_urlsafe(24))

    @property
    def challenge(self) -> dict[str, str]:
        """The parameters of PKCE for the link (RFC 7636)."""
        digest = hashlib.sha256(self.verifier.encode()).digest()
        encoded = base64.urlsafe_b64encode(digest).decode().rstrip("=")
        return {"code_challenge": encoded, "code_challenge_method": "S256"}


class Provider(ABC):
    """
    An identity provider; it is kept for many logins at once.

    The methods make one request, or a few, and raise WebhookError when no usable answer came; OAuthRefusal where the
    provider says why not; AuthFailed for users that are not let in; AuthUnavailable where nobody can be.
    """

    has_device_flow: bool
    has_code_flow: bool
    token_failed: OAuth2Code
    """Logged when the token endpoint refuses."""

    @abstractmethod
    async def device_code(self) -> DeviceCode:
        """Begin a device flow."""

    @abstractmethod
    async def poll(self, device: DeviceCode) -> Token:
        """Ask once whether the user has decided."""

    @abstractmethod
    async def link(self, attempt: AuthAttempt, values: Secrets) -> str:
        """Where the user's browser has to go."""

    @abstractmethod
    async def redeem(self, code: str, values: Secrets) -> Token:
        """The token for the *code* that the user pasted."""

    @abstractmethod
    async def login(self, attempt: AuthAttempt, token: Token, values: Secrets | None) -> Login:
        """The login that the token's owner gets; *values* are those of a code flow."""

    @abstractmethod
    async def revoke(self, token: Token) -> None:
        """Make *token* worthless; the caller limits the time."""

    async def close(self) -> None:
        """After the last login."""


def refused(explanation: str, user_message: str, code: AuthCode | OAuth2Code = AuthCode.FAILED) -> AuthFailed:
    """The user is not let in, and may know why."""
    return AuthFailed(code, explanation, user_message=user_message)
