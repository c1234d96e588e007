"""The composition root: builds a running server from a configuration. The only module that imports all parts."""

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
"""
Seconds between two clean-ups after dead instances: random, so that servers started together do not run them at the same
time.
"""


@dataclass(frozen=True)
class Change:
    """A new configuration with its opened resources, to be applied or dropped."""

    config: AppConfig
    generation: Generation
    settings: Settings
    without_effect: Sequence[str]
    """Keys whose new values take effect only after a restart."""

    def drop(self) -> None:
        """Release the resources of a change that is not applied."""
        self.generation.retire()


@dataclass(eq=False)
class RunningServer:
    """A listening server; see :func:`running`."""

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
        """The status text for the service manager."""
        return f"Listening on {', '.join(map(str, self.addresses))}"

    @property
    def accepting(self) -> bool:
        return self._server.accepting

    def hurry(self) -> None:
        """Skip the grace period when the scope is left."""
        self._server.hurry()

    async def prepare(self, config: AppConfig) -> Change:
        """
        Open the resources that *config* needs, for :meth:`apply`.

        Raises:
            ConfigError, BackendError: the configuration cannot be used.
        """
        config, without_effect = _with_fixed(self.config, config)
        for section in (config.health, config.metrics):
            if section.enable:
                section.ssl_context()
        options = await asyncio.to_thread(server_options, config, self.instance, self.place.count)
        settings = await self._server.prepare(options)
        return Change(config, await self._generations.open(config), settings, without_effect)

    def apply(self, change: Change) -> None:
        """Use the change for new connections; existing connections keep their configuration."""
        self._generations.use(change.generation)
        self._server.use(change.settings)
        self.config = change.config

    async def complete_host_keys(self) -> None:
        """Generate the host keys that the start did not wait for, and offer them to new connections."""
        config = self.config
        try:
            options = await asyncio.to_thread(server_options, config, self.instance, self.place.count)
            settings = await self._server.prepare(options)
        except ContainerSSHError as exc:
            _tell(exc)
            return
        # A reload in the meantime has generated them and set its own options.
        if config is self.config:
            self._server.use(settings)

    async def apply_endpoints(self) -> None:
        """
        Restart the HTTP servers as the current configuration requires. A failure is logged and leaves that server
        closed.
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
    """Log *error* without a traceback, which would add nothing to its message."""
    logger.error(error.event())


def _with_fixed(old: AppConfig, new: AppConfig) -> tuple[AppConfig, list[str]]:
    """
    *new*, but with *old*'s values of the settings that cannot change while the server runs; and the keys of these
    settings.
    """
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
    The whole server. It listens while the scope is open (on *sockets* if any are given); leaving the scope stops it and
    removes all its containers. *place* identifies this process among several that share a port.

    Raises:
        ConfigError: a configured resource cannot be used.
        BackendError: ``backend: auto`` found no usable backend.
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
    """The counters shared by several processes; None for a single process."""
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
