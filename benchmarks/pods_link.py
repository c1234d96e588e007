"""
Bulk data of a login in a pod: through the API server, by the agent's own connection, and by ``kubectl exec``.

API server, kubelet, runtime, gateway, agent and client share this machine's processors.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

from benchmarks import measure
from benchmarks.kubernetes import Ground, with_agent_image
from benchmarks.processes import cpu_seconds, machine_cpu_seconds
from benchmarks.report import Report
from benchmarks.servers import Client, Server
from tests.support.cluster import BUSYBOX

CIPHER = "aes128-gcm@openssh.com"
_SETTLED = 0.2
"""Seconds for the last of a transfer's work."""


@dataclass(frozen=True)
class Kubectl(Client):
    """Takes the place of ssh, and of the gateway with it."""

    ground: Ground
    pod: str

    def command(self, server: Server, remote: str, *, cipher: str, kex: str = "") -> list[str]:
        """The command line; none of what it is asked for has a meaning but *remote*."""
        cluster = self.ground.cluster
        where = ["--kubeconfig", str(cluster.kubeconfig), "--namespace", self.ground.namespace]
        program = str(cluster.binaries / "kubectl")
        return [program, *where, "exec", "--stdin", self.pod, "--", "sh", "-c", remote]


def compare(report: Report, client: Client, ground: Ground, folder: Path, *, rounds: int, size: int) -> None:
    """Transfers of *size* MiB in each direction, *rounds* of them, in turn."""
    with ExitStack() as stack:
        pod = stack.enter_context(_pod(ground))
        kubectl = Kubectl(client.folder, ground, pod)
        ways: list[tuple[Client, Server]] = [(kubectl, Server("kubectl exec", 0, "", 0))]
        for mode in ("exec", "direct"):
            gateway = ground.gateway(mode, folder / f"link-{mode}", client, link=mode, **with_agent_image())
            ways.append((client, stack.enter_context(gateway)))
        for way, server in ways:
            # The first pays for what is done once.
            measure.upload(way, server, CIPHER, 1)
        for _ in range(rounds):
            for way, server in ways:
                _transfer(report, ground, way, server, size)


def _transfer(report: Report, ground: Ground, client: Client, server: Server, size: int) -> None:
    for name, measured in (("out", measure.download), ("in", measure.upload)):
        before = _spent(ground, server)
        speed = measured(client, server, CIPHER, size)
        time.sleep(_SETTLED)
        spent = {what: seconds - before[what] for what, seconds in _spent(ground, server).items()}
        report.add(f"pod, {name}, MiB/s", server.name, speed)
        for what, seconds in spent.items():
            report.add(f"pod, {name}, {what} CPU s/GiB", server.name, seconds * 1024 / size)


def _spent(ground: Ground, server: Server) -> dict[str, float]:
    """Seconds of processor time so far; a login's start and end are in it."""
    found = {**ground.cpu_by_part(), "whole machine": machine_cpu_seconds()}
    return {"gateway": cpu_seconds(server.pid, with_ended_children=False), **found} if server.pid else found


@contextmanager
def _pod(ground: Ground) -> Iterator[str]:
    """A pod for kubectl, ready."""
    name = f"bench-{token_hex(4)}"
    container = {"name": "shell", "image": BUSYBOX, "imagePullPolicy": "Never", "command": ["sleep", "3600"]}
    spec = {"containers": [container], "dnsPolicy": "Default", "terminationGracePeriodSeconds": 0}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
    ground.cluster.apply(pod, namespace=ground.namespace)
    where = ("--namespace", ground.namespace)
    ground.cluster.kubectl(*where, "wait", "--for=condition=Ready", f"pod/{name}", "--timeout=50s")
    try:
        yield name
    finally:
        ground.cluster.kubectl(*where, "delete", "pod", name, "--wait=false")
