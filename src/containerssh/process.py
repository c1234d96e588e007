"""The lifecycle of a server process: signals, reload, exit status."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Coroutine
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from containerssh.app import RunningServer, running
from containerssh.config.load import ConfigErrors, Loaded, load
from containerssh.config.log import LogConfig
from containerssh.core.allocator import reserve_large_buffers_apart
from containerssh.core.codes import CoreCode, ServiceCode
from containerssh.core.descriptors import allow_many_descriptors
from containerssh.core.errors import ContainerSSHError, describe
from containerssh.core.instance import open_instance
from containerssh.core.messages import NOTICE, Event, log_labels
from containerssh.logs.setup import LogSetup, setup_logging
from containerssh.systemd import Notifier, worker_place

logger = logging.getLogger(__name__)

T = TypeVar("T")

GIVE_UP = timedelta(seconds=10)
"""The time between a second stop signal and the end of the process, even if containers are left."""


def serve(path: Path) -> int:
    """Run the server configured by *path* until SIGTERM or SIGINT; the exit status is upstream's (``config.md`` 9)."""
    allow_many_descriptors()
    logs = setup_logging(before_the_configuration())
    try:
        loaded = load(path)
        configured = setup_logging(loaded.config.log)
    except ContainerSSHError as exc:
        with log_labels(module="core"):
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
    """``--healthcheck``: query the running server; 0 if it is healthy or the endpoint is disabled."""
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
    """The log settings until the configuration is loaded: upstream's, but text format on a terminal."""
    return LogConfig(format="text" if sys.stdout.isatty() else "ljson")


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run *main* on uvloop where it is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    reserve_large_buffers_apart()
    return uvloop.run(main)


class Process:
    """One server process: handles signals and returns an exit status."""

    def __init__(self, loaded: Loaded, logs: LogSetup) -> None:
        self.logs = logs
        """The current logging setup; the creator of this object closes it at the end."""
        self._loaded = loaded
        self._notifier = Notifier.of(os.environ)
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._hangup = asyncio.Event()

    async def main(self) -> int:
        """Serve until a signal stops the server; return the exit status."""
        config, path = self._loaded.config, self._loaded.path
        logger.debug(Event(CoreCode.CONFIG_FILE, f"Using configuration file {path}", file=str(path)))
        for warning in self._loaded.warnings:
            logger.warning(warning)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop_requested)
        loop.add_signal_handler(signal.SIGHUP, self._hangup.set)
        try:
            place, sockets = worker_place(os.environ)
            if place.life is not None:
                loop.add_reader(place.life, self._supervisor_gone, place.life)
            with open_instance() as instance:
                logger.info(Event(ServiceCode.POOL_STARTING, "Starting", module="service"))
                async with running(
                    config, instance, sockets=sockets, place=place, stopping=self._stop.is_set
                ) as server:
                    logger.info(Event(ServiceCode.POOL_RUNNING, "Running", module="service"))
                    # The objects allocated so far are permanent; exclude them from garbage collection.
                    gc.freeze()
                    gc.enable()
                    await self._serve(server)
                    logger.info(Event(ServiceCode.POOL_STOPPING, "Stopping", module="service"))
            logger.info(Event(ServiceCode.POOL_STOPPED, "Stopped", module="service"))
        except ContainerSSHError as exc:
            logger.critical(exc.event())
            return 1
        except OSError as exc:
            logger.critical(Event(ServiceCode.CRASHED, f"The server cannot run here ({describe(exc)})"))
            return 1
        return 0

    async def _serve(self, server: RunningServer) -> None:
        self._notifier.ready(server.status)
        beside = [
            asyncio.create_task(self._reload_when_asked(server)),
            asyncio.create_task(self._notify_watchdog(server)),
        ]
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
            # Nothing awaits this task: it performs its single step or is cancelled with the loop.
            self._hurrying = asyncio.create_task(self._hurry_when_asked(server))

    def _stop_requested(self) -> None:
        if not self._stop.is_set():
            self._stop.set()
        elif not self._hurry.is_set():
            logger.warning(Event(CoreCode.STOP_HURRIED, "Second signal to stop: the grace time is over"))
            self._hurry.set()
            asyncio.get_running_loop().call_later(GIVE_UP.total_seconds(), self._give_up)

    def _supervisor_gone(self, life: int) -> None:
        asyncio.get_running_loop().remove_reader(life)
        logger.error(Event(CoreCode.WORKER_ENDED, "The supervisor is gone"))
        self._stop_requested()

    def _give_up(self) -> None:
        text = "Not everything could be removed in time; the next start removes it"
        logger.critical(Event(CoreCode.STOP_GIVEN_UP, text))
        self.logs.close()
        os._exit(130)

    async def _hurry_when_asked(self, server: RunningServer) -> None:
        await self._hurry.wait()
        server.hurry()

    async def _notify_watchdog(self, server: RunningServer) -> None:
        """Notify the watchdog as long as the event loop runs and the server accepts connections."""
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
                _log_refused_reload(exc)
            except Exception as exc:
                text = f"The configuration is unchanged: a fault in the server ({describe(exc)})"
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
            text = f"{key} cannot change while the server runs; everything else is applied"
            logger.warning(Event(CoreCode.CONFIG_NEEDS_RESTART, text, key=key))
        text = "Configuration reloaded; it applies to new connections"
        logger.log(NOTICE, Event(CoreCode.CONFIG_RELOADED, text, file=str(loaded.path)))
        if logs is not None:
            self.logs.detach()
            former, self.logs = self.logs, logs
            await asyncio.to_thread(former.close)
        await server.apply_endpoints()


def _log_refused_reload(error: ContainerSSHError) -> None:
    findings = error.findings if isinstance(error, ConfigErrors) else ()
    text = f"The configuration is unchanged. {describe(error)}"
    logger.error(Event(CoreCode.CONFIG_RELOAD_FAILED, text, **error.labels))
    for finding in findings:
        logger.error(Event(CoreCode.CONFIG_RELOAD_FAILED, str(finding), key=finding.path))
