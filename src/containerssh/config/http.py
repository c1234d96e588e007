"""What every HTTP client and HTTP server of the configuration has in common (``config.md`` section 4.0)."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, field_validator

from containerssh.config import tls
from containerssh.config.address import split_address
from containerssh.config.model import ConfigModel, Duration, Problem, Secret, default_for_zero, seconds
from containerssh.core.codes import CoreCode
from containerssh.core.errors import ConfigError

_SHORTEST_TIMEOUT = seconds(0.1)


def _list_or_colons(value: Any) -> Any:
    if isinstance(value, str):
        return [part.strip() for part in value.split(":") if part.strip()]
    return value


def _proper(spellings: Mapping[str, str], what: str) -> AfterValidator:
    def settle(names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in spellings:
                known = ", ".join(sorted(set(spellings.values())))
                raise ValueError(f"{name!r} is not a known {what}; known are {known}")
        return tuple(dict.fromkeys(spellings[name] for name in names))

    return AfterValidator(settle)


def _lowest(value: Any) -> Any:
    # The reference manual of 0.5 shows a list; the setting is a minimum.
    if isinstance(value, list | tuple) and value and all(isinstance(item, str | float) for item in value):
        return min(str(item) for item in value)
    return str(value) if isinstance(value, float) else value


Curves = Annotated[tuple[str, ...], BeforeValidator(_list_or_colons), _proper(tls.CURVE_SPELLINGS, "curve")]
Ciphers = Annotated[tuple[str, ...], BeforeValidator(_list_or_colons), _proper(tls.SUITE_SPELLINGS, "cipher suite")]
TLSVersion = Annotated[Literal["1.2", "1.3"], BeforeValidator(_lowest)]

DEFAULT_CURVES = ("x25519", "secp256r1", "secp384r1", "secp521r1")
DEFAULT_CIPHERS = (
    *tls.TLS13_SUITES,
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
)


class TLSConfig(ConfigModel):
    """TLS settings."""

    other_spellings: ClassVar[Mapping[str, str]] = {"curve": "curves"}

    cert: str = ""
    """The own certificate: PEM text or a file name."""

    key: Secret = SecretStr("")
    """The private key of `cert`: PEM text or a file name."""

    tls_version: TLSVersion = Field("1.3", alias="tlsVersion")
    """The lowest accepted version of TLS: `1.2` or `1.3`."""

    curves: Curves = DEFAULT_CURVES
    """Elliptic curves for the key exchange: a list, or names joined by colons. Python's TLS can offer all four or a
    single one."""

    cipher: Ciphers = DEFAULT_CIPHERS
    """Cipher suites of TLS 1.2, under their IANA, OpenSSL or GnuTLS names: a list, or names joined by colons. The three
    suites of TLS 1.3 are always on."""

    def _selection_problems(self) -> Iterator[Problem]:
        for path, check, value in (
            ("curves", tls.check_curves, self.curves),
            ("cipher", tls.check_suites, self.cipher),
        ):
            try:
                check(value)
            except ValueError as exc:
                yield Problem(path, str(exc))

    def _pair_problems(self, cert: str, key: str) -> Iterator[Problem]:
        if bool(self.cert) != bool(self.key.get_secret_value()):
            yield Problem(key if self.cert else cert, "cert and key belong together: set both or neither")

    def _prepare(self, context: ssl.SSLContext) -> None:
        tls.apply(context, self.tls_version, self.curves, self.cipher)
        if self.cert:
            tls.identify(context, self.cert, self.key.get_secret_value())


class HTTPClientConfig(TLSConfig):
    """How an HTTP service is called."""

    url: str = ""
    """The URL of the service, with `http://` or `https://`."""

    allow_redirects: bool = False
    """Follow redirects. Off, a redirect is an error."""

    timeout: Duration = seconds(2)
    """How long one request may take, including its response; at least 100 ms."""

    max_answer_bytes: Annotated[int, Field(ge=64 * 1024, le=1 << 28)] = 4 * 1024 * 1024
    """The largest response in bytes, compressed or not. Of an endpoint's responses, four at a time may be larger than
    64 KiB; the others wait."""

    cacert: str = ""
    """The CA certificates that the service's certificate is checked with: PEM text or a file name. Empty: the
    system's."""

    _zero_timeout = field_validator("timeout")(default_for_zero)

    @property
    def is_https(self) -> bool:
        return self.url.lower().startswith("https://")

    def problems(self) -> Iterator[Problem]:
        yield from self._url_problems()
        if self.timeout < _SHORTEST_TIMEOUT:
            yield Problem("timeout", "must be at least 100ms")
        if self.is_https:
            yield from self._selection_problems()
        pair = list(self._pair_problems("clientCert", "clientKey"))
        yield from pair or self._file_problems()

    def _url_problems(self) -> Iterator[Problem]:
        try:
            url = urlsplit(self.url)
            port = url.port
        except ValueError as exc:
            yield Problem("url", f"invalid URL: {exc}")
            return
        if url.scheme.lower() not in ("http", "https") or not url.hostname or port == 0:
            yield Problem("url", "invalid URL: it must start with http:// or https:// and name a host")
        elif any(letter.isspace() or not letter.isprintable() for letter in self.url):
            yield Problem("url", "invalid URL: there is a blank or control character in it")

    def _file_problems(self) -> Iterator[Problem]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if self.cacert:
            try:
                tls.trust(context, self.cacert)
            except ValueError as exc:
                yield Problem("cacert", str(exc))
        if self.cert:
            try:
                tls.identify(context, self.cert, self.key.get_secret_value())
            except ValueError as exc:
                yield Problem("clientCert", str(exc))

    def ssl_context(self) -> ssl.SSLContext | None:
        """
        What to connect with; None for ``http://``.

        Raises:
            ConfigError: a setting cannot be used; the text names it.
        """
        if not self.is_https:
            return None
        for problem in self.problems():
            raise ConfigError(CoreCode.CONFIG_ERROR, str(problem))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if self.cacert:
            tls.trust(context, self.cacert)
        else:
            context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        self._prepare(context)
        return context


class HTTPServerConfig(TLSConfig):
    """Where an HTTP server listens."""

    listen: str = "0.0.0.0:8080"
    """`host:port`; an IPv6 address stands in brackets."""

    clientcacert: str = Field("", alias="clientcacert")
    """Accept only clients with a certificate from one of these CAs: PEM text or a file name. Needs `cert` and `key`."""

    @property
    def has_tls(self) -> bool:
        return bool(self.cert and self.key.get_secret_value())

    def problems(self) -> Iterator[Problem]:
        try:
            split_address(self.listen)
        except ValueError as exc:
            yield Problem("listen", str(exc))
        pair = list(self._pair_problems("cert", "key"))
        if self.has_tls:
            yield from self._selection_problems()
        elif self.clientcacert and not pair:
            yield Problem("clientcacert", "clients show certificates only over TLS: set cert and key as well")
        yield from pair or self._file_problems()

    def _file_problems(self) -> Iterator[Problem]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        for path, value in (("clientcacert", self.clientcacert), ("cert", self.cert)):
            if not value:
                continue
            try:
                if path == "cert":
                    tls.identify(context, value, self.key.get_secret_value())
                else:
                    tls.trust(context, value)
            except ValueError as exc:
                yield Problem(path, str(exc))

    def ssl_context(self) -> ssl.SSLContext | None:
        """
        What to serve with; None when no certificate is configured.

        Raises:
            ConfigError: a setting cannot be used; the text names it.
        """
        for problem in self.problems():
            raise ConfigError(CoreCode.CONFIG_ERROR, str(problem))
        if not self.has_tls:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if self.clientcacert:
            tls.trust(context, self.clientcacert)
            context.verify_mode = ssl.CERT_REQUIRED
        self._prepare(context)
        return context
