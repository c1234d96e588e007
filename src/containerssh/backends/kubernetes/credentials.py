"""Who we are at the Kubernetes API, as of now: tokens, certificates and whole configurations change while we run."""

from __future__ import annotations

import base64
import os
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from containerssh.backends.kubernetes.exec_plugin import ExecCredentials
from containerssh.config import tls
from containerssh.config.kubeconfig import Cluster, KubeConfigError, User, read_kubeconfig
from containerssh.config.kubernetes_connection import KubernetesConnectionConfig
from containerssh.config.pem import is_pem, read_pem
from containerssh.core.codes import KubernetesCode
from containerssh.core.errors import ConfigError

ACCOUNT_FOLDER = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod finds its service account."""

_TOKEN_LIMIT = 64 * 1024


@dataclass(frozen=True)
class Access:
    """What a request needs."""

    scheme: str
    host: str
    port: int
    base: str
    """What stands before every path; no slash at its end."""
    core: str
    """The path of the core API below that: ``/api``."""
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    tls: ssl.SSLContext | None
    server_name: str
    """The name that the API's certificate must bear."""

    @property
    def authority(self) -> str:
        """The value of the ``Host`` header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == {"http": 80, "https": 443}[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The API's address, for a log."""
        return f"{self.scheme}://{self.authority}{self.base}"

    def path(self, group: str, version: str) -> str:
        """The path of an API group; the core's name is empty."""
        if not group:
            return f"{self.base}{self.core}/{version}"
        prefix = self.core.removesuffix("/api")
        return f"{self.base}{prefix}/apis/{group}/{version}"


class Credentials:
    """The way to the API that a configuration stands for; files are read again when they have changed."""

    def __init__(self, config: KubernetesConnectionConfig) -> None:
        self._config = config
        self._stamps: tuple[object, ...] = ()
        self._files: tuple[Path, ...] = ()
        self._cluster = Cluster("")
        self._user = User()
        self._plugin: ExecCredentials | None = None
        self._contexts: dict[tuple[str, str, bool], ssl.SSLContext] = {}
        self._access: Access | None = None

    async def access(self) -> Access:
        """
        What holds at the moment. Waits for a credential plugin when its answer has run out.

        Raises:
            ConfigError: something named in the configuration cannot be used.
        """
        stamps = tuple(_stamp(file) for file in self._files)
        if self._access is None or stamps != self._stamps:
            self._load()
        if self._plugin is None:
            if self._access is None:
                self._access = self._build(self._user)
            return self._access
        user, fresh = await self._plugin.apply(self._user)
        if fresh or self._access is None:
            self._access = self._build(user)
        return self._access

    def refused(self, access: Access) -> bool:
        """The API did not take *access* (status 401): whether there is anything else to show it now."""
        if self._plugin is not None:
            return self._access is not access or self._plugin.forget()
        return tuple(_stamp(file) for file in self._files) != self._stamps

    def _load(self) -> None:
        files = tuple(self._find())
        # Taken before they are read: what changes meanwhile is then read again.
        stamps = tuple(_stamp(file) for file in files)
        plugin = self._user.plugin
        try:
            self._cluster, self._user = self._settings()
        except (KubeConfigError, ValueError) as exc:
            raise ConfigError(KubernetesCode.CONFIG_ERROR, f"kubernetes.connection: {exc}") from exc
        if self._user.plugin is None:
            self._plugin = None
        elif self._plugin is None or plugin != self._user.plugin:
            self._plugin = ExecCredentials(self._user.plugin, self._cluster)
        self._access = None
        self._files = (*files, *_files_of(self._cluster, self._user))
        self._stamps = (*stamps, *(_stamp(file) for file in self._files[len(files) :]))

    def _find(self) -> Iterator[Path]:
        if self._config.kube_config:
            yield Path(self._config.kube_config)

    def _settings(self) -> tuple[Cluster, User]:
        config = self._config
        if config.kube_config:
            return read_kubeconfig(Path(config.kube_config)).choose(config.context)
        if config.says_nothing and (found := in_cluster(os.environ, ACCOUNT_FOLDER)) is not None:
            return found
        cluster = Cluster(config.url, authorities=config.cacert or config.cacert_file, server_name=config.server_name)
        user = User(
            certificate=config.cert or config.cert_file,
            key=config.key.get_secret_value() or config.key_file,
            token=config.bearer_token.get_secret_value(),
            token_file=config.bearer_token_file,
            username=config.username,
            password=config.password.get_secret_value(),
        )
        return cluster, user

    def _build(self, user: User) -> Access:
        try:
            return self._understand(user)
        except (ValueError, ssl.SSLError) as exc:
            raise ConfigError(KubernetesCode.CONFIG_ERROR, f"kubernetes.connection: {exc}") from exc

    def _understand(self, user: User) -> Access:
        cluster = self._cluster
        url = urlsplit(cluster.server)
        if url.scheme not in ("http", "https") or not url.hostname or url.username or url.query or url.fragment:
            raise ValueError(f"{cluster.server!r} is no address of an API server")
        return Access(
            url.scheme,
            url.hostname,
            url.port or {"http": 80, "https": 443}[url.scheme],
            quote(unquote(url.path.rstrip("/")), safe="/"),
            "/" + quote(unquote(self._config.path.strip("/")), safe="/"),
            _headers(user),
            self._context(user) if url.scheme == "https" else None,
            cluster.server_name or url.hostname,
        )

    def _context(self, user: User) -> ssl.SSLContext:
        """One for each choice of certificates, since kept connections belong to it."""
        cluster = self._cluster
        authorities = read_pem(cluster.authorities) if cluster.authorities else ""
        pair = f"{read_pem(user.key)}\n{read_pem(user.certificate)}" if user.certificate else ""
        wanted = authorities, pair, cluster.insecure
        if wanted not in self._contexts:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            # Go's TLS, and so every cluster, does without what Python 3.13 asks of authorities.
            context.verify_flags &= ~ssl.VERIFY_X509_STRICT
            if cluster.insecure:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            elif authorities:
                tls.trust(context, authorities)
            else:
                context.load_default_certs()
            if user.certificate:
                tls.identify(context, read_pem(user.certificate), read_pem(user.key))
            self._contexts.clear()
            self._contexts[wanted] = context
        return self._contexts[wanted]


def in_cluster(environ: Mapping[str, str], folder: Path) -> tuple[Cluster, User] | None:
    """What a pod knows of its cluster's API; None outside of pods."""
    host, port = environ.get("KUBERNETES_SERVICE_HOST", ""), environ.get("KUBERNETES_SERVICE_PORT", "443")
    token, authorities = folder / "token", folder / "ca.crt"
    if not host or not token.exists():
        return None
    address = f"[{host}]" if ":" in host else host
    trusted = str(authorities) if authorities.exists() else ""
    return Cluster(f"https://{address}:{port}", authorities=trusted), User(token_file=str(token))


def _headers(user: User) -> tuple[tuple[str, str], ...]:
    """
    What tells the API who asks.

    Raises:
        ValueError: a token cannot be read, or would break out of its line.
    """
    headers = list(user.impersonation)
    # client-go's order: a token file wins over a token, and either over a name and a password.
    token = _read_token(Path(user.token_file)) if user.token_file else user.token
    if token:
        headers.append(("Authorization", f"Bearer {token}"))
    elif user.username or user.password:
        pair = f"{user.username}:{user.password}".encode()
        headers.append(("Authorization", f"Basic {base64.b64encode(pair).decode()}"))
    for name, value in headers:
        if not (value.isascii() and value.isprintable()):
            raise ValueError(f"what is to be sent as {name} has characters that no header may have")
    return tuple(headers)


def _read_token(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            content = opened.read(_TOKEN_LIMIT + 1)
    except (OSError, ValueError) as exc:
        reason = getattr(exc, "strerror", None) or str(exc)
        raise ValueError(f"cannot read the token in {str(file)!r}: {reason}") from exc
    token = content.decode("ascii", "replace").strip()
    if len(content) > _TOKEN_LIMIT or not token:
        raise ValueError(f"{str(file)!r} holds no token")
    return token


def _files_of(cluster: Cluster, user: User) -> Iterator[Path]:
    for name in (cluster.authorities, user.certificate, user.key):
        if name and not is_pem(name):
            yield Path(name)
    if user.token_file:
        yield Path(user.token_file)


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except (OSError, ValueError):
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
