"""Several server processes on one port, each with its own event loop, to use all cores.

The supervisor listens but never accepts; its workers share the listening sockets, and any idle worker accepts the next
connection. The supervisor restarts workers that exit, kills workers that no longer respond, and forwards signals.
Workers report readiness and liveness to it by the protocol of sd_notify(3).
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from containerssh.config.address import split_address
from containerssh.config.load import Loaded, load
from containerssh.core.codes import CoreCode, ServiceCode
from containerssh.core.errors import ContainerSSHError, describe
from containerssh.core.instance import default_runtime_folder, make_private
from containerssh.core.messages import Event
from containerssh.logs.setup import LogSetup, setup_logging
from containerssh.process import before_the_configuration
from containerssh.shared_metrics import shared_metrics
from containerssh.ssh.server import listen
from containerssh.ssh.shared_counts import SharedTable, Size, shared_table
from containerssh.systemd import PEER_CREDENTIALS, WORKER, Notifier, inherited_sockets, sender

logger = logging.getLogger(__name__)

WATCHDOG = timedelta(seconds=60)
"""A worker whose event loop does not run for this long is killed; systemd's watchdog time replaces it if set."""

_LOOK_EVERY = 5.0
_SLOWEST_RESTART = 30.0
# Multiplies the watchdog time of a worker that is still starting.
_LONGEST_START = 4


def supervise(path: Path, processes: int) -> int:
    """Run the server configured by *path* in *processes* processes until SIGTERM or SIGINT; return the exit status."""
    logs = setup_logging(before_the_configuration())
    try:
        loaded = load(path)
        configured = setup_logging(loaded.config.log)
    except ContainerSSHError as exc:
        logger.critical(exc.event())
        return 1
    finally:
        logs.close()
    try:
        return asyncio.run(Supervisor(loaded, configured, processes).main())
    except ContainerSSHError as exc:
        logger.critical(exc.event())
        return 1
    except OSError as exc:
        logger.critical(Event(ServiceCode.CRASHED, f"The server cannot run here ({describe(exc)})"))
        return 1
    finally:
        configured.close()


def pause_after(failures: int) -> float:
    """Seconds to wait before restarting a worker, after *failures* consecutive processes that never became ready."""
    return min(0.1 * 2.0 ** min(failures, 16), _SLOWEST_RESTART)


@dataclass(eq=False)
class Worker:
    """A worker slot and its current process."""

    number: int
    process: asyncio.subprocess.Process | None = None
    ready: bool = False
    last_sign: float = 0.0
    failures: int = 0
    statuses: list[int] = field(default_factory=list)

    def send(self, number: signal.Signals) -> None:
        if self.process is not None and self.process.returncode is None:
            with suppress(ProcessLookupError):
                self.process.send_signal(number)


class Supervisor:
    """The parent process of the workers."""

    def __init__(self, loaded: Loaded, logs: LogSetup, processes: int) -> None:
        self._loaded = loaded
        self._logs = logs
        self._notifier = Notifier.of(os.environ)
        self._watchdog = self._notifier.watchdog or WATCHDOG
        self._workers = [Worker(number) for number in range(processes)]
        self._stopping = asyncio.Event()
        self._was_ready = False

    async def main(self) -> int:
        """Keep the workers running until a stop signal; return 0 if all of them exited successfully."""
        limits = self._loaded.config.ssh.limits
        size = Size.of(len(self._workers), limits.connections, limits.penalties.sources)
        with shared_table(size) as table, shared_metrics(len(self._workers)) as metrics:
            return await self._run(table, metrics)

    async def _run(self, table: SharedTable, metrics: int) -> int:
        sockets = inherited_sockets(os.environ) or await listen(*split_address(self._loaded.config.ssh.listen))
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number, sockets)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        # The write end closes when this process ends for any reason; workers then stop as well.
        life, held = os.pipe()
        try:
            async with self._listening_to_workers() as address:
                beside = asyncio.create_task(self._check_workers())
                await asyncio.gather(
                    *(self._keep_running(worker, sockets, life, table, metrics, address) for worker in self._workers)
                )
                beside.cancel()
        finally:
            os.close(life)
            os.close(held)
            for sock in sockets:
                sock.close()
        return max((abs(worker.statuses[-1]) for worker in self._workers if worker.statuses), default=0)

    def _stop(self, number: signal.Signals, sockets: Sequence[socket.socket]) -> None:
        """Stop the workers. Also called for a second signal, which the workers handle themselves."""
        for sock in sockets:
            sock.close()
        self._stopping.set()
        self._notifier.stopping(self._loaded.config.ssh.shutdown_grace_time + timedelta(minutes=1))
        for worker in self._workers:
            worker.send(number)

    def _reload(self) -> None:
        self._logs.reopen()
        self._notifier.reloading()
        for worker in self._workers:
            worker.ready = False
            worker.send(signal.SIGHUP)

    async def _keep_running(
        self,
        worker: Worker,
        sockets: Sequence[socket.socket],
        life: int,
        table: SharedTable,
        metrics: int,
        address: str,
    ) -> None:
        """Run the process of *worker*, and restart it when it exits, until the server stops."""
        descriptors = [sock.fileno() for sock in sockets]
        while not self._stopping.is_set():
            worker.ready, worker.last_sign = False, asyncio.get_running_loop().time()
            try:
                worker.process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    *("-m", "containerssh", "--config", str(self._loaded.path)),
                    stdin=asyncio.subprocess.DEVNULL,
                    # Ctrl-C on a terminal must reach only the supervisor, which forwards it.
                    process_group=0,
                    pass_fds=[*descriptors, life, table.descriptor, metrics],
                    env={
                        **os.environ,
                        "NOTIFY_SOCKET": address,
                        "WATCHDOG_USEC": str(int(self._watchdog.total_seconds() * 1_000_000)),
                        WORKER: f"{worker.number}/{len(self._workers)} {life} {table.descriptor} {metrics} "
                        + ",".join(map(str, descriptors)),
                    },
                )
            except OSError as exc:
                # The process limit, or an upgrade in progress: the other workers continue meanwhile.
                if not self._was_ready:
                    raise
                text = f"A server process could not be started ({describe(exc)}); another attempt follows"
                logger.error(Event(CoreCode.WORKER_ENDED, text, worker=worker.number))  # noqa: TRY400  it says all
                worker.process = None
                worker.failures += 1
                await self._pause(worker)
                continue
            if self._stopping.is_set():
                worker.send(signal.SIGTERM)
            status = await worker.process.wait()
            table.clear(worker.number)
            worker.statuses.append(status)
            if self._stopping.is_set():
                return
            if not self._was_ready:
                # An error that prevents the first start would recur.
                self._stop(signal.SIGTERM, sockets)
                return
            worker.failures = 0 if worker.ready else worker.failures + 1
            text = f"A server process ended (status {status}) and is restarted"
            logger.error(Event(CoreCode.WORKER_ENDED, text, worker=worker.number, status=status))
            await self._pause(worker)

    async def _pause(self, worker: Worker) -> None:
        """Wait before restarting *worker*; returns early when the server stops."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), pause_after(worker.failures))

    async def _check_workers(self) -> None:
        """Kill workers that do not respond; notify this process's own watchdog."""
        loop = asyncio.get_running_loop()
        every = min(_LOOK_EVERY, self._watchdog.total_seconds() / 3)
        while True:
            await asyncio.sleep(every)
            self._notifier.alive()
            for worker in self._workers:
                limit = self._watchdog.total_seconds() * (1 if worker.ready else _LONGEST_START)
                if worker.process is not None and loop.time() - worker.last_sign > limit:
                    text = "A server process does not respond and is killed"
                    logger.error(Event(CoreCode.WORKER_ENDED, text, worker=worker.number))
                    worker.last_sign = loop.time()
                    worker.send(signal.SIGKILL)

    @asynccontextmanager
    async def _listening_to_workers(self) -> AsyncIterator[str]:
        folder = default_runtime_folder()
        make_private(folder)
        path = folder / f"supervisor-{os.getpid()}"
        path.unlink(missing_ok=True)
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
            sock.bind(str(path))
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
                loop.add_reader(sock.fileno(), self._receive_notification, sock)
                yield str(path)
            finally:
                loop.remove_reader(sock.fileno())
                path.unlink(missing_ok=True)

    def _receive_notification(self, sock: socket.socket) -> None:
        with suppress(OSError):
            data, ancillary, _, _ = sock.recvmsg(4096, PEER_CREDENTIALS)
            pid = sender(ancillary)
            lines = data.decode(errors="replace").splitlines()
            for worker in self._workers:
                if worker.process is not None and worker.process.pid == pid:
                    worker.last_sign = asyncio.get_running_loop().time()
                    if "READY=1" in lines:
                        worker.ready = True
                        self._tell_when_all_are_ready()

    def _tell_when_all_are_ready(self) -> None:
        if all(worker.ready for worker in self._workers) and not self._stopping.is_set():
            self._was_ready = True
            self._notifier.ready(f"{len(self._workers)} processes are serving")
