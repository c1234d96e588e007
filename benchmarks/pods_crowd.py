"""Many logins to pods at once: how long they take, what the gateway and each part of the cluster spend on them.

In turn with as many pods that are only created, watched and deleted: what the cluster needs without us.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import statistics
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

import asyncssh

from benchmarks.connections import connect
from benchmarks.kubernetes import POD_LIMIT, SCHEMA, Ground, a_pod, connected, until_ready, with_agent_image
from benchmarks.processes import cpu_seconds, machine_cpu_seconds, own_memory
from benchmarks.report import Report
from benchmarks.servers import Client, Server
from containerssh.backends.kubernetes.client import PODS
from containerssh.backends.kubernetes.following import Followers

_IDLE_FOR = 15.0
_COUNTED = re.compile(r"(apiserver_\w+)\{([^}]*)\} ([0-9.e+-]+)")
_LABEL = re.compile(r'(\w+)="([^"]*)"')


def compare(report: Report, client: Client, ground: Ground, folder: Path, count: int) -> None:
    """*count* logins at once by each way that the agent gets into a pod; then as many pods alone."""
    for name, pod in (("agent uploaded", {}), ("agentImage", with_agent_image())):
        _progress(f"{count} logins, {name}")
        with ground.gateway(name, folder / f"crowd-{name.replace(' ', '-')}", client, **pod) as server:
            asyncio.run(_logins(report, client, ground, server, count))
            _tell_log(server)
    _progress(f"{count} pods alone")
    asyncio.run(_alone(report, ground, count))


async def _logins(report: Report, client: Client, ground: Ground, server: Server, count: int) -> None:
    opened: list[asyncssh.SSHClientConnection] = []
    failures: Counter[str] = Counter()

    async def one() -> float:
        began = time.perf_counter()
        try:
            async with asyncio.timeout(POD_LIMIT.total_seconds()):
                connection = await connect(client, server)
                opened.append(connection)
                process = await connection.create_process("echo up; exec cat", encoding=None)
                await process.stdout.readuntil(b"up\n")
        except (OSError, TimeoutError, asyncssh.Error, asyncio.IncompleteReadError) as exc:
            failures[f"{type(exc).__name__}: {exc}"[:200]] += 1
        return time.perf_counter() - began

    # The first pays for what is loaded once.
    await one()
    memory = own_memory(server.pid)
    spending = _Spending(ground, server)
    seconds = await _all_at_once(report, server.name, one, count)
    report.add("pods-crowd: logins that failed", server.name, sum(failures.values()))
    for text, times in failures.items():
        print(f"\n{times} x {text}", file=sys.stderr)
    whole = spending
    spending.tell(report, server.name, "login", count, seconds)
    report.add("pods-crowd: each login, gateway KiB", server.name, (own_memory(server.pid) - memory) / count / 1024)
    await _idle(report, ground, server, count)
    spending = _Spending(ground, server)
    began = time.perf_counter()
    for connection in opened:
        connection.abort()
    await _until_gone(ground, leaving=True)
    report.add("pods-crowd: logout until the last pod was told to go, s", server.name, time.perf_counter() - began)
    await _until_gone(ground, leaving=False)
    seconds = time.perf_counter() - began
    report.add("pods-crowd: logout until the last pod was gone, s", server.name, seconds)
    spending.tell(report, server.name, "logout", count, seconds)
    whole.tell_requests(report, server.name, count)


async def _idle(report: Report, ground: Ground, server: Server, count: int) -> None:
    spending = _Spending(ground, server)
    await asyncio.sleep(_IDLE_FOR)
    spent = spending.by_gateway()
    report.add("pods-crowd: idle, gateway CPU ms a second", server.name, spent / _IDLE_FOR * 1000)
    report.add("pods-crowd: idle, gateway's requests a second", server.name, spending.requests() / _IDLE_FOR)


async def _alone(report: Report, ground: Ground, count: int) -> None:
    label = f"benchmark={token_hex(4)}"
    async with connected(ground.connection) as client:
        followers = Followers(client)

        async def one() -> float:
            began = time.perf_counter()
            name = f"alone-{token_hex(4)}"
            async with followers.follow(ground.namespace, name, label=label) as followed:
                labels = dict([label.split("=")])
                followed.follow_only(await client.create(PODS, ground.namespace, a_pod(name, labels=labels)))
                await until_ready(followed)
            return time.perf_counter() - began

        spending = _Spending(ground, None)
        seconds = await _all_at_once(report, "cluster alone", one, count)
        whole = spending
        spending.tell(report, "cluster alone", "login", count, seconds)
        pods, _ = await client.list(PODS, ground.namespace, label_selector=label)
        spending = _Spending(ground, None)
        began = time.perf_counter()
        await asyncio.gather(*(client.delete(PODS, ground.namespace, pod["metadata"]["name"]) for pod in pods))
        await _until_gone(ground, leaving=False)
        seconds = time.perf_counter() - began
        report.add("pods-crowd: logout until the last pod was gone, s", "cluster alone", seconds)
        spending.tell(report, "cluster alone", "logout", count, seconds)
        whole.tell_requests(report, "cluster alone", count)
        await followers.close()


async def _all_at_once(report: Report, name: str, one: Callable[[], Awaitable[float]], count: int) -> float:
    began = time.perf_counter()
    times = await asyncio.gather(*(one() for _ in range(count)))
    seconds = time.perf_counter() - began
    report.add("pods-crowd: first byte, first of all, s", name, min(times))
    report.add("pods-crowd: first byte, median, s", name, statistics.median(times))
    report.add("pods-crowd: first byte, last, s", name, max(times))
    return seconds


async def _until_gone(ground: Ground, *, leaving: bool) -> None:
    """Until there is no pod; with *leaving*, none that was not told to go."""
    async with asyncio.timeout(POD_LIMIT.total_seconds()), connected(ground.cluster.connection()) as client:
        while True:
            pods, _ = await client.list(PODS, ground.namespace)
            if all(leaving and pod["metadata"].get("deletionTimestamp") for pod in pods):
                return
            await asyncio.sleep(0.25)


@dataclass
class _Seen:
    cpu: Mapping[str, float]
    machine: float
    api: Counter[str]


class _Spending:
    """What gateway, cluster and machine have spent since this was made."""

    def __init__(self, ground: Ground, server: Server | None) -> None:
        self._ground = ground
        self._server = server
        self._before = self._now()

    def by_gateway(self) -> float:
        """Seconds of a processor."""
        return self._now().cpu["gateway"] - self._before.cpu["gateway"]

    def requests(self) -> int:
        """What the gateway asked the API for, watches and execs included."""
        now = self._now()
        return now.api["dispatched"] + now.api["exec"] - self._before.api["dispatched"] - self._before.api["exec"]

    def tell(self, report: Report, name: str, what: str, count: int, seconds: float) -> None:
        """Add what was spent on *count* things."""
        now, before = self._now(), self._before
        for part, spent in now.cpu.items():
            if part != "gateway" or self._server is not None:
                each = (spent - before.cpu[part]) / count * 1000
                report.add(f"pods-crowd: each {what}, {part}, CPU ms", name, each)
        report.add(
            f"pods-crowd: {what}s, processors busy %",
            name,
            (now.machine - before.machine) / seconds / len(os.sched_getaffinity(0)) * 100,
        )

    def tell_requests(self, report: Report, name: str, count: int) -> None:
        """Add what was asked for *count* logins from their begin to their end: only then the API counts an exec."""
        now, before = self._now().api, self._before.api
        for label, key in (
            ("requests to the API", "dispatched"),
            ("execs", "exec"),
            ("all the cluster's requests", "all"),
            ("watch events sent to anybody", "events"),
        ):
            report.add(f"pods-crowd: each login and logout, {label}", name, (now[key] - before[key]) / count)
        asked = max(1, now["dispatched"] - before["dispatched"])
        waited = (now["waited ms"] - before["waited ms"]) / asked
        report.add("pods-crowd: a request's wait in the API's queues, ms", name, waited)
        report.add("pods-crowd: requests that the API turned away", name, now["refused"] - before["refused"])

    def _now(self) -> _Seen:
        cpu = self._ground.cpu_by_part()
        cpu["gateway"] = cpu_seconds(self._server.pid, with_ended_children=False) if self._server is not None else 0.0
        return _Seen(cpu, machine_cpu_seconds(), _api_counts(self._ground))


def _api_counts(ground: Ground) -> Counter[str]:
    counts: Counter[str] = Counter()
    for name, labels, value in _COUNTED.findall(ground.cluster.kubectl("get", "--raw", "/metrics")):
        told = dict(_LABEL.findall(labels))
        ours = told.get("flow_schema") == SCHEMA
        if name == "apiserver_request_total":
            counts["all"] += int(float(value))
            if told.get("subresource") == "exec":
                counts["exec"] += int(float(value))
        elif name == "apiserver_watch_events_total":
            counts["events"] += int(float(value))
        elif name == "apiserver_flowcontrol_dispatched_requests_total" and ours:
            counts["dispatched"] += int(float(value))
        elif name == "apiserver_flowcontrol_rejected_requests_total" and ours:
            counts["refused"] += int(float(value))
        elif name == "apiserver_flowcontrol_request_wait_duration_seconds_sum" and ours:
            counts["waited ms"] += round(float(value) * 1000)
    return counts


def _tell_log(server: Server) -> None:
    """What the gateway warned of, by code."""
    assert server.log is not None
    codes: Counter[str] = Counter()
    for line in server.log.read_text(errors="replace").splitlines():
        try:
            codes[str(json.loads(line).get("code"))] += 1
        except ValueError:
            codes[line[:200]] += 1
    if codes:
        print(f"\n{server.name}, in the log: {dict(codes)}", file=sys.stderr)


def _progress(text: str) -> None:
    print(f"\r{text:<40}", end="" if sys.stderr.isatty() else "\n", file=sys.stderr, flush=True)
