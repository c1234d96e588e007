"""What servers leave in a real cluster, and who removes it when something is in the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from containerssh.backends.kubernetes.backend import KubernetesBackend
from containerssh.backends.kubernetes.client import LEASES, KubernetesClient
from containerssh.backends.kubernetes.errors import APIError
from containerssh.backends.kubernetes.kinds import Kind
from containerssh.backends.kubernetes.launch import OwnPod, PodError
from containerssh.backends.kubernetes.lease import Rhythm
from containerssh.backends.kubernetes.presence import Presence
from containerssh.config.kubernetes import KubernetesConfig
from containerssh.config.kubernetes_connection import KubernetesConnectionConfig
from containerssh.core.instance import Instance
from tests.support.cluster import Cluster
from tests.support.kubernetes import connected
from tests.support.pods import pods
from tests.support.services import wait_until
from tests.support.waiting import until

pytestmark = pytest.mark.root

QUICK = Rhythm(renew=0.2, lasts=1.0, look=0.2, look_at_pods=0.2)
PODS_BUT_DELETE = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch", "create"]}


def leases_rule(*verbs: str) -> dict[str, Any]:
    return {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": list(verbs)}


def delete_rule(*names: str) -> dict[str, Any]:
    return {"apiGroups": [""], "resources": ["pods"], "verbs": ["delete"], "resourceNames": list(names)}


ALL_LEASES = leases_rule("get", "list", "create", "patch", "delete")


@pytest.fixture(scope="module")
def home(cluster: Cluster) -> Iterator[str]:
    with cluster.namespace() as name:
        yield name


def leave(cluster: Cluster, namespace: str, *names: str, **labels: str) -> None:
    """Pods that never run: nothing but their description matters here."""
    cluster.apply(
        *(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, "labels": labels},
                "spec": {
                    "schedulerName": "nobody",
                    "automountServiceAccountToken": False,
                    "containers": [{"name": "shell", "image": "localhost/none:1"}],
                },
            }
            for name in names
        ),
        namespace=namespace,
    )


def names(cluster: Cluster, namespace: str) -> set[str]:
    return {pod["metadata"]["name"] for pod in pods(cluster, namespace)}


def leases(cluster: Cluster, namespace: str) -> set[str]:
    return {
        item["metadata"]["name"]
        for item in cluster.ask(f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases")["items"]
    }


async def there(cluster: Cluster, namespace: str, wanted: set[str]) -> None:
    """Wait until these pods are there and no others."""
    await asyncio.to_thread(wait_until, lambda: names(cluster, namespace) == wanted, within=20, what=f"only {wanted}")


def account(cluster: Cluster, namespace: str, *rules: dict[str, Any]) -> dict[str, object]:
    token = cluster.token(namespace, rules)
    return {"host": cluster.address, "cacertFile": str(cluster.authorities), "bearerToken": token}


@asynccontextmanager
async def present(
    client: KubernetesClient, namespace: str, instance: str = "observer", *, release: bool = True
) -> AsyncIterator[Presence]:
    made = Presence(client, namespace, instance, set(), QUICK, stays=True)
    try:
        yield made
    finally:
        await made.close(release=release)


def allow(cluster: Cluster, namespace: str, *rules: dict[str, Any]) -> None:
    """From now on everybody's accounts in *namespace* may do that, too."""
    cluster.apply(
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": {"name": "more"},
            "rules": list(rules),
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "more"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "more"},
            "subjects": [{"kind": "Group", "name": f"system:serviceaccounts:{namespace}"}],
        },
        namespace=namespace,
    )


# -- what cannot be removed ----------------------------------------------------------------------------------


async def test_a_pod_that_cannot_be_removed_keeps_no_other_and_is_told_once_and_tried_again(
    cluster: Cluster, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    leave(cluster, namespace, "a-stuck", "b", "c", containerssh_instance="dead", containerssh_lease="containerssh-dead")
    dead = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "containerssh-dead", "labels": {"containerssh_gateway": "true"}},
        "spec": {"holderIdentity": "dead", "leaseDurationSeconds": 1},
    }
    cluster.apply(dead, namespace=namespace)
    connection = account(cluster, namespace, PODS_BUT_DELETE, ALL_LEASES, delete_rule("b", "c"))
    async with connected(connection) as client, present(client, namespace):
        await there(cluster, namespace, {"a-stuck"})
        await until(lambda: "a-stuck" in caplog.text)
        await asyncio.sleep(1)
        assert caplog.text.count("cannot be removed; that is tried again") == 1
        assert "containerssh-dead" in leases(cluster, namespace), "it says whose the pod is"
        allow(cluster, namespace, delete_rule("a-stuck"))
        await there(cluster, namespace, set())
        await asyncio.to_thread(
            wait_until, lambda: "containerssh-dead" not in leases(cluster, namespace), within=10, what="no Lease"
        )


async def test_what_dead_instances_of_this_machine_left_is_removed_but_for_what_cannot_be(
    cluster: Cluster, namespace: str, instance: Instance, caplog: pytest.LogCaptureFixture
) -> None:
    leave(cluster, namespace, "a-stuck", "b", containerssh_instance="0" * 16)
    leave(cluster, namespace, "c", containerssh_instance="1" * 16)
    connection = account(cluster, namespace, PODS_BUT_DELETE, ALL_LEASES, delete_rule("b", "c"))
    settings = KubernetesConfig.model_validate(
        {"connection": connection, "pod": {"metadata": {"namespace": namespace}}}
    )
    backend = KubernetesBackend(instance, QUICK)
    try:
        dead = ["0" * 16, "1" * 16]
        assert await backend.reap(settings, dead) == 2
        assert (names(cluster, namespace), backend.outlived) == ({"a-stuck"}, {"0" * 16})
        assert await backend.reap(settings, dead) == 0
        assert backend.outlived == {"0" * 16}, "it is not forgotten"
        assert caplog.text.count("cannot be removed; that is tried again") == 1
    finally:
        await backend.close()


# -- the first Lease -----------------------------------------------------------------------------------------


class LeaseLess(KubernetesClient):
    """Its API server is busy whenever a Lease is to be created."""

    tries = 0

    async def create(self, kind: Kind, namespace: str, body: Any) -> dict[str, Any]:
        if kind == LEASES:
            self.tries += 1
            raise APIError("creating the lease", status=503, message="busy")
        return await super().create(kind, namespace, body)


async def test_a_pod_from_before_the_first_lease_is_removed_by_others_when_its_server_is_killed(
    cluster: Cluster, home: str
) -> None:
    client = LeaseLess(KubernetesConnectionConfig.model_validate(cluster.connection()), timedelta(seconds=10))
    try:
        async with present(client, home, "killed", release=False) as doomed:
            name = await doomed.lease()
            assert (name, client.tries > 0) == ("containerssh-killed", True)
            leave(cluster, home, "early", containerssh_instance="killed", containerssh_lease=name)
    finally:
        await client.close()
    async with connected(cluster.connection()) as other, present(other, home):
        await there(cluster, home, set())


@pytest.mark.parametrize("verbs", [("list",), ("list", "get", "create", "delete")], ids=["none", "but not renewed"])
async def test_where_a_lease_may_not_be_had_or_not_be_renewed_no_pod_names_one(
    cluster: Cluster, home: str, verbs: tuple[str, ...]
) -> None:
    """Others would take its server for dead as soon as it has run out."""
    rules = (PODS_BUT_DELETE, leases_rule(*verbs))
    async with connected(account(cluster, home, *rules)) as client, present(client, home, "lacking") as lacking:
        assert await lacking.lease() == ""
        assert "containerssh-lacking" not in leases(cluster, home)


async def test_without_the_right_to_list_leases_the_log_says_once_what_is_not_removed(
    cluster: Cluster, home: str, caplog: pytest.LogCaptureFixture
) -> None:
    rules = (PODS_BUT_DELETE, leases_rule("get", "create", "patch", "delete"))
    async with connected(account(cluster, home, *rules)) as client, present(client, home, "blind") as blind:
        assert await blind.lease() == "containerssh-blind"
        for _ in range(2):
            await blind.look()
    assert caplog.text.count("Pods of other servers are not removed") == 1


async def test_a_lease_that_is_renewed_by_another_connection_from_now_on_is_not_given_up(
    cluster: Cluster,
    namespace: str,
    instance: Instance,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As after a reload with other limits of the connection."""
    monkeypatch.setattr("containerssh.backends.kubernetes.presence._IDLE", 2.0)

    def settings(seconds: int) -> KubernetesConfig:
        place = {"connection": cluster.connection(), "pod": {"metadata": {"namespace": namespace}}}
        return KubernetesConfig.model_validate({**place, "timeouts": {"http": f"{seconds}s"}})

    backend = KubernetesBackend(instance, QUICK)
    try:
        for seconds in (10, 11):
            await backend.reap(settings(seconds), [])
            await until(lambda: len(leases(cluster, namespace)) == 1)
        await asyncio.sleep(2.5)
        await backend.reap(settings(11), [])
        await asyncio.sleep(1)
        assert leases(cluster, namespace) == {f"containerssh-{instance.id}"}
        assert "took it for dead" not in caplog.text
    finally:
        await backend.close()
    assert leases(cluster, namespace) == set()


# -- a token that has run out --------------------------------------------------------------------------------


async def test_a_token_that_has_run_out_keeps_no_pod_from_being_made_or_removed(
    cluster: Cluster, home: str, tmp_path: Path
) -> None:
    token = cluster.token(home, [PODS_BUT_DELETE, delete_rule("late")])
    file = tmp_path / "token"
    connection = {**account(cluster, home), "bearerToken": "", "bearerTokenFile": str(file)}
    body = {
        "metadata": {"name": "late"},
        "spec": {"schedulerName": "nobody", "containers": [{"name": "shell", "image": "localhost/none:1"}]},
    }
    async with connected(connection) as client:
        own = OwnPod(client, home, "late")
        refusals: list[APIError] = []
        for work in (lambda: own.create(body, on_error=refusals.append), own.remove):
            file.write_text("run-out")
            doing = asyncio.ensure_future(work())
            await asyncio.sleep(0.2)
            assert not doing.done()
            file.write_text(token)
            async with asyncio.timeout(10):
                await doing
        assert {refusal.status for refusal in refusals} == {401}
    await there(cluster, home, set())


async def test_a_token_that_is_wrong_is_told_before_the_login_runs_out_of_time(cluster: Cluster, home: str) -> None:
    async with connected({**account(cluster, home), "bearerToken": "wrong"}) as client, asyncio.timeout(15):
        with pytest.raises(PodError, match="Unauthorized"):
            await OwnPod(client, home, "none").create({}, on_error=lambda _: None)
