"""Logins that the cluster refuses: users hear who can act on it, the log has the API's own reason."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from containerssh.backends.kubernetes.backend import KubernetesBackend
from containerssh.config.kubernetes import KubernetesConfig
from containerssh.core.codes import KubernetesCode
from containerssh.core.errors import BackendError
from containerssh.core.instance import open_instance
from tests.support.cluster import Cluster
from tests.support.docker import a_login
from tests.support.pods import config, logged_in

pytestmark = pytest.mark.root

PERSISTENT: dict[str, Any] = {"mode": "persistent", "createMissingPods": True, "metadata": {"name": "quota"}}
MODES = pytest.mark.parametrize("pod", [{}, PERSISTENT], ids=["connection", "persistent"])


@pytest.fixture
async def backend(tmp_path: Path) -> AsyncIterator[KubernetesBackend]:
    with open_instance(tmp_path / "state", tmp_path / "run") as instance:
        made = KubernetesBackend(instance)
        try:
            yield made
        finally:
            await made.close()


async def refused(
    backend: KubernetesBackend,
    settings: KubernetesConfig,
    words: str,
    user: str,
    code: KubernetesCode = KubernetesCode.API_REFUSED,
) -> None:
    with pytest.raises(BackendError, match=words) as failed:
        async with logged_in(backend, a_login(), settings):
            pytest.fail("it was let in")
    assert failed.value.user_message == user
    assert failed.value.code is code


def with_token(cluster: Cluster, token: str) -> dict[str, object]:
    return {"host": cluster.address, "cacertFile": str(cluster.authorities), "bearerToken": token}


@MODES
async def test_a_server_that_the_cluster_does_not_know_is_told_so(
    cluster: Cluster, backend: KubernetesBackend, pod: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("containerssh.backends.kubernetes.launch._UNKNOWN_TO_THE_API", 0.2)
    settings = config(cluster, "default", connection=with_token(cluster, "run-out"), **pod)
    await refused(backend, settings, "Unauthorized", "The cluster does not accept this server's credentials.")


@MODES
async def test_a_server_without_rights_is_told_so(
    cluster: Cluster, namespace: str, backend: KubernetesBackend, pod: dict[str, Any]
) -> None:
    settings = config(cluster, namespace, connection=with_token(cluster, cluster.token(namespace, [])), **pod)
    words = r'is forbidden: User ".*" cannot (create|get) resource "pods"'
    await refused(backend, settings, words, "This server is not allowed to use pods in the cluster.")


async def test_a_server_that_may_not_start_programs_is_told_so(
    cluster: Cluster, namespace: str, backend: KubernetesBackend
) -> None:
    rights = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch", "create", "delete"]}
    settings = config(cluster, namespace, connection=with_token(cluster, cluster.token(namespace, [rights])))
    words = r'is forbidden: User ".*" cannot create resource "pods/exec"'
    await refused(backend, settings, words, "This server is not allowed to use pods in the cluster.")


async def test_a_server_that_may_not_watch_pods_is_told_so(
    cluster: Cluster, namespace: str, backend: KubernetesBackend
) -> None:
    rights = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "create", "delete"]}
    settings = config(cluster, namespace, connection=with_token(cluster, cluster.token(namespace, [rights])))
    user = "This server is not allowed to use pods in the cluster."
    await refused(backend, settings, 'cannot watch resource "pods"', user, KubernetesCode.POD_WAIT_FAILED)


@MODES
async def test_a_namespace_that_there_is_not_is_told(
    cluster: Cluster, backend: KubernetesBackend, pod: dict[str, Any]
) -> None:
    settings = config(cluster, "quota-admission", **pod)
    words = 'namespaces "quota-admission" not found'
    await refused(backend, settings, words, "The namespace for the pod does not exist.")


@MODES
async def test_a_namespace_that_is_being_deleted_is_told(
    cluster: Cluster, namespace: str, backend: KubernetesBackend, pod: dict[str, Any]
) -> None:
    kept = f"/api/v1/namespaces/{namespace}/configmaps"
    metadata = {"name": "kept", "finalizers": ["tests.invalid/keep"]}
    cluster.ask(kept, "POST", {"metadata": metadata})
    cluster.ask(f"/api/v1/namespaces/{namespace}", "DELETE")
    try:
        settings = config(cluster, namespace, **pod)
        await refused(
            backend, settings, "because it is being terminated", "The namespace for the pod is being deleted."
        )
    finally:
        made = cluster.ask(f"{kept}/kept")
        del made["metadata"]["finalizers"]
        cluster.ask(f"{kept}/kept", "PUT", made)
