"""Containers that fail: the login that waits for them, or uses them, is told with which status."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from containerssh.backends.kubernetes.backend import KubernetesBackend
from containerssh.core.errors import BackendError
from containerssh.core.instance import open_instance
from tests.support.cluster import BUSYBOX, Cluster
from tests.support.docker import Channel, Seen, a_login
from tests.support.pods import config, logged_in, no_pods, pods
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


async def test_an_init_container_that_keeps_failing_ends_the_login_with_its_status(
    cluster: Cluster, namespace: str, backend: KubernetesBackend
) -> None:
    init = {"name": "prepare", "image": BUSYBOX, "imagePullPolicy": "Never", "command": ["sh", "-c", "exit 3"]}
    settings = config(
        cluster, namespace, spec={"initContainers": [init]}, timeouts={"podStart": "60s", "podTrouble": "2s"}
    )
    seen = Seen()
    async with asyncio.timeout(40):
        with pytest.raises(BackendError, match=r"prepare.*it ended with Error, status 3") as failed:
            async with logged_in(backend, a_login(), settings, seen):
                pytest.fail("it was let in")
    assert failed.value.user_message == "The container prepare keeps failing (Error, status 3)."
    await no_pods(cluster, namespace)


async def test_a_pod_that_stays_and_keeps_crashing_ends_the_login_with_its_status(
    cluster: Cluster, namespace: str, backend: KubernetesBackend
) -> None:
    crashing: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "crashing"},
        "spec": {
            "automountServiceAccountToken": False,
            "containers": [
                {"name": "shell", "image": BUSYBOX, "imagePullPolicy": "Never", "command": ["sh", "-c", "exit 5"]}
            ],
        },
    }
    cluster.apply(crashing, namespace=namespace)
    settings = config(
        cluster,
        namespace,
        mode="persistent",
        metadata={"name": "crashing"},
        timeouts={"podStart": "60s", "podTrouble": "2s"},
    )
    async with asyncio.timeout(40):
        with pytest.raises(BackendError, match=r"shell.*it ended with Error, status 5") as failed:
            async with logged_in(backend, a_login(), settings):
                pytest.fail("it was let in")
    assert failed.value.user_message == "The container shell keeps failing (Error, status 5)."


async def test_a_login_whose_container_runs_out_of_memory_is_told_so(
    cluster: Cluster, namespace: str, backend: KubernetesBackend
) -> None:
    settings = config(cluster, namespace, container={"resources": {"limits": {"memory": "48Mi"}}})
    async with logged_in(backend, a_login(), settings) as handler:
        channel = Channel()
        async with handler.session(channel) as session:
            # Where each process is killed by itself, the first one is meant: with it the container ends.
            await session.run_command("echo 1000 >/proc/1/oom_score_adj; cat /dev/zero >/dev/shm/much; sleep 60")
            end = await channel.ended(30)
    assert isinstance(end, BackendError)
    assert "OOMKilled" in end.explanation
    assert end.user_message == "The container has used more memory than it may."


async def test_a_container_that_is_started_anew_ends_its_sessions_with_the_reason(
    cluster: Cluster, namespace: str, backend: KubernetesBackend
) -> None:
    async with logged_in(backend, a_login(), config(cluster, namespace)) as handler:
        (pod,) = pods(cluster, namespace)
        channel = Channel()
        async with handler.session(channel) as session:
            await session.run_command("echo up; sleep 600")
            await until(lambda: b"up" in channel.out.data)
            # kubectl's own program may end with the container.
            with suppress(subprocess.CalledProcessError):
                cluster.kubectl("--namespace", namespace, "exec", pod["metadata"]["name"], "--", "kill", "-TERM", "1")
            end = await channel.ended(30)
    assert isinstance(end, BackendError)
    assert end.user_message == "The container has ended."
