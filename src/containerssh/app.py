"""The composition root: a configuration goes in, a running server comes out. The one place that knows everyone."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from containerssh.backends.registry import Backends
from containerssh.config.app import AppConfig
from containerssh.config.auth import OAuth2Config
from containerssh.config.load import ConfigErrors, Loaded, load
from containerssh.config.log import LogConfig
from containerssh.config.services import HealthConfig
from containerssh.core.codes import CoreCode, GeneralCode, ServiceCode
from containerssh.core.descriptors import allow_many_descriptors
from containerssh.core.errors import ContainerSSHError, describe
from containerssh.core.instance import Instance, open_instance
from containerssh.core.messages import NOTICE, Event
from containerssh.core.metadata import SocketAddress
from containerssh.core.tasks import HeldScope
from containerssh.generation import Generation, Generations
from containerssh.logs.setup import LogSetup, setup_logging
from containerssh.settings import lacks_slow_keys, server_options
from containerssh.ssh.server import Settings, SSHServer
from containerssh.ssh.shared_counts import SharedCounts
from containerssh.systemd import Notifier, WorkerPlace, worker_place

logger = logging.getLogger(__name__)

T = TypeVar("T")

GIVE_UP = timedelta(seconds=10)
"""From a second signal to the end of the process, whatever has not been removed by then."""

REAP_EVERY = (180.0, 420.0)
"""Seconds between two looks for what dead instances left: at random, so that servers started together do not meet."""


def serve(path: Path) -> int:
    """Run the server configured by *path* until SIGTERM or SIGINT; the exit status is upstream's (``config.md`` 9)."""
    allow_many_descriptors()
    logs = setup_logging(before_the_configuration())
    try:
        loaded = load(path)
        configured = setup_logging(loaded.config.log)
    except ContainerSSHError as exc:
        logger.critical(exc.event())
        logs.close()
        return 1
    logs.close()
    process = Process(loaded, configured)
    try:
        return run(process.main())
    finally:
        process.logs.close()


def healthcheck(path: Path) -> int:
    """``--healthcheck``: ask the running server; 0 when it is healthy, or when the endpoint is off."""
    from containerssh.web.health import check_health

    logs = setup_logging(before_the_configuration())
    try:
        loaded = load(path, to_serve=False)
        healthy = run(check_health(loaded.config.health)) if loaded.config.health.enable else True
    except ContainerSSHError as exc:
        logger.critical(exc.event())
        return 1
    else:
        if healthy:
            logger.info(Event(CoreCode.HEALTH_CHECK_SUCCESSFUL, "Health check successful"))
        else:
            logger.critical(Event(CoreCode.HEALTH_CHECK_FAILED, "Health check failed"))
        return 0 if healthy else 1
    finally:
        logs.close()


def before_the_configuration() -> LogConfig:
    """As upstream, but for people in front of a terminal."""
    return LogConfig(format="text" if sys.stdout.isatty() else "ljson")


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run *main* on uvloop where it is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    return uvloop.run(main)


class Process:
    """One server process: signals in, an exit status out."""

    def __init__(self, loaded: Loaded, logs: LogSetup) -> None:
        self.logs = logs
        """Logging as it is set up at the moment; whoever made this closes it at the end."""
        self._loaded = loaded
        self._notifier = Notifier.of(os.environ)
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._hangup = asyncio.Event()

    async def main(self) -> int:
        """Serve until a signal says stop; the exit status."""
        config, path = self._loaded.config, self._loaded.path
        logger.debug(Event(CoreCode.CONFIG_FILE, f"Using configuration file {path}", file=str(path)))
        for warning in self._loaded.warnings:
            logger.warning(warning)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked_to_stop)
        loop.add_signal_handler(signal.SIGHUP, self._hangup.set)
        try:
            place, sockets = worker_place(os.environ)
            if place.life is not None:
                loop.add_reader(place.life, self._orphaned, place.life)
            with open_instance() as instance:
                logger.info(Event(ServiceCode.POOL_STARTING, "Starting"))
                async with running(
                    config, instance, sockets=sockets, place=place, stopping=self._stop.is_set
                ) as server:
                    logger.info(Event(ServiceCode.POOL_RUNNING, "Running"))
                    # What is there now stays: the collector need not look at it again and again.
                    gc.freeze()
                    await self._serve(server)
                    logger.info(Event(ServiceCode.POOL_STOPPING, "Stopping"))
            logger.info(Event(ServiceCode.POOL_STOPPED, "Stopped"))
        except ContainerSSHError as exc:
            logger.critical(exc.event())
            return 1
        except OSError as exc:
            logger.critical(Event(ServiceCode.CRASHED, f"The server cannot run here ({exc})"))
            return 1
        return 0

    async def _serve(self, server: RunningServer) -> None:
        self._notifier.ready(server.status)
        beside = [asyncio.create_task(self._reload_when_asked(server)), asyncio.create_task(self._show_life(server))]
        try:
            await self._stop.wait()
        finally:
            for task in beside:
                task.cancel()
            await asyncio.wait(beside)
        self._notifier.stopping(server.config.ssh.shutdown_grace_time + timedelta(minutes=1))
        if self._hurry.is_set():
            server.hurry()
        else:
            # Nobody waits for this task: it ends with the loop, or does its one step.
            self._hurrying = asyncio.create_task(self._hurry_when_asked(server))

    def _asked_to_stop(self) -> None:
        if not self._stop.is_set():
            self._stop.set()
        elif not self._hurry.is_set():
            logger.warning(Event(CoreCode.STOP_HURRIED, "Asked to stop again: there is no grace any more"))
            self._hurry.set()
            asyncio.get_running_loop().call_later(GIVE_UP.total_seconds(), self._give_up)

    def _orphaned(self, life: int) -> None:
        asyncio.get_running_loop().remove_reader(life)
        logger.error(Event(CoreCode.WORKER_ENDED, "The supervisor is gone"))
        self._asked_to_stop()

    def _give_up(self) -> None:
        text = "Not everything could be removed in time; the next start removes it"
        logger.critical(Event(CoreCode.STOP_GIVEN_UP, text))
        self.logs.close()
        os._exit(130)

    async def _hurry_when_asked(self, server: RunningServer) -> None:
        await self._hurry.wait()
        server.hurry()

    async def _show_life(self, server: RunningServer) -> None:
        """The watchdog hears of this loop as long as it turns, and takes connections in."""
        if self._notifier.watchdog is None:
            return
        while server.accepting:
            self._notifier.alive()
            await asyncio.sleep(self._notifier.watchdog.total_seconds() / 3)

    async def _reload_when_asked(self, server: RunningServer) -> None:
        while True:
            await self._hangup.wait()
            self._hangup.clear()
            self.logs.reopen()
            self._notifier.reloading()
            try:
                await self._reload(server)
            except ContainerSSHError as exc:
                _tell_refused_reload(exc)
            except Exception as exc:
                text = f"The configuration stays as it was: a fault in the server ({describe(exc)})"
                logger.exception(Event(CoreCode.CONFIG_RELOAD_FAILED, text))
            self._notifier.ready(server.status)

    async def _reload(self, server: RunningServer) -> None:
        loaded = await asyncio.to_thread(load, self._loaded.path)
        change = await server.prepare(loaded.config)
        try:
            logs = setup_logging(loaded.config.log) if loaded.config.log != server.config.log else None
        except BaseException:
            change.drop()
            raise
        server.apply(change)
        for warning in loaded.warnings:
            logger.warning(warning)
        for key in change.without_effect:
            text = f"{key} cannot change while the server runs; the rest is in force"
            logger.warning(Event(CoreCode.CONFIG_NEEDS_RESTART, text, key=key))
        text = "The configuration was read again; it holds for new connections"
        logger.log(NOTICE, Event(CoreCode.CONFIG_RELOADED, text, file=str(loaded.path)))
        if logs is not None:
            self.logs.detach()
            former, self.logs = self.logs, logs
            await asyncio.to_thread(former.close)
        await server.apply_health()
        await server.apply_redirect()


def _tell_refused_reload(error: ContainerSSHError) -> None:
    findings = error.findings if isinstance(error, ConfigErrors) else ()
    text = f"The configuration stays as it was. {describe(error)}"
    logger.error(Event(CoreCode.CONFIG_RELOAD_FAILED, text, **error.labels))
    for finding in findings:
        logger.error(Event(CoreCode.CONFIG_RELOAD_FAILED, str(finding), key=finding.path))


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
            logger.error(exc.event())  # noqa: TRY400  told by its own words
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
            logger.error(exc.event())  # noqa: TRY400  told by its own words

    async def apply_redirect(self) -> None:
        """As :meth:`apply_health`, of the page for OAuth 2.0 logins."""
        if not self.place.is_first:
            return
        try:
            await self._redirect.use(self.config)
        except ContainerSSHError as exc:
            logger.error(exc.event())  # noqa: TRY400  told by its own words


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
