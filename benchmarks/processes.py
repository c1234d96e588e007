"""What processes cost: processor time and memory, of one process or of all that it has started."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int, *, with_ended_children: bool) -> float:
    """User and system time; a server that forks for each connection does its work in children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    # proc(5): utime, stime, cutime, cstime
    times = [int(field) for field in fields[11:15]]
    return sum(times if with_ended_children else times[:2]) / _TICK


def cpu_of_all(pid: int) -> float:
    """Of *pid* and its descendants, those that have ended included."""
    spent = 0.0
    for one in tree(pid):
        with suppress(FileNotFoundError, ProcessLookupError):
            spent += cpu_seconds(one, with_ended_children=True)
    return spent


def machine_cpu_seconds() -> float:
    """All that the machine's processors have done."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    # proc(5): user, nice, system, idle, iowait, irq, softirq
    return sum(int(fields[place]) for place in (0, 1, 2, 5, 6)) / _TICK


def memory(pid: int) -> int:
    """Bytes of *pid* and its descendants; pages shared between processes count once (PSS)."""
    return sum(_memory(one, "Pss:") for one in tree(pid))


def own_memory(pid: int) -> int:
    """
    Bytes of *pid* alone; 0 if it has ended. Without pages of files: how many of these are counted as its own depends on
    who else on the machine uses the same libraries at the moment.
    """
    return _memory(pid, "Anonymous:")


def _memory(pid: int, kind: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(kind))


def tree(pid: int) -> Iterator[int]:
    """*pid* and its descendants."""
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = task.read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        for child in children:
            yield from tree(int(child))
