"""What a provider says about itself (OpenID Connect Discovery 1.0), and its keys; both are kept for a while."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from containerssh.auth.oauth2.answers import Reply
from containerssh.auth.oauth2.calls import Caller
from containerssh.auth.oauth2.idtoken import Header, candidates
from containerssh.core.codes import OAuth2Code
from containerssh.web.client import WebhookError

KEPT = 600.0
"""Seconds that a description, or a set of keys, is kept."""

_WELL_KNOWN = "/.well-known/openid-configuration"
_KEYS_PAUSE = 10.0
# An unknown key id comes from outside: it must not make us ask for each login.


@dataclass(frozen=True)
class Description:
    """The endpoints of a provider; one that it does not have is empty."""

    issuer: str
    authorization: str
    token: str
    userinfo: str
    device: str
    revocation: str
    keys: str


class Discovery:
    """Asks for the description below *url* when it is needed."""

    def __init__(self, url: str, caller: Caller) -> None:
        self._issuer = url.rstrip("/")
        self._caller = caller
        self._asking = asyncio.Lock()
        self._description: tuple[Description, float] | None = None
        self._keys: tuple[Sequence[Mapping[str, object]], float] | None = None

    @property
    def secure(self) -> bool:
        """Whether the provider is reached over TLS; its endpoints and links then have to be, too."""
        return urlsplit(self._issuer).scheme.lower() == "https"

    async def description(self) -> Description:
        """Raises WebhookError: it cannot be had, or used."""
        async with self._asking:
            if self._description is None or _older(self._description[1], KEPT):
                reply = await self._caller.get(f"{self._issuer}{_WELL_KNOWN}")
                self._description = self._read(reply), time.monotonic()
            return self._description[0]

    async def keys(self, header: Header) -> Sequence[Mapping[str, object]]:
        """The provider's keys; asked for again when none of those that are known may have signed. Raises as above."""
        url = (await self.description()).keys
        if not url:
            raise _unusable("it names no jwks_uri")
        async with self._asking:
            if (
                self._keys is None
                or _older(self._keys[1], KEPT)
                or (not candidates(self._keys[0], header) and _older(self._keys[1], _KEYS_PAUSE))
            ):
                self._keys = _read_keys(await self._caller.get(url)), time.monotonic()
            return self._keys[0]

    def _read(self, reply: Reply) -> Description:
        if not reply.good or not reply.fields:
            raise WebhookError(
                OAuth2Code.OIDC_DISCOVERY_FAILED,
                f"{self._issuer}{_WELL_KNOWN} answered with status {reply.status}, and nothing usable",
                passing=reply.passing or reply.good,
            )
        issuer = reply.text("issuer")
        if issuer.rstrip("/") != self._issuer:
            # Discovery section 4.3: else one provider could speak for another.
            raise _unusable(f"it is of the issuer {issuer[:200]!r}, and not of the configured URL {self._issuer!r}")
        endpoints = {name: self._endpoint(reply, name) for name in _ENDPOINTS}
        return Description(issuer, *endpoints.values())

    def _endpoint(self, reply: Reply, name: str) -> str:
        url = reply.text(name)
        if not url:
            return ""
        try:
            parts = urlsplit(url)
            usable = parts.scheme in (("https",) if self.secure else ("http", "https")) and bool(parts.hostname)
        except ValueError:
            usable = False
        if not usable or len(url) > 2048:
            raise _unusable(f"{name} is no usable URL, or not secured as the provider itself is")
        return url


_ENDPOINTS = (
    "authorization_endpoint",
    "token_endpoint",
    "userinfo_endpoint",
    "device_authorization_endpoint",
    "revocation_endpoint",
    "jwks_uri",
)
"""In the order of :class:`Description`."""


def _read_keys(reply: Reply) -> Sequence[Mapping[str, object]]:
    keys = reply.fields.get("keys")
    if not reply.good or not isinstance(keys, list):
        raise WebhookError(
            OAuth2Code.OIDC_DISCOVERY_FAILED,
            f"the provider's keys cannot be had: status {reply.status}",
            passing=reply.passing or reply.good,
        )
    return [key for key in keys if isinstance(key, dict)]


def _older(than: float, seconds: float) -> bool:
    return time.monotonic() - than > seconds


def _unusable(problem: str) -> WebhookError:
    return WebhookError(
        OAuth2Code.OIDC_DISCOVERY_FAILED, f"the provider's description cannot be used: {problem}", passing=False
    )
