"""What it costs a gateway to know of a thousand pods: bytes, processor and memory, by its way of watching.

The API server and etcd are real, the pods are objects that no node ever takes. Their statuses are those of a real pod,
told again for each of them in the order in which its node told them.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from secrets import token_hex
from typing import Any

from benchmarks.kubernetes import Ground, a_pod, connected, until_ready
from benchmarks.pods_watcher import Watcher, watching
from benchmarks.processes import cpu_of_all
from benchmarks.report import Report
from containerssh.backends.kubernetes.client import PODS, KubernetesClient
from containerssh.backends.kubernetes.following import Followers

_AT_ONCE = 16
_GATEWAYS = 10
_IDLE_FOR = 10.0
_SETTLED = 0.5


def compare(report: Report, ground: Ground, count: int) -> None:
    """*count* pods start: all of one gateway with one watch and with a watch for each, and a tenth of them."""
    asyncio.run(_compare(report, ground, count))


async def _compare(report: Report, ground: Ground, count: int) -> None:
    async with connected(ground.cluster.connection()) as client:
        statuses = await _statuses(client, ground)
        print(f"\na real pod's node told {len(statuses)} statuses until it was ready", file=sys.stderr)
        mark = token_hex(4)
        names = [f"watched-{mark}-{number}" for number in range(count)]
        began = time.perf_counter()
        await _each(names, lambda name: client.create(PODS, ground.namespace, _unscheduled(name, mark)))
        report.add("pods-watch: creating, pods per second", "API server", count / (time.perf_counter() - began))
        ways = {
            "one watch": (f"all={mark}", names),
            f"one of {_GATEWAYS} gateways": (f"gateway={mark}-0", [name for name in names if _gateway(name) == 0]),
            "a watch for each": ("", names),
        }
        for column, (label, followed) in ways.items():
            async with watching(ground, label, followed) as watcher:
                await _measure(report, column, ground, client, watcher, names, statuses)
        await _each(names, lambda name: client.delete(PODS, ground.namespace, name, grace_period=0))


async def _measure(
    report: Report,
    column: str,
    ground: Ground,
    client: KubernetesClient,
    watcher: Watcher,
    names: Sequence[str],
    statuses: Sequence[Mapping[str, Any]],
) -> None:
    first = watcher.spent()
    report.add("pods-watch: first look, s", column, watcher.began_in)
    report.add("pods-watch: first look, watcher CPU s", column, first.cpu)
    report.add("pods-watch: first look, MiB received", column, first.received / (1 << 20))
    report.add("pods-watch: watcher, KiB for each pod", column, watcher.growth / watcher.followed / 1024)

    api = _api_cpu(ground)
    began = time.perf_counter()
    for number, status in enumerate(statuses):
        mark = f"{column} {number}"
        await _each(names, partial(_tell, client, ground, {**status, "message": mark}))
        await watcher.all_have(mark)
    seconds = time.perf_counter() - began
    after = watcher.spent()
    events = watcher.followed * len(statuses)
    api = _api_cpu(ground) - api
    report.add("pods-watch: statuses told a second", column, len(names) * len(statuses) / seconds)
    report.add("pods-watch: bytes received for each event", column, (after.received - first.received) / events)
    report.add("pods-watch: watcher CPU µs for each event", column, (after.cpu - first.cpu) / events * 1e6)
    report.add("pods-watch: API server CPU ms for each status", column, api / len(names) / len(statuses) * 1000)

    api = _api_cpu(ground)
    await asyncio.sleep(_IDLE_FOR)
    idle = watcher.spent()
    report.add("pods-watch: idle, bytes received a second", column, (idle.received - after.received) / _IDLE_FOR)
    report.add("pods-watch: idle, watcher CPU ms a second", column, (idle.cpu - after.cpu) / _IDLE_FOR * 1000)
    report.add("pods-watch: idle, API server CPU ms a second", column, (_api_cpu(ground) - api) / _IDLE_FOR * 1000)


async def _statuses(client: KubernetesClient, ground: Ground) -> list[Mapping[str, Any]]:
    """What the watch said of a real pod until it was ready."""
    name = f"real-{token_hex(4)}"
    told: list[Mapping[str, Any]] = []
    async with Followers(client).follow(ground.namespace, name) as followed:
        await client.create(PODS, ground.namespace, a_pod(name))

        async def listen() -> None:
            watch = client.watch(PODS, ground.namespace, field_selector=f"metadata.name={name}")
            async with aclosing(watch) as events:
                async for event in events:
                    told.append(event.object["status"])  # noqa: PERF401  the list has to be there when this is cancelled

        listening = asyncio.create_task(listen())
        await until_ready(followed)
        await asyncio.sleep(_SETTLED)
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
    await client.delete(PODS, ground.namespace, name)
    return told


def _unscheduled(name: str, mark: str) -> dict[str, Any]:
    labels = {"all": mark, "gateway": f"{mark}-{_gateway(name)}"}
    return a_pod(name, labels=labels, schedulerName="nobody")


def _gateway(name: str) -> int:
    return int(name.rpartition("-")[2]) % _GATEWAYS


async def _tell(client: KubernetesClient, ground: Ground, status: Mapping[str, Any], name: str) -> None:
    await client.patch(PODS, ground.namespace, name, {"status": status}, part="status")


async def _each(names: Sequence[str], what: Callable[[str], Awaitable[object]]) -> None:
    room = asyncio.Semaphore(_AT_ONCE)

    async def one(name: str) -> None:
        async with room:
            await what(name)

    await asyncio.gather(*(one(name) for name in names))


def _api_cpu(ground: Ground) -> float:
    return cpu_of_all(int((ground.cluster.folder / "pid" / "kube-apiserver").read_text()))
