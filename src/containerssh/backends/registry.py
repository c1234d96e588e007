"""The backends of this server, by the names used in ``backend:``."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from containerssh.config.app import AppConfig
from containerssh.config.docker import DEFAULT_HOST, DockerConfig
from containerssh.core.codes import BackendCode, OCICode
from containerssh.core.errors import BackendError, ConfigError, describe
from containerssh.core.handlers import ConnectionHandler, Notices
from containerssh.core.instance import Instance
from containerssh.core.messages import NOTICE, Event
from containerssh.core.metadata import Login

if TYPE_CHECKING:
    from containerssh.backends.docker.backend import DockerBackend
    from containerssh.backends.kubernetes.backend import KubernetesBackend
    from containerssh.backends.oci.backend import OCIBackend

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class DockerLogins:
    """The docker backend and its configuration section."""

    backend: DockerBackend
    host: str = ""
    """The address of the engine that ``auto`` found, if not the configured one."""

    def login(
        self, login: Login, config: AppConfig, notices: Notices
    ) -> AbstractAsyncContextManager[ConnectionHandler]:
        return self.backend.login(login, self.section(config), notices)

    def section(self, config: AppConfig) -> DockerConfig:
        if not self.host:
            return config.docker
        connection = config.docker.connection.model_copy(update={"host": self.host})
        return config.docker.model_copy(update={"connection": connection})


@dataclass(eq=False)
class OCILogins:
    """The oci backend and its configuration section."""

    backend: OCIBackend

    def login(
        self, login: Login, config: AppConfig, notices: Notices
    ) -> AbstractAsyncContextManager[ConnectionHandler]:
        return self.backend.login(login, config.oci, notices)


@dataclass(eq=False)
class KubernetesLogins:
    """The kubernetes backend and its configuration section."""

    backend: KubernetesBackend

    def login(
        self, login: Login, config: AppConfig, notices: Notices
    ) -> AbstractAsyncContextManager[ConnectionHandler]:
        return self.backend.login(login, config.kubernetes, notices)


Logins = DockerLogins | OCILogins | KubernetesLogins
ByName = Mapping[str, Logins]


@dataclass(eq=False)
class Backends:
    """
    All available backends; created by :meth:`opened`. A backend is imported on first use, since importing all would
    take a fifth of the start-up time.
    """

    instance: Instance
    _docker: DockerBackend | None = field(default=None, init=False)
    _oci: OCIBackend | None = field(default=None, init=False)
    _kubernetes: KubernetesBackend | None = field(default=None, init=False)
    _cleared: set[str] = field(default_factory=set, init=False)
    _engine_away: bool = field(default=False, init=False)

    @classmethod
    @asynccontextmanager
    async def opened(cls, instance: Instance) -> AsyncIterator[Backends]:
        """The backends for the lifetime of the server; their connections are closed at the end."""
        backends = cls(instance)
        try:
            yield backends
        finally:
            if backends._docker is not None:
                await backends._docker.close()
            if backends._oci is not None:
                await backends._oci.close()
            if backends._kubernetes is not None:
                await backends._kubernetes.close()

    @property
    def docker(self) -> DockerBackend:
        if self._docker is None:
            from containerssh.backends.docker.backend import DockerBackend

            self._docker = DockerBackend(self.instance)
        return self._docker

    @property
    def oci(self) -> OCIBackend:
        if self._oci is None:
            from containerssh.backends.oci.backend import OCIBackend

            self._oci = OCIBackend(self.instance)
        return self._oci

    @property
    def kubernetes(self) -> KubernetesBackend:
        if self._kubernetes is None:
            from containerssh.backends.kubernetes.backend import KubernetesBackend

            self._kubernetes = KubernetesBackend(self.instance)
        return self._kubernetes

    async def choose(self, config: AppConfig) -> ByName:
        """
        The backends by name. If ``auto`` is configured, it is resolved: to Docker if it responds, otherwise Podman,
        otherwise the embedded backend.

        Raises:
            BackendError: the configured backend is ``auto`` and none works.
            ConfigError: files named in the chosen backend's section cannot be used.
        """
        named = _Named(self, await self._choose(config) if config.backend == "auto" else None)
        named.get(config.backend)  # fail now rather than at the first login
        if config.backend == "kubernetes" and not config.configserver.url:
            await self.kubernetes.check(config.kubernetes)
        return named

    async def _choose(self, config: AppConfig) -> DockerLogins | OCILogins:
        failures = []
        for host in _engines(config):
            logins = DockerLogins(self.docker, host)
            try:
                found = await self.docker.probe(logins.section(config))
            except BackendError as exc:
                failures.append(f"{host or config.docker.connection.host}: {exc}")
                continue
            _tell_chosen("docker", found)
            return logins
        try:
            found = await self.oci.probe(config.oci)
        except BackendError as exc:
            failures.append(f"oci: {exc}")
            text = "backend: auto found nothing that works: " + "; ".join(failures)
            raise BackendError(BackendCode.CONFIG_ERROR, text) from exc
        _tell_chosen("oci", found)
        return OCILogins(self.oci)

    async def reap(self, config: AppConfig, by_name: ByName) -> None:
        """
        Remove the containers and files of dead instances on this machine; failures are left to the next call. *by_name*
        is the result of :meth:`choose` for *config*.

        An instance is forgotten at the second call that finds it dead: at the first, its engine may still have been
        creating a container.
        """
        dead = self.instance.dead()
        on_docker = isinstance(by_name.get(config.backend), DockerLogins)
        if on_docker or self._docker is not None:
            await self._reap_outlived(_engine(config, by_name) if on_docker else None)
        await self._collect_images(config)
        pods = await self._reap_pods(config, dead)
        if pods is None or not dead:
            return
        containers = await self._reap_containers(config, by_name, dead)
        if containers is not None:
            self._forget(dead, pods + containers)

    async def _reap_outlived(self, config: DockerConfig | None) -> None:
        try:
            await self.docker.reap_outlived(config)
            self._engine_away = False
        except BackendError as exc:
            # Not critical, since the next call retries. An administrator who starts the server should see it.
            self._log_engine_away(exc)

    async def _collect_images(self, config: AppConfig) -> None:
        try:
            if self._oci is not None:
                await self._oci.collect(config.oci)
        except (BackendError, OSError) as exc:
            text = f"Unused images could not be removed ({describe(exc)})"
            logger.debug(Event(OCICode.CONTAINER_REMOVE_FAILED, text))

    async def _reap_pods(self, config: AppConfig, dead: Collection[str]) -> int | None:
        """Remove pods; return their number, or None if a cluster did not respond."""
        if config.backend != "kubernetes" and self._kubernetes is None:
            return 0
        try:
            return await self.kubernetes.reap(config.kubernetes if config.backend == "kubernetes" else None, dead)
        except (BackendError, ConfigError) as exc:
            logger.warning(exc.event())
            return None

    async def _reap_containers(self, config: AppConfig, by_name: ByName, dead: Collection[str]) -> int | None:
        """Remove containers; return their number, or None if an engine did not respond."""
        removed = 0
        try:
            removed += await self.oci.reap(config.oci)
        except BackendError as exc:
            if config.backend == "oci":
                raise
            # If the helper process cannot run here, dead instances had no oci containers either.
            logger.debug(exc.event())
        configured = config.backend not in ("oci", "kubernetes")
        # The configuration of a login may have named other engines, also for the dead instance.
        if configured or self.docker.has_work_elsewhere(dead):
            try:
                removed += await self.docker.reap(_engine(config, by_name) if configured else None)
            except BackendError as exc:
                self._log_engine_away(exc)
                return None
        return removed

    def _forget(self, dead: Collection[str], removed: int) -> None:
        """Forget instances that an earlier call also found dead, unless the cluster still has pods of theirs."""
        new = [dead_id for dead_id in dead if dead_id not in self._cleared]
        before = self._cleared.intersection(dead)
        outlived = self._kubernetes.outlived if self._kubernetes is not None else set()
        for dead_id in before - outlived:
            with suppress(OSError):
                self.instance.forget(dead_id)
        self._cleared = {*new, *(before & outlived)}
        if new or removed:
            text = f"Removed what {len(dead)} ended server processes had left: {removed} containers"
            logger.log(NOTICE, Event(BackendCode.REAPED, text))

    def _log_engine_away(self, error: BackendError) -> None:
        """Log that the engine does not respond; once, until it has responded again."""
        logger.log(logging.DEBUG if self._engine_away else logging.WARNING, error.event())
        self._engine_away = True


@dataclass(eq=False)
class _Named(Mapping[str, Logins]):
    backends: Backends
    auto: DockerLogins | OCILogins | None

    def __getitem__(self, name: str) -> Logins:
        if name == "docker":
            return DockerLogins(self.backends.docker)
        if name == "oci":
            return OCILogins(self.backends.oci)
        if name == "kubernetes":
            return KubernetesLogins(self.backends.kubernetes)
        if name == "auto" and self.auto is not None:
            return self.auto
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(("docker", "oci", "kubernetes", *(("auto",) if self.auto else ())))

    def __len__(self) -> int:
        return 4 if self.auto else 3


def _tell_chosen(name: str, what: str) -> None:
    logger.log(NOTICE, Event(BackendCode.CHOSEN, f"backend: auto chose {name} here ({what})", backend=name))


def _engine(config: AppConfig, by_name: ByName) -> DockerConfig:
    auto = by_name.get("auto")
    return auto.section(config) if isinstance(auto, DockerLogins) else config.docker


def _engines(config: AppConfig) -> list[str]:
    """The engine addresses to try; empty stands for the configured one."""
    if config.docker.connection.host != DEFAULT_HOST:
        return [""]
    sockets = ["/run/podman/podman.sock"]
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        sockets.append(f"{runtime}/podman/podman.sock")
    return ["", *(f"unix://{path}" for path in sockets if Path(path).exists())]
