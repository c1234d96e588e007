"""What a cluster does to pods that are in use: budgets, preemption, a restart of its API; and a cluster over IPv6."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from containerssh.backends.kubernetes.backend import KubernetesBackend
from containerssh.config.kubernetes import KubernetesConfig
from containerssh.core.errors import BackendError
from containerssh.core.handlers import ConnectionHandler
from containerssh.core.instance import open_instance
from tests.support.cluster import BUSYBOX, APIRefused, Cluster
from tests.support.docker import Channel, a_login
from tests.support.pods import config, logged_in, no_pods, pods, run
from tests.support.relay import relay_to
from tests.support.services import wait_until
from tests.support.waiting import until

pytestmark = pytest.mark.root


@pytest.fixture
async def backend(tmp_path: Path) -> AsyncIterator[KubernetesBackend]:
    with open_instance(tmp_path / "state", tmp_path / "run") as instance:
        made = KubernetesBackend(instance)
        try:
            yield made
        finally:
            await made.close()


@asynccontextmanager
async def working(handler: ConnectionHandler) -> AsyncIterator[Channel]:
    """The channel of a session whose program runs for long."""
    channel = Channel()
    async with handler.session(channel) as session:
        await session.run_command("echo up; sleep 600")
        await until(lambda: b"up" in channel.out.data)
        yield channel


def evict(cluster: Cluster, namespace: str, name: str) -> None:
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
    cluster.ask(f"/api/v1/namespaces/{namespace}/pods/{name}/eviction", "POST", body)


async def test_a_budget_keeps_a_pod_in_use_from_being_evicted(
    cluster: Cluster, namespace: str, backend: KubernetesBackend
) -> None:
    budgets = f"/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets"
    settings = config(cluster, namespace, metadata={"labels": {"role": "guest"}})
    async with logged_in(backend, a_login(), settings) as handler, working(handler) as channel:
        (pod,) = pods(cluster, namespace)
        name = pod["metadata"]["name"]
        spec = {"minAvailable": 1, "selector": {"matchLabels": {"role": "guest"}}}
        cluster.ask(budgets, "POST", {"metadata": {"name": "guests"}, "spec": spec})
        await asyncio.to_thread(
            wait_until, lambda: _counted(cluster, f"{budgets}/guests") == 1, within=20, what="the budget counts the pod"
        )
        with pytest.raises(APIRefused, match="disruption budget"):
            evict(cluster, namespace, name)
        assert await run(handler, "echo in") == (b"in\n", 0)
        cluster.ask(f"{budgets}/guests", "DELETE")
        await asyncio.to_thread(wait_until, lambda: _evicts(cluster, namespace, name), within=20, what="the eviction")
        end = await channel.ended(30)
    assert isinstance(end, BackendError)
    assert end.user_message == "The cluster has evicted the pod."


def _counted(cluster: Cluster, budget: str) -> int:
    """How many pods the controllers know a budget to hold for."""
    count: int = cluster.ask(budget)["status"].get("currentHealthy", 0)
    return count


def _evicts(cluster: Cluster, namespace: str, name: str) -> bool:
    try:
        evict(cluster, namespace, name)
    except APIRefused:
        return False
    return True


@pytest.fixture
def important(cluster: Cluster) -> Iterator[str]:
    """A class of pods that others make room for."""
    classes = "/apis/scheduling.k8s.io/v1/priorityclasses"
    cluster.ask(classes, "POST", {"metadata": {"name": "important"}, "value": 1000})
    yield "important"
    cluster.ask(f"{classes}/important", "DELETE")


async def test_a_pod_that_makes_room_for_a_more_important_one_ends_its_sessions_with_that_reason(
    cluster: Cluster, namespace: str, backend: KubernetesBackend, important: str
) -> None:
    (node,) = cluster.ask("/api/v1/nodes")["items"]
    cores = float(node["status"]["allocatable"]["cpu"])
    most = {"resources": {"requests": {"cpu": f"{int(cores * 600)}m"}}}
    async with (
        logged_in(backend, a_login(), config(cluster, namespace, container=most)) as handler,
        working(handler) as channel,
    ):
        container = {"name": "shell", "image": BUSYBOX, "imagePullPolicy": "Never", "command": ["sleep", "60"], **most}
        spec = {
            "priorityClassName": important,
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
            "containers": [container],
        }
        body = {"metadata": {"name": "important"}, "spec": spec}
        cluster.ask(f"/api/v1/namespaces/{namespace}/pods", "POST", body)
        end = await channel.ended(30)
    assert isinstance(end, BackendError)
    assert end.user_message == "The pod had to make room for a more important one."
    assert [pod["metadata"]["name"] for pod in pods(cluster, namespace)] == ["important"]


async def test_an_api_server_that_ends_ends_the_sessions_through_it_without_success_and_the_pod_goes_when_it_is_back(
    cluster: Cluster, namespace: str, backend: KubernetesBackend
) -> None:
    settings = config(cluster, namespace)
    async with logged_in(backend, a_login(), settings) as handler, working(handler) as channel:
        await asyncio.to_thread(cluster.kill_api_server)
        try:
            end = await channel.ended(30)
        finally:
            await asyncio.to_thread(cluster.start_api_server)
    assert isinstance(end, BackendError)
    await no_pods(cluster, namespace)
    async with logged_in(backend, a_login(), settings) as handler:
        assert await run(handler, "echo in again") == (b"in again\n", 0)


async def test_a_cluster_is_reached_by_ipv6_and_forwards_go_to_ipv6_in_the_pod(
    cluster: Cluster, namespace: str, backend: KubernetesBackend, tmp_path: Path
) -> None:
    pki = cluster.folder / "pki"

    def data(name: str) -> str:
        return base64.b64encode((pki / name).read_bytes()).decode()

    async with relay_to(cluster.port, at="::1") as relay:
        place = {"server": f"https://[::1]:{relay.port}", "certificate-authority-data": data("ca.crt")}
        user = {"client-certificate-data": data("admin.crt"), "client-key-data": data("admin.key")}
        file = tmp_path / "kubeconfig"
        file.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "six",
                    "clusters": [{"name": "six", "cluster": place}],
                    "users": [{"name": "admin", "user": user}],
                    "contexts": [{"name": "six", "context": {"cluster": "six", "user": "admin"}}],
                }
            )
        )
        file.chmod(0o600)
        settings: KubernetesConfig = config(cluster, namespace, connection={"kubeConfig": str(file)})
        async with logged_in(backend, a_login(), settings) as handler:
            assert relay.opened > 1
            command = "echo page >/tmp/a; httpd -p '[::1]:8000' -h /tmp"
            assert await run(handler, command) == (b"", 0)
            stream = await handler.connect_tcp("::1", 8000)
            await stream.write(b"GET /a HTTP/1.0\r\n\r\n")
            found = b""
            while received := await stream.read():
                found += received
            await stream.close()
            assert found.endswith(b"page\n")
    await no_pods(cluster, namespace)
