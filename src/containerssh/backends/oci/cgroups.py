"""The control groups of one instance's containers: ``/containerssh/<instance>/<container>`` in every hierarchy."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_NAME = "containerssh"


def cgroup_path(instance_id: str, container_id: str) -> str:
    """The control group path for the runtime."""
    return f"/{_NAME}/{instance_id}/{container_id}"


def kill_and_remove(*names: str) -> None:
    """Kill all processes in the group of an instance (or a container: instance, container), and remove the group."""
    for top in _tops(*names):
        groups = [Path(folder) for folder, _, _ in os.walk(top, topdown=False)]
        for group in groups:
            for pid in _processes(group):
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
        for group in groups:
            with suppress(OSError):  # a process in the group is still exiting: the next start retries
                group.rmdir()


def expedite_moves() -> None:
    """
    Make moves between control groups fast for about 15 ms. Takes as long itself: call it in a thread.

    Before it moves a process, the kernel waits for an RCU grace period unless one has just passed. This moves the
    process to its current group, so nothing changes.
    """
    for file in _own_groups():
        try:
            file.write_text("0")
        except OSError:  # for example a read-only file system
            continue
        return


def _own_groups() -> Iterator[Path]:
    """The ``cgroup.procs`` files of this process's groups (cgroups(7): hierarchy, controllers, path)."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        folders = [_ROOT, _ROOT / "unified"] if not controllers else [_ROOT / controllers.removeprefix("name=")]
        for folder in folders:
            file = folder / path.lstrip("/") / "cgroup.procs"
            if file.is_file():
                yield file


def _tops(*names: str) -> Iterator[Path]:
    hierarchies = [_ROOT]
    with suppress(OSError):
        hierarchies += [entry for entry in _ROOT.iterdir() if entry.is_dir() and not entry.is_symlink()]
    for hierarchy in hierarchies:
        top = hierarchy.joinpath(_NAME, *names)
        if top.is_dir():
            yield top


def _processes(group: Path) -> list[int]:
    try:
        return [int(line) for line in (group / "cgroup.procs").read_text().split()]
    except OSError:
        return []
