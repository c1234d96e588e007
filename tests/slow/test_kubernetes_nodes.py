"""A node that is deleted from its cluster takes the pods on it along."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from containerssh.backends.kubernetes.backend import KubernetesBackend
from containerssh.core.errors import BackendError
from containerssh.core.instance import open_instance
from tests.support.cluster import Cluster, running_cluster
from tests.support.docker import Channel, a_login
from tests.support.pods import config, logged_in, no_pods
from tests.support.waiting import until

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def lost() -> Iterator[Cluster]:
    """A cluster of this module's own: its node does not register itself again."""
    with running_cluster() as running:
        yield running


async def test_a_node_that_is_deleted_ends_the_sessions_on_it_with_that_reason(lost: Cluster, tmp_path: Path) -> None:
    with lost.namespace() as namespace, open_instance(tmp_path / "state", tmp_path / "run") as instance:
        backend = KubernetesBackend(instance)
        try:
            async with logged_in(backend, a_login(), config(lost, namespace)) as handler:
                channel = Channel()
                async with handler.session(channel) as session:
                    await session.run_command("echo up; sleep 600")
                    await until(lambda: b"up" in channel.out.data)
                    (node,) = lost.ask("/api/v1/nodes")["items"]
                    lost.ask(f"/api/v1/nodes/{node['metadata']['name']}", "DELETE")
                    # The controllers wait for 40 seconds whether it comes back, and look every 20.
                    end = await channel.ended(150)
            assert isinstance(end, BackendError)
            assert end.user_message == "The pod's node is gone."
            await no_pods(lost, namespace)
        finally:
            await backend.close()
