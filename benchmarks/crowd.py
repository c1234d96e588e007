"""Many logins: how many a second one process and two on one port bear, and what thousands of idle ones keep.

In session mode, in which a login by itself starts no container and asks no engine: what is measured is the login.
"""

from __future__ import annotations

import asyncio
import os
import resource
import time
from pathlib import Path

from benchmarks import connections
from benchmarks.knocking import knock
from benchmarks.processes import cpu_seconds, tree
from benchmarks.report import Report
from benchmarks.servers import Client, Server, containerssh
from containerssh.core.descriptors import allow_many_descriptors

CLIENTS = 8
_WARM_UP = 0.5
# Descriptors that this process needs for other things than connections.
_SPARE = 100


def compare(report: Report, client: Client, folder: Path, *, seconds: float, idle: int) -> None:
    """Storms of *seconds* each; then the memory for each of *idle* logins, or as many as descriptors allow."""
    for processes in (1, 2):
        name = f"{processes} process" + ("es" if processes > 1 else "")
        with containerssh(
            "docker", folder / f"crowd-{processes}", client, mode="session", processes=processes
        ) as server:
            for accepted in (True, False):
                _storm(report, client, server, name, seconds, accepted=accepted)
            if processes == 1:
                allow_many_descriptors()
                count = min(idle, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _SPARE)
                kept = asyncio.run(connections.idle_memory(client, server, count))
                report.add(f"crowd: each of {count} idle logins, KiB", name, kept)


def _storm(report: Report, client: Client, server: Server, name: str, seconds: float, *, accepted: bool) -> None:
    what = "accepted" if accepted else "denied"
    key = client.folder / ("id_ed25519" if accepted else "unknown")
    knock(server.port, server.user, key, clients=2, seconds=_WARM_UP, accepted=accepted)
    time.sleep(connections.PAUSE)
    before = _spent(server)
    knocks = knock(server.port, server.user, key, clients=CLIENTS, seconds=seconds, accepted=accepted)
    time.sleep(connections.PAUSE)
    spent = _spent(server) - before
    report.add(f"crowd: {what} logins per second", name, knocks.per_second)
    report.add(f"crowd: {what} login, server CPU ms", name, spent / knocks.logins * 1000)
    report.add(f"crowd: {what} login, client CPU ms", name, knocks.own_cpu_seconds / knocks.logins * 1000)
    # Near 100 for each process, the server is the limit; near all that the machine has together with the clients, that.
    report.add(f"crowd: {what} logins, server busy %", name, spent / knocks.seconds * 100)
    busy = (spent + knocks.own_cpu_seconds) / knocks.seconds / len(os.sched_getaffinity(0))
    report.add(f"crowd: {what} logins, processors busy %", name, busy * 100)


def _spent(server: Server) -> float:
    return sum(cpu_seconds(pid, with_ended_children=False) for pid in tree(server.pid))
