"""Persistent mode where the pod is not simply there and ready."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from containerssh.backends.kubernetes.backend import KubernetesBackend
from containerssh.core.errors import BackendError
from containerssh.core.instance import open_instance
from tests.support.cluster import BUSYBOX, Cluster
from tests.support.docker import a_login
from tests.support.pods import config, logged_in, pods, run

pytestmark = pytest.mark.root


@pytest.fixture
async def backend(tmp_path: Path) -> AsyncIterator[KubernetesBackend]:
    with open_instance(tmp_path / "state", tmp_path / "run") as instance:
        made = KubernetesBackend(instance)
        try:
            yield made
        finally:
            await made.close()


def pod(command: str, **container: Any) -> dict[str, Any]:
    shell = {
        "name": "shell",
        "image": BUSYBOX,
        "imagePullPolicy": "Never",
        "command": ["sh", "-c", command],
        **container,
    }
    spec = {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 0,
        "restartPolicy": "Never",
        "containers": [shell],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "lab"}, "spec": spec}


def persistent(cluster: Cluster, namespace: str, **more: Any) -> Any:
    return config(cluster, namespace, mode="persistent", metadata={"name": "lab"}, **more)


async def test_first_logins_at_the_same_time_share_one_pod(
    cluster: Cluster, namespace: str, backend: KubernetesBackend
) -> None:
    settings = persistent(cluster, namespace, createMissingPods=True)

    async def login() -> object:
        async with logged_in(backend, a_login(), settings) as handler:
            return await run(handler, "hostname")

    async with asyncio.timeout(60):
        assert await asyncio.gather(*(login() for _ in range(4))) == [(b"lab\n", 0)] * 4
    assert len(pods(cluster, namespace)) == 1


async def test_a_pod_that_is_not_ready_yet_is_waited_for(
    cluster: Cluster, namespace: str, backend: KubernetesBackend
) -> None:
    probe = {"exec": {"command": ["test", "-e", "/tmp/ready"]}, "periodSeconds": 1}
    cluster.apply(pod("sleep 3; touch /tmp/ready; sleep 600", readinessProbe=probe), namespace=namespace)
    async with (
        asyncio.timeout(60),
        logged_in(backend, a_login(), persistent(cluster, namespace)) as handler,
    ):
        assert await run(handler, "test -e /tmp/ready") == (b"", 0)


async def test_a_pod_that_has_ended_is_refused_and_no_program_seems_to_succeed_in_it(
    cluster: Cluster, namespace: str, backend: KubernetesBackend
) -> None:
    cluster.apply(pod("exit 0"), namespace=namespace)
    cluster.kubectl("--namespace", namespace, "wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/lab")
    async with asyncio.timeout(30):
        with pytest.raises(BackendError, match="ended"):
            async with logged_in(backend, a_login(), persistent(cluster, namespace)):
                pytest.fail("it was let in")
