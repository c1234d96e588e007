"""A kubeconfig file, as ``kubectl`` reads it: clusters, users, and contexts that join the two."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from containerssh.config.document import DocumentError, parse_yaml
from containerssh.core.errors import reason_of

LARGEST = 4 << 20
"""Bytes that a kubeconfig file may have."""


class KubeConfigError(ValueError):
    """The file cannot be used."""


@dataclass(frozen=True)
class ExecPlugin:
    """A program that gets credentials (client.authentication.k8s.io)."""

    command: str
    """A name without a slash is looked for in PATH; the path of any other is absolute."""
    version: str
    """``v1`` or ``v1beta1``."""
    arguments: tuple[str, ...] = field(default=(), repr=False)
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    tells_cluster: bool = False
    """Whether it is told where the API is."""
    hint: str = ""
    """What to say when it is missing."""


@dataclass(frozen=True)
class Cluster:
    """Where an API is."""

    server: str
    """Its URL."""
    authorities: str = field(default="", repr=False)
    """PEM text, or a file; empty: those of the system."""
    server_name: str = ""
    """The name in its certificate, if that is not its host's."""
    insecure: bool = False
    """Anybody may claim to be it."""


@dataclass(frozen=True)
class User:
    """Who asks. Certificate and key are PEM text, or files."""

    certificate: str = field(default="", repr=False)
    key: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    token_file: str = ""
    username: str = ""
    password: str = field(default="", repr=False)
    impersonation: tuple[tuple[str, str], ...] = ()
    """Headers that ask to act as somebody else; a name may be there several times."""
    plugin: ExecPlugin | None = None


@dataclass(frozen=True)
class KubeConfig:
    """A file that was read. Its entries are looked at when they are chosen."""

    folder: Path
    """What its relative paths start from."""
    tree: Mapping[str, Any] = field(repr=False)

    def choose(self, name: str = "") -> tuple[Cluster, User]:
        """
        Cluster and user of a context; without a name, of the current one.

        Raises:
            KubeConfigError: there is no such context, or what it names cannot be used.
        """
        name = name or _text(self.tree, "current-context", "the file")
        if not name:
            raise KubeConfigError("the kubeconfig file names no current-context, and connection.context is not set")
        context = self._entry("contexts", "context", name)
        where = f"context {name!r}"
        cluster, user = _text(context, "cluster", where), _text(context, "user", where)
        if not cluster:
            raise KubeConfigError(f"{where} of the kubeconfig file names no cluster")
        place = self._cluster(self._entry("clusters", "cluster", cluster), f"cluster {cluster!r}")
        who = self._user(self._entry("users", "user", user), f"user {user!r}") if user else User()
        return place, who

    def _entry(self, group: str, key: str, name: str) -> Mapping[str, Any]:
        entries = self.tree.get(group)
        for entry in entries if isinstance(entries, Sequence) and not isinstance(entries, str) else ():
            if isinstance(entry, Mapping) and str(entry.get("name")) == name:
                found = entry.get(key)
                if found is None:
                    return {}
                if not isinstance(found, Mapping):
                    raise KubeConfigError(f"{key} {name!r} of the kubeconfig file is not a map")
                return found
        raise KubeConfigError(f"the kubeconfig file has no {key} {name!r}")

    def _cluster(self, entry: Mapping[str, Any], where: str) -> Cluster:
        server = _text(entry, "server", where)
        if not server:
            raise KubeConfigError(f"{where} of the kubeconfig file has no server")
        if _text(entry, "proxy-url", where):
            raise KubeConfigError(f"{where} of the kubeconfig file has a proxy-url, which is not supported")
        insecure = entry.get("insecure-skip-tls-verify", False)
        if not isinstance(insecure, bool):
            raise KubeConfigError(f"insecure-skip-tls-verify of {where} is neither true nor false")
        authorities = self._data_or_file(entry, "certificate-authority", where)
        if insecure and authorities:
            raise KubeConfigError(f"{where} has a certificate-authority and insecure-skip-tls-verify: use one of them")
        return Cluster(
            server if "://" in server else f"https://{server}",
            authorities=authorities,
            server_name=_text(entry, "tls-server-name", where),
            insecure=insecure,
        )

    def _user(self, entry: Mapping[str, Any], where: str) -> User:
        if entry.get("auth-provider") is not None:
            raise KubeConfigError(f"{where} uses an auth-provider, which Kubernetes has given up; use an exec plugin")
        certificate = self._data_or_file(entry, "client-certificate", where)
        key = self._data_or_file(entry, "client-key", where)
        if bool(certificate) != bool(key):
            raise KubeConfigError(f"{where} has only one of client-certificate and client-key")
        token_file = _text(entry, "tokenFile", where)
        plugin = entry.get("exec")
        return User(
            certificate=certificate,
            key=key,
            token=_text(entry, "token", where),
            token_file=self._path(token_file) if token_file else "",
            username=_text(entry, "username", where),
            password=_text(entry, "password", where),
            impersonation=_impersonation(entry, where),
            plugin=None if plugin is None else self._plugin(plugin, where),
        )

    def _plugin(self, entry: Any, where: str) -> ExecPlugin:
        where = f"exec of {where}"
        if not isinstance(entry, Mapping):
            raise KubeConfigError(f"{where} is not a map")
        group, _, version = _text(entry, "apiVersion", where).partition("/")
        if group != "client.authentication.k8s.io" or version not in ("v1", "v1beta1"):
            raise KubeConfigError(f"{where} needs the apiVersion client.authentication.k8s.io/v1 or v1beta1")
        command = _text(entry, "command", where)
        if not command:
            raise KubeConfigError(f"{where} has no command")
        if _text(entry, "interactiveMode", where) == "Always":
            raise KubeConfigError(f"{where} wants to ask somebody (interactiveMode Always), and nobody is there")
        environment = {}
        for item in _list(entry, "env", where):
            if not isinstance(item, Mapping):
                raise KubeConfigError(f"env of {where} is not a list of names and values")
            environment[_text(item, "name", where)] = _text(item, "value", where)
        tells_cluster = entry.get("provideClusterInfo", False)
        return ExecPlugin(
            self._path(command) if "/" in command else command,
            version,
            tuple(_as_text(item, f"args of {where}") for item in _list(entry, "args", where)),
            environment,
            tells_cluster is True,
            _text(entry, "installHint", where)[:300],
        )

    def _data_or_file(self, entry: Mapping[str, Any], key: str, where: str) -> str:
        """PEM text, or the path of a file; the text wins, as in client-go."""
        data = _text(entry, f"{key}-data", where)
        if not data:
            file = _text(entry, key, where)
            return self._path(file) if file else ""
        try:
            text = base64.b64decode("".join(data.split()), validate=True).decode("ascii")
        except (binascii.Error, ValueError):
            raise KubeConfigError(f"{key}-data of {where} is not base64 of PEM text") from None
        if not text.strip().startswith("-----"):
            raise KubeConfigError(f"{key}-data of {where} is not base64 of PEM text")
        return text

    def _path(self, name: str) -> str:
        return str(self.folder / name)


def read_kubeconfig(path: Path) -> KubeConfig:
    """
    Read the file at *path*.

    Raises:
        KubeConfigError: it cannot be read, or is none.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except (OSError, ValueError) as exc:
        raise KubeConfigError(f"cannot read {str(path)!r}: {reason_of(exc)}") from exc
    if len(content) > LARGEST:
        raise KubeConfigError(f"{str(path)!r} is too large for a kubeconfig file")
    return parse_kubeconfig(content, path.absolute().parent)


def parse_kubeconfig(content: bytes, folder: Path) -> KubeConfig:
    """
    A kubeconfig of these bytes; JSON is YAML too. Relative paths in it start from *folder*.

    Raises:
        KubeConfigError: it is none.
    """
    try:
        tree = parse_yaml(content).tree
    except DocumentError as exc:
        raise KubeConfigError(f"the kubeconfig file is not valid YAML: {exc.message}") from exc
    if tree.get("kind", "Config") != "Config":
        raise KubeConfigError("the file is not a kubeconfig file: its kind is not Config")
    return KubeConfig(folder, tree)


def _impersonation(entry: Mapping[str, Any], where: str) -> tuple[tuple[str, str], ...]:
    headers = []
    for key, header in (("as", "Impersonate-User"), ("as-uid", "Impersonate-Uid")):
        if value := _text(entry, key, where):
            headers.append((header, value))
    groups = (_as_text(group, f"as-groups of {where}") for group in _list(entry, "as-groups", where))
    headers.extend(("Impersonate-Group", group) for group in groups)
    extra = entry.get("as-user-extra") or {}
    if not isinstance(extra, Mapping):
        raise KubeConfigError(f"as-user-extra of {where} in the kubeconfig file is not a map")
    for name in extra:
        header = f"Impersonate-Extra-{quote(name.lower(), safe='')}"
        headers.extend((header, _as_text(value, f"{name} of {where}")) for value in _list(extra, name, where))
    if headers and headers[0][0] != "Impersonate-User":
        raise KubeConfigError(f"{where} wants to act for a group or an id without a name (as)")
    return tuple(headers)


def _text(entry: Mapping[str, Any], key: str, where: str) -> str:
    value = entry.get(key)
    return "" if value is None else _as_text(value, f"{key} of {where}")


def _as_text(value: Any, where: str) -> str:
    # A name such as 1.20 is a number in YAML; the document's reader keeps how it was written.
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value)
    raise KubeConfigError(f"{where} in the kubeconfig file is not text")


def _list(entry: Mapping[str, Any], key: str, where: str) -> Sequence[Any]:
    value = entry.get(key)
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        raise KubeConfigError(f"{key} of {where} in the kubeconfig file is not a list")
    return value
