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
from containerssh.config.urls import masked_url
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


@dataclass
class _Loaded:
    """What the configuration, and the files that it names, said at one time."""

    cluster: Cluster
    user: User
    plugin: ExecCredentials | None
    stamps: Mapping[Path, object]
    """What the files were like before they were read."""
    shown: User | None = None
    """Whom :attr:`access` is for, with a plugin's answer."""
    access: Access | None = None

    @property
    def is_current(self) -> bool:
        return all(_stamp(file) == stamp for file, stamp in self.stamps.items())


class Credentials:
    """The way to the API that a configuration stands for; files are read again when they have changed."""

    def __init__(self, config: KubernetesConnectionConfig) -> None:
        self._config = config
        self._loaded: _Loaded | None = None
        self._contexts: dict[tuple[object, ...], ssl.SSLContext] = {}

    async def access(self) -> Access:
        """
        What holds at the moment. Waits for a credential plugin when its answer has run out.

        Raises:
            ConfigError: something named in the configuration cannot be used.
        """
        while True:
            if self._loaded is None or not self._loaded.is_current:
                self._loaded = self._load(self._loaded)
            loaded = self._loaded
            user = loaded.user if loaded.plugin is None else await loaded.plugin.apply(loaded.user)
            # Meanwhile another request may have found the files changed: what was got for one server is shown to no
            # other.
            if loaded is self._loaded:
                if loaded.access is None or loaded.shown != user:
                    loaded.access, loaded.shown = self._build(loaded.cluster, user), user
                return loaded.access

    def refused(self, access: Access) -> bool:
        """The API did not take *access* (status 401): whether there is anything else to show it now."""
        loaded = self._loaded
        if loaded is None or loaded.access is not access:
            return True
        return loaded.plugin.forget() if loaded.plugin is not None else not loaded.is_current

    def _load(self, before: _Loaded | None) -> _Loaded:
        # Taken before they are read: what changes meanwhile is then read again.
        stamps = {file: _stamp(file) for file in self._find()}
        try:
            cluster, user = self._settings()
        except (KubeConfigError, ValueError) as exc:
            raise ConfigError(KubernetesCode.CONFIG_ERROR, f"kubernetes.connection: {exc}") from exc
        stamps |= {file: _stamp(file) for file in _files_of(cluster, user)}
        plugin = None
        if user.plugin is not None:
            same = before is not None and (before.cluster, before.user.plugin) == (cluster, user.plugin)
            plugin = before.plugin if same and before is not None else ExecCredentials(user.plugin, cluster)
        return _Loaded(cluster, user, plugin, stamps)

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

    def _build(self, cluster: Cluster, user: User) -> Access:
        try:
            return self._understand(cluster, user)
        except (ValueError, ssl.SSLError) as exc:
            raise ConfigError(KubernetesCode.CONFIG_ERROR, f"kubernetes.connection: {exc}") from exc

    def _understand(self, cluster: Cluster, user: User) -> Access:
        url = urlsplit(cluster.server)
        if url.scheme not in ("http", "https") or not url.hostname or url.username or url.query or url.fragment:
            raise ValueError(f"{masked_url(cluster.server)!r} is not an address of an API server")
        return Access(
            url.scheme,
            url.hostname,
            url.port or {"http": 80, "https": 443}[url.scheme],
            quote(unquote(url.path.rstrip("/")), safe="/"),
            "/" + quote(unquote(self._config.path.strip("/")), safe="/"),
            _headers(user),
            self._context(cluster, user) if url.scheme == "https" else None,
            cluster.server_name or url.hostname,
        )

    def _context(self, cluster: Cluster, user: User) -> ssl.SSLContext:
        """One for each choice of certificates, since kept connections belong to it."""
        authorities = read_pem(cluster.authorities) if cluster.authorities else ""
        pair = f"{read_pem(user.key)}\n{read_pem(user.certificate)}" if user.certificate else ""
        wanted = authorities, pair, cluster.insecure, cluster.server, cluster.server_name
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
