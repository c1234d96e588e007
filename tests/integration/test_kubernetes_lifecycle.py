"""A pod lives as long as its login, and goes with it, whatever happens to the server, the API or the pod."""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from containerssh.auth.hashes import hash_password
from containerssh.backends.kubernetes.backend import KubernetesBackend
from containerssh.backends.kubernetes.client import KubernetesClient
from containerssh.backends.kubernetes.errors import APIError
from containerssh.backends.kubernetes.launch import OwnPod
from containerssh.backends.kubernetes.lease import Rhythm
from containerssh.config.kubernetes_connection import KubernetesConnectionConfig
from containerssh.core.errors import BackendError
from containerssh.core.instance import open_instance
from containerssh.core.metadata import LoginSpan
from tests.support.cluster import BUSYBOX, Cluster
from tests.support.docker import Channel, Seen, a_login
from tests.support.openssh import OpenSSH
from tests.support.pods import config, logged_in, no_pods, pods, run, section
from tests.support.relay import relay_to
from tests.support.server import serving
from tests.support.services import wait_until
from tests.support.waiting import until

pytestmark = pytest.mark.root

QUICK = Rhythm(renew=0.3, lasts=1.5, look=0.3, look_at_pods=0.3)
ROLE = [
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch", "create", "delete"]},
    {"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["get", "create"]},
]
"""The rights without which there are no logins."""


@pytest.fixture(scope="module")
def home(cluster: Cluster) -> Iterator[str]:
    with cluster.namespace() as name:
        yield name


@asynccontextmanager
async def a_backend(folder: Path, rhythm: Rhythm = QUICK) -> AsyncIterator[KubernetesBackend]:
    with open_instance(folder / "state", folder / "run") as instance:
        made = KubernetesBackend(instance, rhythm)
        try:
            yield made
        finally:
            await made.close()


@pytest.fixture
async def backend(tmp_path: Path) -> AsyncIterator[KubernetesBackend]:
    async with a_backend(tmp_path) as made:
        yield made


def leases(cluster: Cluster, namespace: str) -> list[str]:
    items = cluster.ask(
        f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases?labelSelector=containerssh_gateway"
    )["items"]
    return [str(item["metadata"]["name"]) for item in items]


# -- the end of a pod that is in use -------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["deleted", "evicted", "its program ends"])
async def test_a_pod_that_ends_ends_its_sessions_with_the_reason(
    cluster: Cluster, home: str, backend: KubernetesBackend, way: str
) -> None:
    async with logged_in(backend, a_login(), config(cluster, home, spec={"restartPolicy": "Never"})) as handler:
        (pod,) = pods(cluster, home)
        name = pod["metadata"]["name"]
        channel = Channel()
        async with handler.session(channel) as session:
            await session.run_command("echo up; sleep 600")
            await until(lambda: b"up" in channel.out.data)
            if way == "deleted":
                cluster.kubectl("--namespace", home, "delete", "pod", name, "--wait=false")
            elif way == "evicted":
                eviction = f'{{"apiVersion":"policy/v1","kind":"Eviction","metadata":{{"name":"{name}"}}}}'
                path = f"/api/v1/namespaces/{home}/pods/{name}/eviction"
                cluster.kubectl("create", "--raw", path, "-f", "-", stdin=eviction.encode())
            else:
                with suppress(subprocess.CalledProcessError):
                    cluster.kubectl("--namespace", home, "exec", name, "--", "kill", "-TERM", "1")
            end = await channel.ended(30)
    assert isinstance(end, BackendError)
    told = {
        "deleted": "The pod was deleted.",
        "evicted": "The cluster has evicted the pod.",
        "its program ends": "The container has ended.",
    }
    assert end.user_message == told[way]
    await no_pods(cluster, home)


async def test_a_node_that_says_nothing_any_more_does_not_keep_a_session(
    cluster: Cluster, home: str, backend: KubernetesBackend
) -> None:
    """Its pods are deleted from the API by force; nobody closes their streams."""
    async with relay_to(cluster.port) as relay:
        connection = cluster.connection(host=f"https://127.0.0.1:{relay.port}")
        async with logged_in(backend, a_login(), config(cluster, home, connection=connection)) as handler:
            (pod,) = pods(cluster, home)
            channel = Channel()
            async with handler.session(channel) as session:
                await session.run_command("echo up; sleep 600")
                await until(lambda: b"up" in channel.out.data)
                name = pod["metadata"]["name"]
                cluster.kubectl("--namespace", home, "delete", "pod", name, "--grace-period=0", "--force")
                end = await channel.ended(20)
    assert isinstance(end, BackendError)
    assert end.user_message == "The pod was deleted."


async def test_a_cut_ends_sessions_without_success_and_the_pod_is_removed_later(
    cluster: Cluster, home: str, backend: KubernetesBackend
) -> None:
    async with relay_to(cluster.port) as relay:
        connection = cluster.connection(host=f"https://127.0.0.1:{relay.port}")
        settings = config(cluster, home, connection=connection)
        async with logged_in(backend, a_login(), settings) as handler:
            channel = Channel()
            async with handler.session(channel) as session:
                await session.run_command("echo up; sleep 600")
                await until(lambda: b"up" in channel.out.data)
                relay.up = False
                relay.cut()
                end = await channel.ended(20)
            assert isinstance(end, BackendError)
            asyncio.get_running_loop().call_later(1, setattr, relay, "up", True)
    await no_pods(cluster, home)


# -- replies that are lost -----------------------------------------------------------------------------------


class Forgetful(KubernetesClient):
    """Its API server does what it is asked, and the answer to the first creation is lost."""

    lost = 1

    async def create(self, kind: Any, namespace: str, body: Any) -> dict[str, Any]:
        made = await super().create(kind, namespace, body)
        if self.lost:
            self.lost -= 1
            raise APIError("creating the pod", status=0, message="the connection was closed")
        return made


def a_pod(name: str, launch: str) -> dict[str, Any]:
    container = {"name": "shell", "image": BUSYBOX, "imagePullPolicy": "Never", "command": ["sleep", "600"]}
    metadata = {"name": name, "labels": {"containerssh_launch": launch}}
    return {"metadata": metadata, "spec": {"containers": [container], "terminationGracePeriodSeconds": 0}}


def a_slow_one(seconds: float) -> dict[str, Any]:
    """An init container that takes its time."""
    return {"name": "slow", "image": BUSYBOX, "imagePullPolicy": "Never", "command": ["sleep", str(seconds)]}


async def test_a_pod_whose_creation_was_not_answered_is_found_again(cluster: Cluster, home: str) -> None:
    client = Forgetful(KubernetesConnectionConfig.model_validate(cluster.connection()), timedelta(seconds=10))
    try:
        own = OwnPod(client, home, "forgotten")
        made = await own.create(a_pod("forgotten", own.launch), on_error=lambda _: None)
        assert [pod["metadata"]["uid"] for pod in pods(cluster, home)] == [made["metadata"]["uid"]] == [own.uid]
        await own.remove()
        await no_pods(cluster, home)
    finally:
        await client.close()


async def test_a_login_that_is_left_while_its_pod_is_made_leaves_nothing(
    cluster: Cluster, home: str, backend: KubernetesBackend
) -> None:
    async def log_in() -> None:
        async with logged_in(backend, a_login(), config(cluster, home)):
            pass

    for delay in (0.0, 0.02, 0.1, 0.4):
        task = asyncio.create_task(log_in())
        await asyncio.sleep(delay)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await no_pods(cluster, home)


async def test_a_name_that_is_taken_is_told_and_left_alone(
    cluster: Cluster, home: str, backend: KubernetesBackend
) -> None:
    settings = config(cluster, home, metadata={"name": "fixed"})
    async with logged_in(backend, a_login(), settings) as one:
        with pytest.raises(BackendError, match="already exists") as refused:
            async with logged_in(backend, a_login("bob"), settings):
                pass
        assert refused.value.user_message == "The pod is in use by another login."
        assert await run(one, "echo still here") == (b"still here\n", 0)
    async with logged_in(backend, a_login("bob"), settings) as two:
        assert await run(two, "hostname") == (b"fixed\n", 0), "one that is going is waited for"


# -- many servers --------------------------------------------------------------------------------------------


def names(cluster: Cluster, namespace: str) -> list[str]:
    return sorted(pod["metadata"]["name"] for pod in pods(cluster, namespace))


async def test_pods_of_a_server_whose_lease_has_run_out_are_removed_by_another(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    settings = config(cluster, namespace)
    dead = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "containerssh-dead", "labels": {"containerssh_gateway": "true"}},
        # Its clock is far ahead of ours: that must not make it live.
        "spec": {"holderIdentity": "dead", "leaseDurationSeconds": 1, "renewTime": "2099-01-01T00:00:00.000000Z"},
    }

    def left(name: str, **labels: str) -> dict[str, Any]:
        return {**a_pod(name, "00"), "metadata": {"name": name, "labels": labels}, "apiVersion": "v1", "kind": "Pod"}

    cluster.apply(
        dead,
        left("of-the-dead", containerssh_instance="dead", containerssh_lease="containerssh-dead"),
        left("of-nobody", containerssh_instance="gone", containerssh_lease="containerssh-gone"),
        left("without-lease", containerssh_instance="other"),
        left("a-bystander"),
        namespace=namespace,
    )
    async with (
        a_backend(tmp_path / "1") as one,
        a_backend(tmp_path / "2") as two,
        logged_in(one, a_login(), settings) as first,
        logged_in(two, a_login("bob"), settings) as second,
    ):
        await asyncio.to_thread(
            wait_until,
            lambda: not {"of-the-dead", "of-nobody"} & set(names(cluster, namespace)),
            within=15,
            what="the removal",
        )
        assert {"without-lease", "a-bystander"} < set(names(cluster, namespace))
        await asyncio.to_thread(
            wait_until, lambda: len(leases(cluster, namespace)) == 2, within=10, what="the dead one's Lease gone"
        )
        assert "containerssh-dead" not in leases(cluster, namespace)
        for handler in (first, second):
            assert await run(handler, "echo in") == (b"in\n", 0), "those that live keep their pods"
    assert leases(cluster, namespace) == []
    assert names(cluster, namespace) == ["a-bystander", "without-lease"]


async def test_without_the_right_to_leases_logins_work_and_the_log_says_once_what_is_missing(
    cluster: Cluster, namespace: str, backend: KubernetesBackend, caplog: pytest.LogCaptureFixture
) -> None:
    connection: dict[str, object] = {
        "host": cluster.address,
        "cacertFile": str(cluster.authorities),
        "bearerToken": cluster.token(namespace, ROLE),
    }
    settings = config(cluster, namespace, connection=connection)
    for _ in range(2):
        async with logged_in(backend, a_login(), settings) as handler:
            assert await run(handler, "echo in") == (b"in\n", 0)
            (pod,) = pods(cluster, namespace)
            assert "containerssh_lease" not in pod["metadata"]["labels"]
    assert caplog.text.count("Other servers cannot remove") == 1


async def test_the_rights_in_the_manual_are_enough_for_everything(
    cluster: Cluster, namespace: str, backend: KubernetesBackend, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "containerssh")
    page = Path(__file__).parents[2] / "docs" / "backends" / "kubernetes-connection.md"
    (role,) = re.findall(r"```yaml\n(apiVersion: rbac.*?)```", page.read_text(), re.DOTALL)
    connection: dict[str, object] = {
        "host": cluster.address,
        "cacertFile": str(cluster.authorities),
        "bearerToken": cluster.token(namespace, YAML(typ="safe").load(role)["rules"]),
    }
    settings = config(cluster, namespace, connection=connection, spec={"initContainers": [a_slow_one(1.5)]})
    seen = Seen()
    async with logged_in(backend, a_login(), settings, seen) as handler:
        assert await run(handler, "echo in") == (b"in\n", 0)
        (pod,) = pods(cluster, namespace)
        assert pod["metadata"]["labels"]["containerssh_lease"] in leases(cluster, namespace)
    await no_pods(cluster, namespace)
    assert "The pod has a node" in seen.lines
    assert "forbidden" not in caplog.text


async def test_a_pod_ends_by_the_cluster_itself_when_its_login_can_last_no_longer(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    login = replace(a_login(), span=LoginSpan.from_now(timedelta(seconds=100)))
    async with a_backend(tmp_path) as backend:
        async with logged_in(backend, login, config(cluster, namespace, timeouts={"podStop": "20s"})):
            (pod,) = pods(cluster, namespace)
            assert pod["spec"]["activeDeadlineSeconds"] == 121
        over = a_pod("over", "ff")
        over["metadata"]["labels"] |= {"containerssh_instance": "somebody"}
        over["spec"]["activeDeadlineSeconds"] = 1
        cluster.apply({"apiVersion": "v1", "kind": "Pod", **over}, namespace=namespace)
        await no_pods(cluster, namespace)


# -- the whole server ----------------------------------------------------------------------------------------


async def test_after_kill_9_the_next_start_removes_the_pod_and_openssh_gets_in_again(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    settings = {"backend": "kubernetes", "kubernetes": section(cluster, namespace)}
    client = OpenSSH(tmp_path)
    async with serving(settings, {"alice": {"password": hash_password("secret")}}) as server:
        terminal = client.spawn(server, "tty; sleep 600")
        await asyncio.to_thread(terminal.expect, "/dev/pts")
        await server.kill()
        terminal.close(force=True)
        (left,) = pods(cluster, namespace)
        server.log_file.unlink()
        await server.start()
        gone = left["metadata"]["name"]
        await server.until(lambda: gone not in str(pods(cluster, namespace)), "the pod is removed")
        done = await client.run(server, "cat; echo err >&2; exit 3", stdin=b"hello")
        assert (done.status, done.stdout) == (3, b"hello")
        assert done.stderr.endswith(b"err\n")
        assert await server.stop() == 0
        await no_pods(cluster, namespace, within=5)
    assert len(leases(cluster, namespace)) == 0
