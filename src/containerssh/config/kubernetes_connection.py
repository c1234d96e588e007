"""``kubernetes.connection``: the way to the API, and who we are there (``config.md`` section 8.1)."""

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
    """Where the Kubernetes API is, and who we are there."""

    host: str = "kubernetes.default.svc"
    """Host name, or address with scheme and port."""

    path: str = "/api"
    """The path of the API."""

    username: str = ""
    password: Secret = SecretStr("")

    server_name: str = ""
    """The name in the API's certificate, if it is another."""

    kube_config: str = ""
    """A kubeconfig file, instead of all the keys about the way to the API and about who we are there; its `exec`
    plugins are run as this server."""

    context: str = ""
    """Which context of the kubeconfig file; empty for its current one."""

    cert_file: str = ""
    """Our certificate: a file."""

    key_file: str = ""
    """Its private key: a file."""

    cacert_file: str = Field("", alias="cacertFile")
    """The authorities that may vouch for the API: a file."""

    cert: str = ""
    """Our certificate: PEM text, which wins over the file."""

    key: Secret = SecretStr("")
    """Its private key: PEM text."""

    cacert: str = ""
    """The authorities: PEM text."""

    bearer_token: Secret = SecretStr("")
    """A token."""

    bearer_token_file: str = ""
    """A file with a token, which is read again when it changes."""

    qps: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 5.0
    """Requests per second."""

    burst: Annotated[int, Field(ge=0)] = 10
    """Requests at once."""

    _zeros = field_validator("qps", "burst")(default_for_zero)

    @property
    def says_nothing(self) -> bool:
        """Whether neither the API's place nor who we are there is told: in a pod, its own account is used then."""
        return self.host == "kubernetes.default.svc" and not self._secrets and not (self.cacert or self.cacert_file)

    @property
    def url(self) -> str:
        """
        The API's address with its scheme. Without one in ``host`` it is ``https``; only where there is nothing to keep
        secret and nobody to be recognised by a certificate it is ``http``, as upstream has it.
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
        try:
            _check_certificates(self.cacert or self.cacert_file, certificate, key)
        except ValueError as exc:
            yield Problem("cert" if certificate else "cacert", str(exc))
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
