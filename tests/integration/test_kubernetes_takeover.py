"""A server is taken for dead: it may come back in the last moment, and others may see to what it left, too."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from containerssh.backends.kubernetes.client import LEASES, PODS, KubernetesClient
from containerssh.backends.kubernetes.kinds import Kind
from containerssh.backends.kubernetes.lease import LABEL_GATEWAY, Lease, Rhythm
from containerssh.backends.kubernetes.presence import Presence
from containerssh.config.kubernetes_connection import KubernetesConnectionConfig
from tests.support.cluster import Cluster
from tests.support.pods import pods

pytestmark = pytest.mark.root

BY_HAND = Rhythm(renew=0.5, lasts=1.2, look=600, look_at_pods=0.0)
"""
Nothing is looked at by itself, and Leases run out soon. A renewal has to be answered within its own time: one that is
late makes the server forget how long it has seen others' Leases unchanged.
"""
RUN_OUT = 1.3
DEAD = "containerssh-dead"


class Disturbed(KubernetesClient):
    """Something happens *before_leases* or *after_pods* are listed, and *after_removal* of one pod."""

    before_leases: Callable[[], Awaitable[None]] | None = None
    after_pods: Callable[[], Awaitable[None]] | None = None
    after_removal: Callable[[], Awaitable[None]] | None = None

    async def list(self, kind: Kind, namespace: str, **how: Any) -> Any:
        if kind == LEASES and self.before_leases is not None:
            await self.before_leases()
        found = await super().list(kind, namespace, **how)
        if kind == PODS and self.after_pods is not None:
            await self.after_pods()
        return found

    async def delete(self, kind: Kind, namespace: str, name: str, **how: Any) -> None:
        await super().delete(kind, namespace, name, **how)
        if kind == PODS and self.after_removal is not None:
            await self.after_removal()


def a_pod(name: str, **labels: str) -> dict[str, Any]:
    """One that never runs: nothing but its description matters here."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "schedulerName": "nobody",
            "automountServiceAccountToken": False,
            "containers": [{"name": "shell", "image": "localhost/none:1"}],
        },
    }


LEFT = {"containerssh_instance": "dead", "containerssh_lease": DEAD}


@asynccontextmanager
async def a_client(cluster: Cluster) -> AsyncIterator[Disturbed]:
    made = Disturbed(KubernetesConnectionConfig.model_validate(cluster.connection()), timedelta(seconds=10))
    try:
        yield made
    finally:
        await made.close()


@asynccontextmanager
async def remover(client: KubernetesClient, namespace: str, instance: str = "observer") -> AsyncIterator[Presence]:
    """It has seen all Leases, and those that are not renewed have run out for it."""
    made = Presence(client, namespace, instance, set(), BY_HAND, stays=True)
    try:
        await made.lease()
        await made.look()
        await asyncio.sleep(RUN_OUT)
        yield made
    finally:
        await made.close(release=True)


async def leave(client: KubernetesClient, namespace: str, *names: str) -> None:
    """What a killed server left."""
    body = {"metadata": {"name": DEAD, "labels": {LABEL_GATEWAY: "true"}}, "spec": {"holderIdentity": "dead"}}
    await client.create(LEASES, namespace, body)
    for name in names:
        await client.create(PODS, namespace, a_pod(name, **LEFT))


def renewing(client: KubernetesClient, namespace: str) -> Callable[[], Awaitable[None]]:
    async def renew() -> None:
        await client.patch(LEASES, namespace, DEAD, {"spec": {"renewTime": "2026-01-01T00:00:00.000000Z"}})

    return renew


async def leases(client: KubernetesClient, namespace: str) -> list[str]:
    found, _ = await client.list(LEASES, namespace, label_selector=LABEL_GATEWAY)
    return [str(lease["metadata"]["name"]) for lease in found]


def names(cluster: Cluster, namespace: str) -> set[str]:
    return {pod["metadata"]["name"] for pod in pods(cluster, namespace)}


async def test_a_server_that_comes_back_before_its_pods_are_removed_keeps_them(
    cluster: Cluster, namespace: str
) -> None:
    async with a_client(cluster) as client:
        await leave(client, namespace, "one", "two")
        async with remover(client, namespace) as presence:
            client.after_pods = renewing(client, namespace)
            await presence.look()
            client.after_pods = None
            assert names(cluster, namespace) == {"one", "two"}
            assert DEAD in await leases(client, namespace)
            await presence.look()
            assert names(cluster, namespace) == {"one", "two"}, "it lives from its renewal on"
            await asyncio.sleep(RUN_OUT)
            await presence.look()
            assert names(cluster, namespace) == set()
            assert DEAD not in await leases(client, namespace)


async def test_a_server_that_comes_back_while_its_pods_are_removed_keeps_its_lease(
    cluster: Cluster, namespace: str
) -> None:
    async with a_client(cluster) as client:
        await leave(client, namespace, "one")
        async with remover(client, namespace) as presence:
            client.after_removal = renewing(client, namespace)
            await presence.look()
            assert names(cluster, namespace) == set()
            assert DEAD in await leases(client, namespace)


async def test_a_server_that_comes_back_while_its_pods_are_removed_keeps_the_rest_of_them(
    cluster: Cluster, namespace: str
) -> None:
    async with a_client(cluster) as client:
        await leave(client, namespace, *(f"left-{number:02}" for number in range(20)))
        async with remover(client, namespace) as presence:
            client.after_removal = renewing(client, namespace)
            await presence.look()
            assert names(cluster, namespace) == {f"left-{number:02}" for number in range(8, 20)}
            assert DEAD in await leases(client, namespace)
            client.after_removal = None
            await presence.look()
            assert len(names(cluster, namespace)) == 12, "it lives from its renewal on"
            await asyncio.sleep(RUN_OUT)
            await presence.look()
            assert names(cluster, namespace) == set()


async def test_a_look_that_is_answered_late_makes_no_lease_older(cluster: Cluster, namespace: str) -> None:
    async with a_client(cluster) as client, a_client(cluster) as other:
        await leave(client, namespace, "one")
        async with remover(client, namespace) as presence:

            async def wait_for_a_renewal() -> None:
                client.before_leases = None
                await asyncio.sleep(RUN_OUT)
                await renewing(other, namespace)()

            client.before_leases = wait_for_a_renewal
            await presence.look()
            await presence.look()
            assert names(cluster, namespace) == {"one"}


async def test_a_lease_that_comes_late_keeps_the_pods_that_name_it(cluster: Cluster, namespace: str) -> None:
    async with a_client(cluster) as client:
        await client.create(PODS, namespace, a_pod("early", **LEFT))

        async def come() -> None:
            client.after_pods = None
            await leave(client, namespace)

        async with remover(client, namespace) as presence:
            client.after_pods = come
            await presence.look()
            assert names(cluster, namespace) == {"early"}


async def test_two_servers_that_remove_what_a_third_left_do_not_disturb_each_other(
    cluster: Cluster, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with a_client(cluster) as one, a_client(cluster) as two:
        await leave(one, namespace, *(f"left-{number}" for number in range(12)))
        async with remover(one, namespace, "a") as first, remover(two, namespace, "b") as second:
            living = a_pod("living", containerssh_instance="c", containerssh_lease="containerssh-b")
            await one.create(PODS, namespace, living)
            await asyncio.gather(first.look(), second.look())
            assert names(cluster, namespace) == {"living"}
            assert sorted(await leases(one, namespace)) == ["containerssh-a", "containerssh-b"]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_pod_that_has_taken_a_removed_ones_name_is_not_removed(cluster: Cluster, namespace: str) -> None:
    async with a_client(cluster) as client:
        await leave(client, namespace, "same")

        async def replace() -> None:
            client.after_pods = None
            await client.delete(PODS, namespace, "same")
            await client.create(PODS, namespace, a_pod("same"))

        async with remover(client, namespace) as presence:
            client.after_pods = replace
            await presence.look()
            assert names(cluster, namespace) == {"same"}


async def test_a_server_whose_lease_was_replaced_takes_the_new_one_and_says_so(
    cluster: Cluster, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with a_client(cluster) as client:
        lease = Lease(client, namespace, "dead", BY_HAND)
        await lease.renew()
        assert not caplog.text
        await client.delete(LEASES, namespace, DEAD)
        await leave(client, namespace)
        await lease.renew()
        assert "took it for dead" in caplog.text
        (found,) = (await client.list(LEASES, namespace, label_selector=LABEL_GATEWAY))[0]
        assert found["spec"].get("renewTime")
        await lease.release()
        assert await leases(client, namespace) == []
