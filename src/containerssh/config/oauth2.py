"""The section ``auth.keyboardInteractive.oauth2``: GitHub, OpenID Connect and any OAuth 2.0 server."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, SecretStr, field_validator

from containerssh.config.http import (
    DEFAULT_CIPHERS,
    DEFAULT_CURVES,
    Ciphers,
    Curves,
    HTTPClientConfig,
    HTTPServerConfig,
    TLSVersion,
)
from containerssh.config.model import ConfigModel, Duration, Problem, Secret, default_for_zero, seconds


def _absolute_url(url: str) -> str:
    if not re.match(r"https?://[^/\s]+", url):
        raise ValueError("it must start with http:// or https:// and name a host")
    return url


def _uri_problems(key: str, url: str) -> Iterator[Problem]:
    try:
        _absolute_url(url)
    except ValueError as exc:
        yield Problem(key, str(exc))


class GitHubConfig(ConfigModel):
    """Log in with GitHub."""

    other_spellings: ClassVar[Mapping[str, str]] = {"curve": "curves"}

    url: Annotated[str, AfterValidator(_absolute_url)] = "https://github.com"
    """The URL of GitHub or of an Enterprise server."""

    apiurl: Annotated[str, AfterValidator(_absolute_url)] = Field("https://api.github.com", alias="apiurl")
    """The address of its API."""

    enforce_username: bool = True
    """The GitHub login must equal the user name, ignoring case."""

    require_org_membership: str = ""
    """Only members of this organisation may log in."""

    require_2fa: bool = Field(False, alias="require2FA")
    """Only accounts with two-factor authentication may log in."""

    extra_scopes: tuple[str, ...] = ()
    """Additional scopes to request."""

    enforce_scopes: bool = False
    """The user must grant every scope."""

    timeout: Duration = seconds(10)
    """How long one request may take."""

    _zero_timeout = field_validator("timeout")(default_for_zero)

    cacert: str = ""
    """The CA certificates that its certificate is checked with: PEM text or a file name."""

    cert: str = ""
    """The client certificate: PEM text or a file name."""

    key: Secret = SecretStr("")
    """The private key of `cert`: PEM text or a file name."""

    tls_version: TLSVersion = Field("1.3", alias="tlsVersion")
    """The lowest accepted version of TLS."""

    curves: Curves = DEFAULT_CURVES
    """Elliptic curves for the key exchange."""

    cipher: Ciphers = DEFAULT_CIPHERS
    """Cipher suites."""

    @property
    def client(self) -> HTTPClientConfig:
        """The HTTP settings of this section."""
        shared = {name: getattr(self, name) for name in ("timeout", "cacert", "cert", "key", "curves", "cipher")}
        return HTTPClientConfig.default().model_copy(
            update={**shared, "url": self.apiurl, "tls_version": self.tls_version}
        )

    def problems(self) -> Iterator[Problem]:
        for problem in self.client.problems():
            yield Problem("apiurl", problem.message) if problem.path == "url" else problem
        yield from _uri_problems("url", self.url)
        if self.url.lower().startswith("https://") != self.client.is_https:
            yield Problem("apiurl", "both url and apiurl must be https, or neither: the same secrets go to both")


class OIDCConfig(HTTPClientConfig):
    """Log in with an OpenID Connect provider."""

    other_spellings: ClassVar[Mapping[str, str]] = {
        **HTTPClientConfig.other_spellings,
        "authorizationFlow": "authorizationCodeFlow",
    }

    device_flow: bool = False
    """Enable the device flow: the user confirms in a browser on any device."""

    authorization_code_flow: bool = False
    """Enable the authorization code flow: the user pastes a code that the browser shows."""

    username_field: str = "sub"
    """The claim that becomes the user's name."""

    redirect_uri: str = Field("", alias="redirectURI")
    """The address of the redirect server, as browsers see it."""

    extra_scopes: tuple[str, ...] = ()
    """Scopes to request in addition to `openid`."""

    enforce_scopes: bool = False
    """The user must grant every scope."""

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        if not self.device_flow and not self.authorization_code_flow:
            yield Problem("", "set deviceFlow, authorizationCodeFlow, or both")
        if self.authorization_code_flow:
            yield from _uri_problems("redirectURI", self.redirect_uri)
        if not self.username_field:
            yield Problem("usernameField", "it must name a claim")


class GenericOAuth2Config(ConfigModel):
    """Log in with any OAuth 2.0 server."""

    authorize_endpoint_url: str = Field("", alias="authorizeEndpointURL")
    """The authorization endpoint, to which browsers are sent."""

    redirect_uri: str = Field("", alias="redirectURI")
    """The address of the redirect server, as browsers see it."""

    token_endpoint: HTTPClientConfig = HTTPClientConfig.default()
    """The token endpoint, where the code is exchanged for a token."""

    def problems(self) -> Iterator[Problem]:
        yield from _uri_problems("authorizeEndpointURL", self.authorize_endpoint_url)
        yield from _uri_problems("redirectURI", self.redirect_uri)
        yield from (problem.under("tokenEndpoint") for problem in self.token_endpoint.problems())


class RedirectConfig(HTTPServerConfig):
    """The page that the provider redirects browsers to."""

    webroot: str = ""
    """A folder with an `index.html` in place of the built-in page."""

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        if self.webroot and not Path(self.webroot, "index.html").is_file():
            yield Problem("webroot", f"there is no file index.html in {self.webroot!r}")


class OAuth2Config(ConfigModel):
    """OAuth 2.0 and OpenID Connect over keyboard-interactive."""

    redirect: RedirectConfig = RedirectConfig.default()
    """The page that the provider redirects browsers to."""

    client_id: str = ""
    """The client id at the provider."""

    client_secret: Secret = SecretStr("")
    """The client secret at the provider."""

    provider: Literal["", "github", "oidc", "generic"] = ""
    """`github`, `oidc` or `generic`."""

    github: GitHubConfig = GitHubConfig.default()
    oidc: OIDCConfig = OIDCConfig.default()
    generic: GenericOAuth2Config = GenericOAuth2Config.default()

    qr_code_clients: tuple[str, ...] = ()
    """Regular expressions for the versions of clients that are shown a QR code."""

    device_flow_clients: tuple[str, ...] = ()
    """Regular expressions for the versions of clients that the device flow is used with."""

    auth_timeout: Duration = seconds(120)
    """How long the whole login may take."""

    _zero_auth_timeout = field_validator("auth_timeout")(default_for_zero)

    def problems(self) -> Iterator[Problem]:
        for key, value in (("clientId", self.client_id), ("clientSecret", self.client_secret.get_secret_value())):
            if not value:
                yield Problem(key, "the provider needs it")
        if not self.provider:
            yield Problem("provider", "set github, oidc or generic")
        blocks = {"github": self.github, "oidc": self.oidc, "generic": self.generic}
        if (block := blocks.get(self.provider)) is not None:
            yield from (problem.under(self.provider) for problem in block.problems())
        yield from (problem.under("redirect") for problem in self.redirect.problems())
        if self.auth_timeout < seconds(0.1):
            yield Problem("authTimeout", "must be at least 100ms")
        for key, patterns in (("qrCodeClients", self.qr_code_clients), ("deviceFlowClients", self.device_flow_clients)):
            for number, pattern in enumerate(patterns):
                try:
                    re.compile(pattern)
                except (re.error, RecursionError, OverflowError) as exc:
                    yield Problem(f"{key}.{number}", f"not a regular expression: {exc}")
