"""Agents in pods that dial back to the server: the data of logins without the API server in between."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from containerssh.backends.kubernetes.backend import KubernetesBackend
from containerssh.config.kubernetes import KubernetesConfig
from containerssh.core.errors import BackendError
from containerssh.core.instance import open_instance
from tests.support.cluster import Cluster
from tests.support.docker import Channel, a_login
from tests.support.pods import AGENT_IMAGE, import_images, logged_in, no_pods, pods, run, section
from tests.support.waiting import until

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def home(cluster: Cluster) -> Iterator[str]:
    import_images(cluster)
    with cluster.namespace() as name:
        yield name


@pytest.fixture
async def backend(tmp_path: Path) -> AsyncIterator[KubernetesBackend]:
    with open_instance(tmp_path / "state", tmp_path / "run") as instance:
        made = KubernetesBackend(instance)
        try:
            yield made
        finally:
            await made.close()


def config(cluster: Cluster, home: str, mode: str, advertise: str = "", **pod: Any) -> KubernetesConfig:
    settings: dict[str, Any] = section(cluster, home, link=mode, **pod)
    if advertise:
        settings["agentLink"]["advertise"] = advertise
    return KubernetesConfig.model_validate(settings)


async def test_a_login_runs_through_a_connection_of_its_agents_own(
    cluster: Cluster, home: str, backend: KubernetesBackend
) -> None:
    brought = {"agentImage": AGENT_IMAGE, "agentImagePullPolicy": "Never"}
    data = bytes(range(256)) * 40_000
    async with logged_in(backend, a_login(), config(cluster, home, "direct", **brought)) as handler:
        assert await run(handler, "sha256sum; exit 7", data) == (f"{hashlib.sha256(data).hexdigest()}  -\n".encode(), 7)
        assert await run(handler, "cat", data) == (data, 0)
        # What the agent was told is nowhere that others look: it has neither been an argument nor a variable.
        seen, _ = await run(handler, "cat /proc/net/tcp; tr '\\0' '\\n' </proc/[0-9]*/environ </proc/[0-9]*/cmdline")
        described = json.dumps(pods(cluster, home))
        for text in (seen.decode("utf-8", "replace"), described):
            # A pod's own address may begin with the server's.
            assert not re.search(rf"\b{re.escape(cluster.host_address)}\b", text)
    await no_pods(cluster, home)


async def test_a_pod_that_cannot_reach_the_server_goes_on_through_the_api_server(
    cluster: Cluster, home: str, backend: KubernetesBackend, caplog: pytest.LogCaptureFixture
) -> None:
    # Nothing answers at an address of the pod's own.
    async with logged_in(backend, a_login(), config(cluster, home, "auto", "127.0.0.1")) as handler:
        assert await run(handler, "cat", b"data") == (b"data", 0)
    assert "its data goes through the API server" in caplog.text


async def test_an_address_that_does_not_answer_holds_a_login_up_for_no_longer_than_is_configured(
    cluster: Cluster, home: str, backend: KubernetesBackend, caplog: pytest.LogCaptureFixture
) -> None:
    nobody = f"{cluster.host_address.rpartition('.')[0]}.250"
    settings = section(cluster, home, link="auto", timeouts={"podStart": "20s"})
    settings["agentLink"] |= {"advertise": nobody, "timeout": "1s"}
    async with logged_in(backend, a_login(), KubernetesConfig.model_validate(settings)) as handler:
        assert await run(handler, "cat", b"data") == (b"data", 0)
    assert f"cannot reach {nobody} port" in caplog.text


async def test_an_agent_connects_by_ipv6(cluster: Cluster, home: str, backend: KubernetesBackend) -> None:
    links = json.loads(await asyncio.to_thread(subprocess.check_output, ["ip", "-json", "address"]))
    (bridge,) = (link for link in links if any(one.get("local") == cluster.host_address for one in link["addr_info"]))
    (address,) = (one["local"] for one in bridge["addr_info"] if one["family"] == "inet6")
    settings = section(cluster, home, link="direct")
    settings["agentLink"] |= {"listen": "[::]:0", "advertise": f"{address}%eth0"}
    async with logged_in(backend, a_login(), KubernetesConfig.model_validate(settings)) as handler:
        assert await run(handler, "cat", b"data") == (b"data", 0)


async def test_where_there_must_be_a_direct_way_a_login_without_one_fails(
    cluster: Cluster, home: str, backend: KubernetesBackend
) -> None:
    with pytest.raises(BackendError, match=r"cannot reach 127\.0\.0\.1"):
        async with logged_in(backend, a_login(), config(cluster, home, "direct", "127.0.0.1")):
            pass
    await no_pods(cluster, home)


async def test_the_reason_for_a_pods_end_is_told_all_the_same(
    cluster: Cluster, home: str, backend: KubernetesBackend
) -> None:
    async with logged_in(backend, a_login(), config(cluster, home, "direct")) as handler:
        channel = Channel()
        async with handler.session(channel) as session:
            await session.run_command("echo up; exec sleep 60")
            await until(lambda: b"up" in channel.out.data)
            await asyncio.to_thread(
                cluster.kubectl, "--namespace", home, "delete", "pods", "--all", "--grace-period=0", "--force"
            )
            end = await channel.ended()
    assert isinstance(end, BackendError)
    assert "deleted" in end.explanation


async def test_a_login_outlives_the_api_server(cluster: Cluster, home: str, backend: KubernetesBackend) -> None:
    async with logged_in(backend, a_login(), config(cluster, home, "direct")) as handler:
        channel = Channel(b"")
        async with handler.session(channel) as session:
            await session.run_command("echo up; until [ -e /tmp/go ]; do sleep 0.1; done; echo still")
            await until(lambda: b"up" in channel.out.data)
            await asyncio.to_thread(cluster.kill_api_server)
            try:
                assert await run(handler, "touch /tmp/go; cat", b"data") == (b"data", 0)
                assert await channel.ended() == 0
            finally:
                await asyncio.to_thread(cluster.start_api_server)
    assert channel.out.data == b"up\nstill\n"
    await no_pods(cluster, home)
