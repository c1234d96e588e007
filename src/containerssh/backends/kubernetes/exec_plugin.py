"""Credentials that a program gets (client.authentication.k8s.io, "client-go credential plugins")."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from containerssh.config.kubeconfig import Cluster, ExecPlugin, User
from containerssh.config.pem import read_pem
from containerssh.core.codes import KubernetesCode
from containerssh.core.errors import ConfigError
from containerssh.core.flag import Flag
from containerssh.core.text import one_line

TIME_LIMIT = 60.0
OUTPUT_LIMIT = 1 << 20
_ERRORS_KEPT = 600
_REFUSED_AFTER = 2.0
"""Seconds within which an answer that the API refused is not asked for again: it would be the same."""
_FAILED_FOR = 5.0
"""Seconds for which a failure stands for everybody who asks: so many need not wait for the plugin one by one."""


@dataclass(frozen=True)
class Answer:
    """What a plugin gave."""

    token: str = ""
    certificate: str = ""
    key: str = ""
    expires: datetime | None = None


class ExecCredentials:
    """The credentials of one plugin, kept until they expire or are refused."""

    def __init__(self, plugin: ExecPlugin, cluster: Cluster, *, time_limit: float = TIME_LIMIT) -> None:
        self._plugin = plugin
        self._cluster = cluster
        self._time_limit = time_limit
        self._answer: Answer | None = None
        self._asked = 0.0
        self._failure: tuple[float, str] | None = None
        self._lock = asyncio.Lock()

    async def apply(self, user: User) -> User:
        """
        *user* with the plugin's credentials.

        Raises:
            ConfigError: the plugin failed.
        """
        async with self._lock:
            if (answer := self._answer) is not None and not _expired(answer):
                return _with(user, answer)
            now = asyncio.get_running_loop().time()
            if self._failure is not None and now - self._failure[0] < _FAILED_FOR:
                raise self._failed(self._failure[1])
            self._asked, self._failure = now, None
            try:
                answer = self._answer = await self._ask()
            except PluginError as exc:
                self._failure = asyncio.get_running_loop().time(), str(exc)
                raise self._failed(str(exc)) from None
            return _with(user, answer)

    def forget(self) -> bool:
        """The API refused these credentials; whether others may be had."""
        if self._answer is None or asyncio.get_running_loop().time() - self._asked < _REFUSED_AFTER:
            return False
        self._answer = None
        return True

    def _failed(self, why: str) -> ConfigError:
        return ConfigError(KubernetesCode.CONFIG_ERROR, f"the credential plugin {self._plugin.command!r} {why}")

    async def _ask(self) -> Answer:
        plugin = self._plugin
        environment = {**os.environ, **plugin.environment, "KUBERNETES_EXEC_INFO": json.dumps(self._question())}
        loop = asyncio.get_running_loop()
        try:
            transport, run = await loop.subprocess_exec(
                _Run,
                plugin.command,
                *plugin.arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=environment,
                start_new_session=True,
            )
        except (OSError, ValueError) as exc:
            hint = f"; {one_line(plugin.hint)}" if plugin.hint else ""
            raise PluginError(f"cannot be run: {getattr(exc, 'strerror', None) or exc}{hint}") from None
        try:
            async with asyncio.timeout(self._time_limit):
                await run.over.wait()
        except TimeoutError:
            raise PluginError(f"took longer than {self._time_limit:g} s") from None
        finally:
            # What it has started goes with it.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(transport.get_pid(), signal.SIGKILL)
            transport.close()
            await run.gone.wait()
        if len(run.output) > OUTPUT_LIMIT:
            raise PluginError(f"printed more than {OUTPUT_LIMIT >> 20} MiB")
        if status := transport.get_returncode():
            words = one_line(run.errors.decode("utf-8", "replace")) or "it said nothing"
            raise PluginError(f"ended with status {status}: {words}")
        return parse_answer(bytes(run.output), plugin.version)

    def _question(self) -> dict[str, Any]:
        spec: dict[str, Any] = {"interactive": False}
        if self._plugin.tells_cluster:
            cluster: dict[str, Any] = {"server": self._cluster.server}
            if self._cluster.authorities:
                text = _pem(self._cluster.authorities)
                cluster["certificate-authority-data"] = base64.b64encode(text.encode()).decode()
            if self._cluster.server_name:
                cluster["tls-server-name"] = self._cluster.server_name
            if self._cluster.insecure:
                cluster["insecure-skip-tls-verify"] = True
            spec["cluster"] = cluster
        version = f"client.authentication.k8s.io/{self._plugin.version}"
        return {"apiVersion": version, "kind": "ExecCredential", "spec": spec}


class PluginError(Exception):
    """What went wrong, as words that go on after the plugin's name."""


def parse_answer(output: bytes, version: str) -> Answer:
    """
    What a plugin printed.

    Raises:
        PluginError: no credentials that can be used.
    """
    try:
        found = json.loads(output)
    except (ValueError, RecursionError):
        raise PluginError("printed no JSON") from None
    if not isinstance(found, dict) or found.get("kind") != "ExecCredential":
        raise PluginError("printed no ExecCredential")
    if found.get("apiVersion") != f"client.authentication.k8s.io/{version}":
        raise PluginError(f"answered in another version than {version}")
    status = found.get("status")
    if not isinstance(status, dict):
        raise PluginError("printed no credentials")
    texts = {}
    for key in ("token", "clientCertificateData", "clientKeyData", "expirationTimestamp"):
        value = status.get(key)
        if not isinstance(value, str | None):
            raise PluginError(f"printed a {key} that is not text")
        texts[key] = (value or "").strip()
    token, certificate, key = texts["token"], texts["clientCertificateData"], texts["clientKeyData"]
    if bool(certificate) != bool(key) or not (token or certificate):
        raise PluginError("printed neither a token nor a certificate with its key")
    if certificate and not (certificate.startswith("-----") and key.startswith("-----")):
        raise PluginError("printed a certificate or a key that is not PEM text")
    expires = None
    if texts["expirationTimestamp"]:
        try:
            expires = datetime.fromisoformat(texts["expirationTimestamp"])
        except ValueError:
            raise PluginError("printed an expirationTimestamp that is not a time") from None
        expires = expires if expires.tzinfo else expires.replace(tzinfo=UTC)
    return Answer(token, certificate, key, expires)


def _with(user: User, answer: Answer) -> User:
    user = replace(user, token=answer.token or user.token)
    return replace(user, certificate=answer.certificate, key=answer.key) if answer.certificate else user


def _expired(answer: Answer) -> bool:
    return answer.expires is not None and datetime.now(UTC) >= answer.expires


def _pem(value: str) -> str:
    try:
        return read_pem(value)
    except ValueError as exc:
        raise PluginError(f"cannot be told the cluster's authorities: {exc}") from None


class _Run(asyncio.SubprocessProtocol):
    """A plugin at work."""

    def __init__(self) -> None:
        self.output = bytearray()
        self.errors = bytearray()
        self.over = Flag()
        """Set once it has ended, or says more than anybody wants to know."""
        self.gone = Flag()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == 2:
            self.errors += data
            del self.errors[:-_ERRORS_KEPT]
        elif len(self.output) <= OUTPUT_LIMIT:
            self.output += data
            if len(self.output) > OUTPUT_LIMIT:
                self.over.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.over.set()
        self.gone.set()
