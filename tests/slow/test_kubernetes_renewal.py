"""A server that lives renews its Lease in time, whatever becomes of single requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from containerssh.backends.kubernetes.client import LEASES, PODS, KubernetesClient
from containerssh.backends.kubernetes.lease import LABEL_GATEWAY, Rhythm
from containerssh.backends.kubernetes.presence import Presence
from tests.support.cluster import Cluster
from tests.support.kubernetes import connected
from tests.support.pods import pods
from tests.support.relay import relay_to
from tests.support.waiting import until

pytestmark = pytest.mark.root

LASTS = 5.0
LEASES_RULE = {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["*"]}
PODS_RULE = {"apiGroups": [""], "resources": ["pods"], "verbs": ["*"]}


@asynccontextmanager
async def present(client: KubernetesClient, namespace: str, instance: str) -> AsyncIterator[Presence]:
    made = Presence(client, namespace, instance, set(), Rhythm.of(LASTS), stays=True)
    try:
        yield made
    finally:
        await made.close(release=True)


@asynccontextmanager
async def observed(cluster: Cluster, namespace: str) -> AsyncIterator[KubernetesClient]:
    """Another server is there, and has seen the Leases of now."""
    async with connected(cluster.connection()) as client, present(client, namespace, "observer") as observer:
        await observer.lease()
        await observer.look()
        yield client


async def a_login(client: KubernetesClient, namespace: str, presence: Presence) -> None:
    """Its pod: it never runs, since nothing but its description matters here."""
    labels = {"containerssh_instance": "elsewhere", "containerssh_lease": await presence.lease()}
    container = {"name": "shell", "image": "localhost/none:1"}
    spec = {"schedulerName": "nobody", "automountServiceAccountToken": False, "containers": [container]}
    await client.create(PODS, namespace, {"metadata": {"name": "used", "labels": labels}, "spec": spec})


async def renewals(client: KubernetesClient, namespace: str) -> dict[str, Any]:
    found, _ = await client.list(LEASES, namespace, label_selector=LABEL_GATEWAY)
    return {lease["metadata"]["name"]: lease["spec"]["renewTime"] for lease in found}


async def test_a_connection_that_is_lost_in_silence_costs_no_login_its_pod(cluster: Cluster, namespace: str) -> None:
    """As behind a load balancer that has forgotten it: a new one would be served."""
    async with relay_to(cluster.port) as relay:
        way = cluster.connection(host=f"https://127.0.0.1:{relay.port}")
        async with (
            connected(way) as client,
            present(client, namespace, "living") as living,
            observed(cluster, namespace) as other,
        ):
            await a_login(other, namespace, living)
            assert relay.opened == 1
            relay.strand()
            before = (await renewals(other, namespace))["containerssh-living"]
            await asyncio.sleep(2 * LASTS)
            assert (await renewals(other, namespace))["containerssh-living"] != before
            assert len(pods(cluster, namespace)) == 1


async def test_a_right_that_is_missing_for_a_moment_costs_no_login_its_pod(
    cluster: Cluster, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    """As while a RoleBinding is replaced."""
    token = cluster.token(namespace, [LEASES_RULE, PODS_RULE])
    way = {"host": cluster.address, "cacertFile": str(cluster.authorities), "bearerToken": token}
    path = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings"
    (binding,) = cluster.ask(path)["items"]
    async with (
        connected(way) as client,
        present(client, namespace, "living") as living,
        observed(cluster, namespace) as other,
    ):
        await a_login(other, namespace, living)
        cluster.ask(f"{path}/{binding['metadata']['name']}", "DELETE")
        await until(lambda: "Other servers cannot remove" in caplog.text)
        binding["metadata"] = {"name": binding["metadata"]["name"]}
        cluster.ask(path, "POST", binding)
        await asyncio.sleep(2 * LASTS)
        assert "containerssh-living" in await renewals(other, namespace)
        assert len(pods(cluster, namespace)) == 1
        assert await living.lease() == "containerssh-living"
