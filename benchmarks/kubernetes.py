"""Logins to pods: what a gateway adds to what the cluster itself needs, and to ``kubectl run``.

On a cluster of one node of its own (``make cluster``), whose API knows the gateway as a service account with the rights
that the manual asks for.
"""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest

from benchmarks import measure
from benchmarks.processes import cpu_of_all
from benchmarks.report import Report
from benchmarks.servers import KEX, Client, Server, containerssh
from containerssh.backends.kubernetes.client import PODS, KubernetesClient
from containerssh.backends.kubernetes.following import Followed, Followers
from containerssh.backends.kubernetes.progress import Ready, judge
from containerssh.config.kubernetes_connection import KubernetesConnectionConfig
from tests.support.cluster import BUSYBOX, Cluster, running_cluster
from tests.support.pods import AGENT_IMAGE, import_images, section

SCHEMA = "benchmark-gateway"
"""The API's flow schema that counts what the gateway asks, and how long that has to wait."""
RULES: list[Mapping[str, Any]] = [
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch", "create", "delete"]},
    {"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["get", "create"]},
    {"apiGroups": [""], "resources": ["events"], "verbs": ["list", "watch"]},
    {
        "apiGroups": ["coordination.k8s.io"],
        "resources": ["leases"],
        "verbs": ["get", "list", "create", "patch", "delete"],
    },
]
POD_LIMIT = timedelta(seconds=240)
_TIMEOUT = timedelta(seconds=60)
_PARTS = {
    "API server": ("kube-apiserver",),
    "etcd": ("etcd",),
    "scheduler, controllers": ("kube-scheduler", "kube-controller-manager"),
    "kubelet": ("kubelet",),
    "containerd, runc, pods": ("containerd", "node"),
}
_SPEC: dict[str, Any] = {
    "automountServiceAccountToken": False,
    "dnsPolicy": "Default",
    "enableServiceLinks": False,
    "terminationGracePeriodSeconds": 1,
}


@dataclass(frozen=True)
class Ground:
    """A cluster with a namespace for guests."""

    cluster: Cluster
    namespace: str
    connection: Mapping[str, object]
    """The gateway's, as ``kubernetes.connection`` has it."""

    def section(self, **pod: Any) -> dict[str, Any]:
        """The gateway's section; *pod* is laid over its ``pod``."""
        timeouts = {"podStart": f"{POD_LIMIT.total_seconds():.0f}s"}
        return section(self.cluster, self.namespace, connection=dict(self.connection), timeouts=timeouts, **pod)

    def cpu_by_part(self) -> dict[str, float]:
        """Seconds of a processor that each part of the cluster has taken so far."""
        folder = self.cluster.folder / "pid"
        return {
            part: sum(cpu_of_all(int((folder / name).read_text())) for name in names) for part, names in _PARTS.items()
        }

    @contextmanager
    def gateway(self, name: str, folder: Path, client: Client, **pod: Any) -> Iterator[Server]:
        """A server on this cluster."""
        with containerssh("kubernetes", folder, client, name=name, section=self.section(**pod)) as server:
            yield server


@contextmanager
def ground() -> Iterator[Ground]:
    """
    A cluster for this run.

    Raises:
        SystemExit: none was built, or this is not root.
    """
    try:
        with running_cluster() as cluster, cluster.namespace() as namespace:
            import_images(cluster)
            token = cluster.token(namespace, RULES)
            cluster.apply(_flow_schema(namespace))
            authorities = str(cluster.authorities)
            yield Ground(cluster, namespace, {"host": cluster.address, "cacertFile": authorities, "bearerToken": token})
    except pytest.skip.Exception as exc:
        raise SystemExit(f"kubernetes: {exc}") from None


def compare(report: Report, client: Client, ground: Ground, folder: Path, rounds: int) -> None:
    """One login after the other, in turn with the same by ``kubectl`` and by the API alone."""
    with (
        ground.gateway("agent uploaded", folder / "pods-upload", client) as uploading,
        ground.gateway("agentImage", folder / "pods-image", client, **with_agent_image()) as installing,
    ):
        for server in (uploading, installing):
            measure.login(client, server, kex=KEX)
        for _ in range(rounds):
            for server in (uploading, installing):
                taken = measure.login(client, server, kex=KEX)
                report.add("pods: login to first byte, ms", server.name, taken.first_byte)
            report.add("pods: login to first byte, ms", "kubectl run -i", by_kubectl(ground))
            ready, output = asyncio.run(by_api(ground))
            report.add("pods: login to first byte, ms", "API: create, watch, exec by SPDY", output)
            report.add("pods: created to ready, ms", "API: create, watch, exec by SPDY", ready)


def with_agent_image() -> dict[str, Any]:
    """That the agent comes from an image."""
    return {"agentImage": AGENT_IMAGE, "agentImagePullPolicy": "Never"}


def by_kubectl(ground: Ground) -> float:
    """Milliseconds until a shell that ``kubectl run`` starts in a pod of its own has answered."""
    name = f"kubectl-{token_hex(4)}"
    command = [str(ground.cluster.binaries / "kubectl"), "--kubeconfig", str(ground.cluster.kubeconfig)]
    command += ["--namespace", ground.namespace, "run", name, f"--image={BUSYBOX}", "--image-pull-policy=Never"]
    overrides = '{"spec":{"automountServiceAccountToken":false,"dnsPolicy":"Default","enableServiceLinks":false}}'
    command += ["--restart=Never", f"--overrides={overrides}", "--quiet", "--stdin", "--rm", "--", "sh"]
    began = time.perf_counter()
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"echo ready\n")
        first = process.stdout.readline()
        taken = (time.perf_counter() - began) * 1000
        process.stdin.close()
        process.wait(measure.LIMIT)
    if first != b"ready\n":
        raise measure.MeasurementError(f"kubectl run: {first!r}, status {process.returncode}")
    return taken


async def by_api(ground: Ground) -> tuple[float, float]:
    """
    What ContainerSSH 0.6 does for a login, without SSH and without its agent: create a pod, watch it until it is ready,
    start the program by SPDY. Milliseconds until it was ready, and until the first byte.
    """
    async with connected(ground.connection) as client:
        client._streams.by_spdy = True
        began = time.perf_counter()
        name = f"api-{token_hex(4)}"
        async with Followers(client).follow(ground.namespace, name) as followed:
            await client.create(PODS, ground.namespace, a_pod(name))
            await until_ready(followed)
            ready = time.perf_counter()
            async with client.exec(ground.namespace, name, "shell", ["sh", "-c", "echo ready"]) as stream:
                if await stream.stdout.read() != b"ready\n":
                    raise measure.MeasurementError("the program in the pod says something else")
                taken = time.perf_counter()
        await client.delete(PODS, ground.namespace, name)
    return (ready - began) * 1000, (taken - began) * 1000


@asynccontextmanager
async def connected(connection: Mapping[str, object]) -> AsyncIterator[KubernetesClient]:
    """The gateway's own client."""
    client = KubernetesClient(KubernetesConnectionConfig.model_validate(connection), _TIMEOUT)
    try:
        yield client
    finally:
        await client.close()


def a_pod(name: str, *, labels: Mapping[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    """A pod in which a shell waits; *spec* is laid over its spec."""
    console = {
        "name": "shell",
        "image": BUSYBOX,
        "imagePullPolicy": "Never",
        "command": ["sh", "-c", "trap exit TERM; while sleep 1; do :; done"],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": dict(labels or {})},
        "spec": {**_SPEC, "containers": [console], **spec},
    }


async def until_ready(followed: Followed) -> None:
    """Wait until programs can be started in a pod."""
    async with asyncio.timeout(POD_LIMIT.total_seconds()):
        while followed.pod is None or not isinstance(judge(followed.pod, "shell"), Ready):
            await followed.news()


def _flow_schema(namespace: str) -> dict[str, Any]:
    """Service accounts of *namespace* are treated as all are, and counted apart."""
    rule = {
        "subjects": [{"kind": "Group", "group": {"name": f"system:serviceaccounts:{namespace}"}}],
        "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"]}],
    }
    return {
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1",
        "kind": "FlowSchema",
        "metadata": {"name": SCHEMA},
        "spec": {
            "priorityLevelConfiguration": {"name": "workload-low"},
            "matchingPrecedence": 1000,
            "distinguisherMethod": {"type": "ByUser"},
            "rules": [rule],
        },
    }
