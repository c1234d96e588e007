"""``kubernetes.connection``: the address of the API and the credentials for it (``config.md`` section 8.1)."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from containerssh.config import tls
from containerssh.config.kubeconfig import KubeConfigError, read_kubeconfig
from containerssh.config.model import ConfigModel, Problem, Secret, default_for_zero
from containerssh.core.errors import reason_of


class KubernetesConnectionConfig(ConfigModel):
    """The address of the Kubernetes API and the credentials for it."""

    host: str = "kubernetes.default.svc"
    """Host name, or address with scheme and port."""

    path: str = "/api"
    """The path of the core API; the other API groups are expected beside it."""

    username: str = ""
    password: Secret = SecretStr("")

    server_name: str = ""
    """The host name in the API's certificate, if it differs from `host`."""

    kube_config: str = ""
    """A kubeconfig file, instead of all keys about the address and the credentials. Its `exec` plugins run as the
    server's user."""

    context: str = ""
    """The context of the kubeconfig file. Empty: its current context."""

    cert_file: str = ""
    """The client certificate: a file."""

    key_file: str = ""
    """Its private key: a file."""

    cacert_file: str = Field("", alias="cacertFile")
    """The CA certificates that the API's certificate is checked with: a file. Empty: the system's."""

    cert: str = ""
    """The client certificate: PEM text, which takes precedence over the file."""

    key: Secret = SecretStr("")
    """Its private key: PEM text."""

    cacert: str = ""
    """The CA certificates: PEM text."""

    bearer_token: Secret = SecretStr("")
    """A bearer token."""

    bearer_token_file: str = ""
    """A file with a bearer token, which takes precedence and is read again when it changes."""

    qps: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 5.0
    """How many requests per second one login may make."""

    burst: Annotated[int, Field(ge=0)] = 10
    """How many requests one login may make at once."""

    _zeros = field_validator("qps", "burst")(default_for_zero)

    @property
    def says_nothing(self) -> bool:
        """Whether neither an address nor credentials are configured, so that a pod's own service account is used."""
        return self.host == "kubernetes.default.svc" and not self._secrets and not (self.cacert or self.cacert_file)

    @property
    def url(self) -> str:
        """
        The API's address with its scheme. Without one in ``host`` it is ``https`` if there are credentials or CA
        certificates, and otherwise ``http``, as upstream has it.
        """
        if "://" in self.host:
            return self.host
        plain = not (self._secrets or self.cacert or self.cacert_file) and self.host != "kubernetes.default.svc"
        return f"{'http' if plain else 'https'}://{self.host}"

    def problems(self) -> Iterator[Problem]:
        for name in ("host", "path"):
            if not getattr(self, name):
                yield Problem(name, "must be set")
        if self.kube_config:
            yield from self._kubeconfig_problems()
            return
        if self.context:
            yield Problem("context", "is a context of a kubeconfig file, and kubeConfig names none")
        try:
            url = urlsplit(self.url)
            fits = url.scheme in ("http", "https") and url.hostname and url.port != 0
        except ValueError:
            fits = False
        else:
            fits = fits and not (url.username or url.query or url.fragment)
        if self.host and not fits:
            yield Problem("host", "is neither a name, nor a name and a port, nor an https:// or http:// address")
        yield from self._file_problems()

    def _kubeconfig_problems(self) -> Iterator[Problem]:
        ours = ("host", "server_name", "username", "cert_file", "key_file", "cacert_file", "cert", "cacert")
        fields = KubernetesConnectionConfig.model_fields
        for name in (*ours, "password", "key", "bearer_token", "bearer_token_file"):
            if getattr(self, name) != fields[name].default:
                yield Problem(str(fields[name].alias), "comes from the kubeconfig file; leave it out")
        try:
            cluster, user = read_kubeconfig(Path(self.kube_config)).choose(self.context)
        except KubeConfigError as exc:
            yield Problem("kubeConfig", str(exc))
            return
        try:
            _check_certificates(cluster.authorities, user.certificate, user.key)
            if user.token_file:
                _check_readable(user.token_file)
        except ValueError as exc:
            yield Problem("kubeConfig", str(exc))

    def _file_problems(self) -> Iterator[Problem]:
        certificate, key = self.cert or self.cert_file, self.key.get_secret_value() or self.key_file
        if bool(certificate) != bool(key):
            yield Problem("cert" if certificate else "key", "certificate and key belong together: set both or neither")
            return
        for name, authorities, pair in (
            ("cacert" if self.cacert else "cacertFile", self.cacert or self.cacert_file, ("", "")),
            ("cert" if self.cert else "certFile", "", (certificate, key)),
        ):
            try:
                _check_certificates(authorities, *pair)
            except ValueError as exc:
                yield Problem(name, str(exc))
        if self.bearer_token_file:
            try:
                _check_readable(self.bearer_token_file)
            except ValueError as exc:
                yield Problem("bearerTokenFile", str(exc))

    @property
    def _secrets(self) -> bool:
        texts = (self.username, self.cert, self.cert_file, self.key_file, self.bearer_token_file)
        hidden = (self.password, self.key, self.bearer_token)
        return any(texts) or any(secret.get_secret_value() for secret in hidden)


def _check_certificates(authorities: str, certificate: str, key: str) -> None:
    """Raises ValueError: they cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if authorities:
        tls.trust(context, authorities)
    if certificate:
        tls.identify(context, certificate, key)


def _check_readable(file: str) -> None:
    """Raises ValueError."""
    try:
        with Path(file).open("rb") as opened:
            opened.read(1)
    except (OSError, ValueError) as exc:
        raise ValueError(f"cannot read {file!r}: {reason_of(exc)}") from exc
