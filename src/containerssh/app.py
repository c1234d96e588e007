"""The composition root: a configuration goes in, a running server comes out. The one place that knows everyone."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

from containerssh.backends.registry import Backends
from containerssh.config.app import AppConfig
from containerssh.config.services import HealthConfig, MetricsConfig
from containerssh.core.codes import GeneralCode
from containerssh.core.counters import counters
from containerssh.core.errors import ContainerSSHError, describe
from containerssh.core.instance import Instance
from containerssh.core.messages import Event
from containerssh.core.metadata import SocketAddress
from containerssh.endpoints import Endpoint, Redirect, service
from containerssh.generation import Generation, Generations
from containerssh.settings import lacks_slow_keys, server_options
from containerssh.shared_metrics import SharedMetrics
from containerssh.ssh.server import Settings, SSHServer
from containerssh.ssh.shared_counts import SharedCounts
from containerssh.systemd import WorkerPlace

logger = logging.getLogger(__name__)

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
    _health: Endpoint[HealthConfig]
    _metrics: Endpoint[MetricsConfig]
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
        for section in (config.health, config.metrics):
            if section.enable:
                section.ssl_context()
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

    async def apply_endpoints(self) -> None:
        """
        The HTTP servers as the current configuration has them. A failure is logged, and leaves that one closed.
        """
        if not self.place.is_first:
            return
        config = self.config
        for use in (
            partial(self._health.use, config.health),
            partial(self._metrics.use, config.metrics),
            partial(self._redirect.use, config),
        ):
            try:
                await use()
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
    for name in ("health", "metrics"):
        section, former = getattr(new, name), getattr(old, name)
        if section.enable and former.enable and section.listen != former.listen:
            keys.append(f"{name}.listen")
            new = new.model_copy(update={name: section.model_copy(update={"listen": former.listen})})
    return new, keys


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
        shared = await _shared_metrics(place, stack)
        health = Endpoint("Health check endpoint", partial(_health_endpoint, lambda: ready and not stopping()))
        metrics = Endpoint("Metrics server", partial(_metrics_page, shared))
        redirect = Redirect()
        for endpoint in (health, metrics, redirect):
            stack.push_async_callback(endpoint.close)
        if place.is_first:
            await health.use(config.health)
            await metrics.use(config.metrics)
            await redirect.use(config)
        backends = await stack.enter_async_context(Backends.opened(instance))
        generations = Generations(backends)
        stack.push_async_callback(generations.close)
        generations.use(await generations.open(config))
        options = server_options(config, instance, place.count, without_slow_keys=True)
        server = SSHServer(
            generations, options, None if place.counts is None else SharedCounts.attach(place.counts, place.number)
        )
        listening = await stack.enter_async_context(service("SSH server", server.serving(sockets)))
        reaper = asyncio.create_task(_reap_now_and_then(backends, generations, reap_every))
        stack.push_async_callback(_cancelled, reaper)
        ready = True
        running_server = RunningServer(
            config, instance, place, listening.addresses, server, generations, health, metrics, redirect
        )
        if lacks_slow_keys(config, instance):
            completing = asyncio.create_task(running_server.complete_host_keys())
            stack.push_async_callback(_cancelled, completing)
        yield running_server


async def _shared_metrics(place: WorkerPlace, stack: AsyncExitStack) -> SharedMetrics | None:
    """What several processes have counted together; None if there is one."""
    if place.metrics is None:
        return None
    shared = SharedMetrics(place.metrics, place.number)
    shared.resume(counters)
    stack.push_async_callback(_cancelled, asyncio.create_task(shared.keep_writing(counters)))
    return shared


def _health_endpoint(healthy: Callable[[], bool], config: HealthConfig) -> AbstractAsyncContextManager[object]:
    from containerssh.web.health import health_endpoint

    return health_endpoint(config, healthy)


def _metrics_page(shared: SharedMetrics | None, config: MetricsConfig) -> AbstractAsyncContextManager[object]:
    from containerssh.web.metrics import metrics_page

    return metrics_page(config, lambda: [*counters.snapshot().items(), *(shared.of_others() if shared else ())])


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


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
