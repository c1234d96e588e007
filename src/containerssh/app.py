"""The composition root: a configuration goes in, a running server comes out. The one place that knows everyone."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

from containerssh.backends.registry import Backends
from containerssh.config.app import AppConfig
from containerssh.config.auth import OAuth2Config
from containerssh.config.services import HealthConfig
from containerssh.core.codes import GeneralCode, ServiceCode
from containerssh.core.errors import ContainerSSHError, describe
from containerssh.core.instance import Instance
from containerssh.core.messages import Event
from containerssh.core.metadata import SocketAddress
from containerssh.core.tasks import HeldScope
from containerssh.generation import Generation, Generations
from containerssh.settings import lacks_slow_keys, server_options
from containerssh.ssh.server import Settings, SSHServer
from containerssh.ssh.shared_counts import SharedCounts
from containerssh.systemd import WorkerPlace

logger = logging.getLogger(__name__)

T = TypeVar("T")

REAP_EVERY = (180.0, 420.0)
"""Seconds between two looks for what dead instances left: at random, so that servers started together do not meet."""


@dataclass(frozen=True)
class Change:
    """Another configuration, ready to be applied or dropped."""

    config: AppConfig
    generation: Generation
    settings: Settings
    without_effect: Sequence[str]
    """Keys that keep their values until the next start."""

    def drop(self) -> None:
        """Nobody will apply it."""
        self.generation.retire()


@dataclass(eq=False)
class RunningServer:
    """A server that listens; see :func:`running`."""

    config: AppConfig
    instance: Instance
    place: WorkerPlace
    addresses: Sequence[SocketAddress]
    _server: SSHServer
    _generations: Generations
    _health: Health
    _redirect: Redirect

    @property
    def status(self) -> str:
        """For the service manager."""
        return f"Listening on {', '.join(map(str, self.addresses))}"

    @property
    def accepting(self) -> bool:
        return self._server.accepting

    def hurry(self) -> None:
        """End without grace once the scope is left."""
        self._server.hurry()

    async def prepare(self, config: AppConfig) -> Change:
        """
        Open what *config* needs, for :meth:`apply`.

        Raises:
            ConfigError, BackendError: it cannot be used.
        """
        config, without_effect = _with_fixed(self.config, config)
        if config.health.enable:
            config.health.ssl_context()
        options = await asyncio.to_thread(server_options, config, self.instance, self.place.count)
        settings = await self._server.prepare(options)
        return Change(config, await self._generations.open(config), settings, without_effect)

    def apply(self, change: Change) -> None:
        """New connections get the change; those that are there keep what they have."""
        self._generations.use(change.generation)
        self._server.use(change.settings)
        self.config = change.config

    async def complete_host_keys(self) -> None:
        """Make the host keys that were not waited for at the start, and offer them to new connections."""
        config = self.config
        try:
            options = await asyncio.to_thread(server_options, config, self.instance, self.place.count)
            settings = await self._server.prepare(options)
        except ContainerSSHError as exc:
            _tell(exc)
            return
        # A reload that came in between has made them, and brought options of its own.
        if config is self.config:
            self._server.use(settings)

    async def apply_health(self) -> None:
        """The health endpoint as the current configuration has it; a failure is logged, and leaves it closed."""
        if not self.place.is_first:
            return
        try:
            await self._health.use(self.config.health)
        except ContainerSSHError as exc:
            _tell(exc)

    async def apply_redirect(self) -> None:
        """As :meth:`apply_health`, of the page for OAuth 2.0 logins."""
        if not self.place.is_first:
            return
        try:
            await self._redirect.use(self.config)
        except ContainerSSHError as exc:
            _tell(exc)


def _tell(error: ContainerSSHError) -> None:
    """By its own words: where it was raised says nothing more."""
    logger.error(error.event())


def _with_fixed(old: AppConfig, new: AppConfig) -> tuple[AppConfig, list[str]]:
    """*new*, with what cannot change while the server runs as *old* has it; the keys that this concerns."""
    keys = []
    if new.ssh.listen != old.ssh.listen:
        keys.append("ssh.listen")
        new = new.model_copy(update={"ssh": new.ssh.model_copy(update={"listen": old.ssh.listen})})
    if new.health.enable and old.health.enable and new.health.listen != old.health.listen:
        keys.append("health.listen")
        new = new.model_copy(update={"health": new.health.model_copy(update={"listen": old.health.listen})})
    return new, keys


class Health:
    """The health endpoint, which can change while the server runs."""

    def __init__(self, healthy: Callable[[], bool]) -> None:
        self._healthy = healthy
        self._config = HealthConfig.default()
        self._scope: HeldScope[object] | None = None

    async def use(self, config: HealthConfig) -> None:
        """
        Serve as *config* says; its certificates are read again.

        Raises:
            ConfigError, BackendError: that is not possible; there is no endpoint now.
        """
        if config == self._config and (self._scope is None or config.ssl_context() is None):
            return
        await self.close()
        self._config = config
        if config.enable:
            from containerssh.web.health import health_endpoint

            endpoint = _service("Health check endpoint", health_endpoint(config, self._healthy))
            self._scope = await HeldScope.enter(endpoint)

    async def close(self) -> None:
        scope, self._scope = self._scope, None
        self._config = HealthConfig.default()
        if scope is not None:
            await scope.leave()


class Redirect:
    """The page that OAuth 2.0 logins come back to, which can change while the server runs."""

    def __init__(self) -> None:
        self._scope: HeldScope[object] | None = None

    async def use(self, config: AppConfig) -> None:
        """
        Serve as *config* says; certificates are read again.

        Raises:
            ConfigError, BackendError: that is not possible; there is no page now.
        """
        await self.close()
        if (oauth2 := _oauth2(config)) is not None:
            from containerssh.auth.oauth2.redirect import redirect_page

            page = _service("oAuth2 Redirect Server", redirect_page(oauth2.redirect))
            self._scope = await HeldScope.enter(page)

    async def close(self) -> None:
        scope, self._scope = self._scope, None
        if scope is not None:
            await scope.leave()


def _oauth2(config: AppConfig) -> OAuth2Config | None:
    interactive = config.auth.keyboard_interactive
    return interactive.oauth2 if interactive.method == "oauth2" else None


@asynccontextmanager
async def running(
    config: AppConfig,
    instance: Instance,
    *,
    sockets: Sequence[socket.socket] = (),
    place: WorkerPlace = WorkerPlace(),  # noqa: B008  frozen
    stopping: Callable[[], bool] = lambda: False,
    reap_every: tuple[float, float] = REAP_EVERY,
) -> AsyncIterator[RunningServer]:
    """
    The whole server: listening inside the scope (on *sockets* if some are given), gone with all its containers after
    it. *place* says which of several processes on one port this is.

    Raises:
        ConfigError: something configured cannot be used.
        BackendError: ``backend: auto`` found none.
    """
    ready = False
    async with AsyncExitStack() as stack:
        for sock in sockets:
            stack.callback(sock.close)
        health = Health(lambda: ready and not stopping())
        stack.push_async_callback(health.close)
        redirect = Redirect()
        stack.push_async_callback(redirect.close)
        if place.is_first:
            await health.use(config.health)
            await redirect.use(config)
        backends = await stack.enter_async_context(Backends.opened(instance))
        generations = Generations(backends)
        stack.push_async_callback(generations.close)
        generations.use(await generations.open(config))
        options = server_options(config, instance, place.count, without_slow_keys=True)
        server = SSHServer(
            generations, options, None if place.counts is None else SharedCounts.attach(place.counts, place.number)
        )
        listening = await stack.enter_async_context(_service("SSH server", server.serving(sockets)))
        reaper = asyncio.create_task(_reap_now_and_then(backends, generations, reap_every))
        stack.push_async_callback(_cancelled, reaper)
        ready = True
        running_server = RunningServer(
            config, instance, place, listening.addresses, server, generations, health, redirect
        )
        if lacks_slow_keys(config, instance):
            completing = asyncio.create_task(running_server.complete_host_keys())
            stack.push_async_callback(_cancelled, completing)
        yield running_server


async def _reap_now_and_then(backends: Backends, generations: Generations, every: tuple[float, float]) -> None:
    while True:
        current = generations.current
        try:
            await backends.reap(current.config, current.opened.backends)
        except ContainerSSHError as exc:
            logger.warning(exc.event())
        except Exception as exc:
            text = f"What dead instances left could not be removed ({describe(exc)})"
            logger.exception(Event(GeneralCode.UNKNOWN_ERROR, text))
        await asyncio.sleep(random.uniform(*every))  # noqa: S311  not for secrets


@asynccontextmanager
async def _service(name: str, scope: AbstractAsyncContextManager[T]) -> AsyncIterator[T]:
    """*scope*, with upstream's messages about its life."""
    logger.info(Event(ServiceCode.STARTING, "Service starting", service=name))
    async with scope as service:
        logger.info(Event(ServiceCode.RUNNING, "Service running", service=name))
        try:
            yield service
        finally:
            logger.info(Event(ServiceCode.STOPPING, "Service stopping", service=name))
    logger.info(Event(ServiceCode.STOPPED, "Service stopped", service=name))


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
