"""A server's process seen from outside: memory, descriptors, threads, tasks, processes; and whether they go back."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.server import Server, serving
from tests.support.services import wait_until

MIB = 1024 * 1024
_INSIDE = Path(__file__).parent / "inside"
_TELLING = 10.0


@dataclass(frozen=True)
class Vitals:
    """One look at a process."""

    memory: int
    """Resident, in bytes."""
    descriptors: int
    threads: int
    tasks: tuple[str, ...]
    """The asyncio tasks, as Python writes them."""


@dataclass(eq=False)
class Watched:
    """A server whose process can be looked into."""

    server: Server
    tasks_file: Path

    @property
    def port(self) -> int:
        return self.server.port

    @property
    def memory(self) -> int:
        return memory_of(self.server.process.pid)

    @property
    def descriptors(self) -> int:
        return sum(1 for _ in Path(f"/proc/{self.server.process.pid}/fd").iterdir())

    def look(self) -> Vitals:
        """Everything about the process at this moment; blocks for as long as its loop does."""
        tasks = self._told(signal.SIGUSR1).splitlines()
        threads = sum(1 for _ in Path(f"/proc/{self.server.process.pid}/task").iterdir())
        return Vitals(self.memory, self.descriptors, threads, tuple(tasks))

    def count_objects(self) -> Counter[str]:
        """How many objects of each of our classes there are. The first call turns the collector of garbage off."""
        return Counter(json.loads(self._told(signal.SIGUSR2)))

    def _told(self, number: signal.Signals) -> str:
        self.tasks_file.unlink(missing_ok=True)
        os.kill(self.server.process.pid, number)
        wait_until(self.tasks_file.exists, within=_TELLING, what="the server tells")
        return self.tasks_file.read_text()

    async def settled(self, within: float = 30) -> Vitals:
        """The first look after which descriptors and tasks stay as many for a second: what a used server keeps."""
        async with asyncio.timeout(within):
            while True:
                before = await asyncio.to_thread(self.look)
                await asyncio.sleep(1)
                now = await asyncio.to_thread(self.look)
                if (before.descriptors, len(before.tasks)) == (now.descriptors, len(now.tasks)):
                    return now

    async def back_to(self, base: Vitals, *, growth: int, within: float = 30) -> Vitals:
        """
        Wait until descriptors and tasks are no more than in *base*; what is there then.

        Raises:
            AssertionError: they are not in time; there are many threads; or the memory grew by more than *growth*.
        """
        now = base

        def calm() -> bool:
            nonlocal now
            now = self.look()
            return now.descriptors <= base.descriptors and len(now.tasks) <= len(base.tasks)

        with suppress(TimeoutError):
            await asyncio.to_thread(wait_until, calm, within=within, what="")
        assert now.descriptors <= base.descriptors, (now.descriptors, base.descriptors, self._open_files())
        assert len(now.tasks) <= len(base.tasks), "\n".join(now.tasks)
        # The pool of threads fills as it is used, and stays.
        assert now.threads <= max(base.threads, 40), now.threads
        assert now.memory - base.memory <= growth, f"{(now.memory - base.memory) / MIB:.1f} MiB more"
        return now

    def errors(self) -> list[dict[str, Any]]:
        """Log lines of level error and above."""
        return [line for line in self.server.log if line["level"] in ("error", "critical", "alert", "emergency")]

    def _open_files(self) -> list[str]:
        found = []
        for path in Path(f"/proc/{self.server.process.pid}/fd").iterdir():
            with suppress(OSError):
                found.append(str(path.readlink()))
        return found


def memory_of(pid: int) -> int:
    """The resident memory of a process, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS:")).split()[1]) * 1024


@asynccontextmanager
async def watched(
    config: Mapping[str, Any], users: Mapping[str, Any] | None = None, **options: Any
) -> AsyncIterator[Watched]:
    """As :func:`tests.support.server.serving`."""
    with tempfile.TemporaryDirectory(prefix="cs-", dir="/tmp") as folder:
        tasks = Path(folder) / "tasks"
        python_path = os.pathsep.join(filter(None, (str(_INSIDE), os.environ.get("PYTHONPATH"))))
        environment = {
            "PYTHONPATH": python_path,
            "TEST_TASKS_FILE": str(tasks),
            **options.pop("environment", {}),
        }
        async with serving(config, users, environment=environment, **options) as server:
            yield Watched(server, tasks)


def oci_leftovers(server: Server) -> list[str]:
    """What the oci backend's state still holds of logins, and the mounts below it."""
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines() if str(server.folder) in line]
    logins = server.folder / "state" / "oci" / "containers"
    # Each instance has a folder there, which stays while it runs.
    return mounts + [str(path) for path in logins.glob("*/*")]
