"""A provider's metadata (OpenID Connect Discovery 1.0) and keys, both cached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from containerssh.auth.oauth2.answers import Reply
from containerssh.auth.oauth2.calls import Caller
from containerssh.auth.oauth2.idtoken import Header, candidates
from containerssh.auth.oauth2.shared import Shared
from containerssh.core.codes import OAuth2Code
from containerssh.web.client import WebhookError

_WELL_KNOWN = "/.well-known/openid-configuration"
_KEYS_PAUSE = 10.0
# An unknown key id is untrusted input: it must not cause a request for each login.


@dataclass(frozen=True)
class Description:
    """The endpoints of a provider; missing ones are empty."""

    issuer: str
    authorization: str
    token: str
    userinfo: str
    device: str
    revocation: str
    keys: str


class Discovery:
    """Fetches the metadata below *url* on demand."""

    def __init__(self, url: str, caller: Caller) -> None:
        self._issuer = url.rstrip("/")
        self._caller = caller
        self._description = Shared(self._ask)
        self._keys = Shared(self._ask_for_keys)

    @property
    def secure(self) -> bool:
        """Whether the provider is reached over TLS; its endpoints and links must then use TLS as well."""
        return urlsplit(self._issuer).scheme.lower() == "https"

    async def description(self) -> Description:
        """The metadata. Raises WebhookError if it is unavailable or invalid."""
        return self._description.known() or await self._description.fetch()

    async def keys(self, header: Header) -> Sequence[Mapping[str, object]]:
        """The provider's keys; fetched again if none of the cached ones matches *header*. Raises as above."""
        known = self._keys.known()
        if known is not None and (candidates(known, header) or self._keys.known(_KEYS_PAUSE) is not None):
            return known
        return await self._keys.fetch()

    async def close(self) -> None:
        """Cancel outstanding requests."""
        await self._description.close()
        await self._keys.close()

    async def _ask(self) -> Description:
        return self._read(await self._caller.get(f"{self._issuer}{_WELL_KNOWN}"))

    async def _ask_for_keys(self) -> Sequence[Mapping[str, object]]:
        url = (await self.description()).keys
        if not url:
            raise _unusable("it names no jwks_uri")
        return _read_keys(await self._caller.get(url))

    def _read(self, reply: Reply) -> Description:
        if not reply.good or not reply.fields:
            raise WebhookError(
                OAuth2Code.OIDC_DISCOVERY_FAILED,
                f"{self._issuer}{_WELL_KNOWN} answered with status {reply.status}, and nothing usable",
                passing=reply.passing or reply.good,
            )
        issuer = reply.text("issuer")
        if issuer.rstrip("/") != self._issuer:
            # Discovery section 4.3: otherwise one provider could impersonate another.
            raise _unusable(f"its issuer is {issuer[:200]!r}, not the configured URL {self._issuer!r}")
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
            raise _unusable(f"{name} is not a usable URL, or not secured as the provider itself is")
        return url


_ENDPOINTS = (
    "authorization_endpoint",
    "token_endpoint",
    "userinfo_endpoint",
    "device_authorization_endpoint",
    "revocation_endpoint",
    "jwks_uri",
)
"""The metadata fields, in the order of :class:`Description`."""


def _read_keys(reply: Reply) -> Sequence[Mapping[str, object]]:
    keys = reply.fields.get("keys")
    if not reply.good or not isinstance(keys, list):
        raise WebhookError(
            OAuth2Code.OIDC_DISCOVERY_FAILED,
            f"the provider's keys cannot be had: status {reply.status}",
            passing=reply.passing or reply.good,
        )
    return [key for key in keys if isinstance(key, dict)]


def _unusable(problem: str) -> WebhookError:
    return WebhookError(
        OAuth2Code.OIDC_DISCOVERY_FAILED, f"the provider's description cannot be used: {problem}", passing=False
    )
