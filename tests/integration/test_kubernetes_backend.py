"""Logins through the kubernetes backend: real pods with the real agent in them, on a real cluster."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from containerssh.backends.kubernetes.backend import KubernetesBackend
from containerssh.core.errors import BackendError, Rejected
from containerssh.core.instance import open_instance
from containerssh.core.requests import ExitSignal, PtyRequest, WindowSize
from tests.support.cluster import BUSYBOX, Cluster
from tests.support.docker import Channel, Seen, a_login
from tests.support.pods import (
    ABSENT,
    AGENT_IMAGE,
    NO_FOLDER,
    NO_SHELL,
    OLD_AGENT,
    SCRATCH,
    config,
    import_images,
    import_old_agent,
    logged_in,
    no_pods,
    pods,
    run,
)
from tests.support.upstream_agent import SCRIPT, forwarder
from tests.support.waiting import until

pytestmark = pytest.mark.root


@pytest.fixture(scope="module", autouse=True)
def _images(cluster: Cluster) -> None:
    import_images(cluster)
    import_old_agent(cluster, SCRIPT, forwarder())


@pytest.fixture(scope="module")
def home(cluster: Cluster) -> Iterator[str]:
    """A namespace for tests that leave nothing in it."""
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


# -- a login's pod ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "way",
    [
        pytest.param({}, id="uploaded"),
        pytest.param({"agentImage": AGENT_IMAGE, "agentImagePullPolicy": "Never"}, id="by an init container"),
        pytest.param({"idleCommand": ["sleep", "600"]}, id="beside an idle command"),
        pytest.param({"link": "direct"}, id="uploaded, with a connection of its own"),
    ],
)
async def test_a_login_runs_programs_in_a_pod_of_its_own(
    cluster: Cluster, home: str, backend: KubernetesBackend, way: dict[str, Any]
) -> None:
    login = a_login(environment={"GREETING": "hello $(there)"}, files={"/etc/app/token": "s3cret"})
    async with logged_in(backend, login, config(cluster, home, **way)) as handler:
        output, end = await run(handler, 'cat; echo "$GREETING" $(cat /etc/app/token); exit 7', b"input\n")
        assert (output, end) == (b"input\nhello $(there) s3cret\n", 7)
        assert await run(handler, 'echo "$A"; kill -9 $$', A="b") == (b"b\n", ExitSignal("KILL"))
        (pod,) = pods(cluster, home)
        shown, _ = await run(handler, "env; ls -A / /tmp /dev/shm /.containerssh")
    assert pod["metadata"]["labels"]["containerssh_connection_id"] == login.connection_id
    assert pod["metadata"]["annotations"]["containerssh_ip"] == "192.0.2.7"
    installed = "agentImage" in way
    assert (b"\nagent\n" in shown) is installed, "what was uploaded is gone as soon as it runs"
    await no_pods(cluster, home)


async def test_an_image_with_nothing_but_one_program_gets_the_agent_from_its_own_image(
    cluster: Cluster, home: str, backend: KubernetesBackend
) -> None:
    settings = config(cluster, home, image=SCRATCH, agentImage=AGENT_IMAGE, agentImagePullPolicy="Never")
    async with logged_in(backend, a_login(), settings) as handler:
        assert await run(handler, "/busybox echo in") == (b"in\n", 0)


async def test_the_agent_gets_a_volume_only_where_it_finds_no_room_without_one(
    cluster: Cluster, home: str, backend: KubernetesBackend, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    async def log_in(image: str, user: bytes) -> tuple[int, bool]:
        """How many pods were made, and whether the last one has a volume."""
        caplog.clear()
        async with logged_in(backend, a_login(), config(cluster, home, image=image)) as handler:
            assert await run(handler, "id -u") == (user + b"\n", 0)
            (pod,) = pods(cluster, home)
        return caplog.text.count("Creating the pod"), "volumes" in pod["spec"]

    assert await log_in(BUSYBOX, b"0") == (1, False)
    assert await log_in(NO_FOLDER, b"1000") == (2, True)
    # Once is enough to know.
    assert await log_in(NO_FOLDER, b"1000") == (1, True)
    await no_pods(cluster, home)


@pytest.mark.parametrize("image", ["", AGENT_IMAGE], ids=["uploaded", "by an init container"])
async def test_the_strictest_standard_for_pods_and_a_read_only_root_are_no_obstacle(
    cluster: Cluster, namespace: str, backend: KubernetesBackend, image: str
) -> None:
    cluster.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    context = {
        "readOnlyRootFilesystem": True,
        "runAsUser": 1000,
        "runAsNonRoot": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    more = {"agentImage": image, "agentImagePullPolicy": "Never"} if image else {}
    settings = config(cluster, namespace, container={"securityContext": context}, link="auto", **more)
    async with logged_in(backend, a_login(), settings) as handler:
        assert await run(handler, "id -u; touch /x 2>/dev/null || echo refused") == (b"1000\nrefused\n", 0)
    with pytest.raises(BackendError, match="violates PodSecurity") as refused:
        async with logged_in(backend, a_login(), config(cluster, namespace)):
            pass
    assert refused.value.user_message == "The pod is refused by the cluster's policy."


# -- pods that stay ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("link", ["exec", "direct"])
async def test_a_pod_that_stays_is_entered_and_left_as_it_was(
    cluster: Cluster, home: str, backend: KubernetesBackend, link: str
) -> None:
    metadata = {"name": "lab-alice"}
    with pytest.raises(BackendError, match="no pod lab-alice") as refused:
        async with logged_in(backend, a_login(), config(cluster, home, mode="persistent", metadata=metadata)):
            pass
    assert refused.value.user_message == "There is no pod for this login."
    settings = config(cluster, home, mode="persistent", metadata=metadata, createMissingPods=True, link=link)
    login = a_login(environment={"TOKEN": "s3cret"})
    try:
        async with logged_in(backend, login, settings) as one, logged_in(backend, a_login("bob"), settings) as two:
            assert await run(one, "echo $TOKEN; echo kept >/tmp/file; sleep 4242 & exit 0") == (b"s3cret\n", 0)
            assert await run(two, "echo $TOKEN; hostname") == (b"\nlab-alice\n", 0)
        (pod,) = pods(cluster, home)
        assert "s3cret" not in str(pod)
        async with logged_in(backend, a_login(), settings) as again:
            output, _ = await run(again, "cat /tmp/file; ps; ls -A / /tmp")
        assert output.startswith(b"kept\n")
        assert b"4242" not in output, "what a login started ends with it"
        assert output.count(b"serve --stdio") == 1, "and so do the agents of others"
    finally:
        cluster.kubectl("--namespace", home, "delete", "pod", "lab-alice", "--grace-period=0", "--force")
    await no_pods(cluster, home)


# -- where the agent cannot come in ------------------------------------------------------------------------


def sealed(**more: Any) -> dict[str, Any]:
    """A pod without any place for the agent."""
    container = {
        "name": "shell",
        "image": OLD_AGENT,
        "imagePullPolicy": "Never",
        "command": ["/bin/sleep", "600"],
        "securityContext": {"readOnlyRootFilesystem": True},
        **more,
    }
    spec = {"containers": [container], "automountServiceAccountToken": False, "terminationGracePeriodSeconds": 0}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "sealed"}, "spec": spec}


async def test_a_pod_that_takes_no_agent_is_served_by_the_images_own_or_refused(
    cluster: Cluster, home: str, backend: KubernetesBackend, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.apply(sealed(), namespace=home)
    try:
        named: dict[str, Any] = {"mode": "persistent", "metadata": {"name": "sealed"}}
        login = a_login(environment={"TOKEN": "s3cret"})
        async with logged_in(backend, login, config(cluster, home, **named)) as handler:
            assert await run(handler, "echo in; exit 4") == (b"in\n", 4)
        assert "no folder in which a program may be put" in caplog.text
        assert "do without 1 variables" in caplog.text
        with pytest.raises(BackendError, match="does not take the agent"):
            async with logged_in(backend, a_login(), config(cluster, home, agent="injected", **named)):
                pass
    finally:
        cluster.kubectl("--namespace", home, "delete", "pod", "sealed", "--grace-period=0", "--force")


async def test_the_images_agent_forwards(cluster: Cluster, home: str, backend: KubernetesBackend) -> None:
    async with logged_in(backend, a_login(), config(cluster, home, image=OLD_AGENT, agent="image")) as handler:
        await run(handler, "echo page >/tmp/a; httpd -p 127.0.0.1:8000 -h /tmp")
        stream = await handler.connect_tcp("127.0.0.1", 8000)
        await stream.write(b"GET /a HTTP/1.0\r\n\r\n")
        found = b""
        while data := await stream.read():
            found += data
        await stream.close()
    assert found.endswith(b"page\n")


async def test_an_image_without_a_shell_waits_by_its_own_agent(
    cluster: Cluster, home: str, backend: KubernetesBackend, caplog: pytest.LogCaptureFixture
) -> None:
    settings = config(cluster, home, image=NO_SHELL)
    for _ in range(2):
        async with logged_in(backend, a_login(), settings) as handler:
            assert await run(handler, "/busybox echo in") == (b"in\n", 0)
    assert caplog.text.count("executable file not found") >= 2, "it cannot take the agent either"
    await no_pods(cluster, home)


async def test_the_images_agent_starts_programs_and_brings_signals(
    cluster: Cluster, home: str, backend: KubernetesBackend
) -> None:
    settings = config(cluster, home, image=OLD_AGENT, agent="image")
    login = a_login(environment={"A": "b"}, files={"/tmp/token": "s3cret"})
    async with logged_in(backend, login, settings) as handler:
        assert await run(handler, "echo $A; cat /tmp/token; exit 5") == (b"b\ns3cret", 5)
        channel = Channel()
        async with handler.session(channel) as session:
            await session.set_env("B", "c")
            await session.request_pty(PtyRequest("vt220", WindowSize(97, 31)))
            # The kubelet brings sizes and input in no order, so the program can be there before its terminal's size.
            await session.run_command(
                "trap 'echo got; exit 3' USR1; until stty size 2>/dev/null; do sleep 0.1; done; echo $B up; "
                "while :; do sleep 0.1; done"
            )
            await until(lambda: b"up" in channel.out.data)
            await session.send_signal("USR1")
            assert await channel.ended() == 3
        assert channel.out.data.split() == [b"31", b"97", b"c", b"up", b"got"]


@pytest.mark.parametrize("mode", ["connection", "session"])
async def test_without_any_agent_the_cluster_starts_programs(
    cluster: Cluster, home: str, backend: KubernetesBackend, mode: str
) -> None:
    settings = config(cluster, home, disableAgent=True, mode=mode)
    login = a_login(environment={"A": "b"}, files={"/opt/x/token": "s3cret"})
    async with logged_in(backend, login, settings) as handler:
        command = "cat; echo $A; cat /opt/x/token; stat -c %a /opt/x/token; exit 5"
        assert await run(handler, command, b"in\n") == (b"in\nb\ns3cret600\n", 5)
        channel = Channel()
        async with handler.session(channel) as session:
            await session.run_command("/no/such/program")
            assert "there is no such program" in str(await channel.ended())
        async with handler.session(Channel()) as session:
            with pytest.raises(Rejected, match="needs the guest agent"):
                await session.set_env("B", "c")
        with pytest.raises(Rejected, match=r"needs the guest agent|needs one container"):
            await handler.connect_tcp("127.0.0.1", 80)


# -- waiting -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "log", "user"),
    [
        pytest.param(
            {"container": {"image": ABSENT, "imagePullPolicy": "IfNotPresent"}},
            "connection refused",
            f"The image {ABSENT} cannot be pulled",
            id="image that cannot be pulled",
        ),
        pytest.param(
            {"container": {"image": ABSENT}}, "ErrImageNeverPull", "is not available", id="image that may not be pulled"
        ),
        pytest.param(
            {"spec": {"nodeSelector": {"kind": "none-such"}}},
            "0/1 nodes are available",
            "No node can take the pod",
            id="no node",
        ),
        pytest.param(
            {"container": {"envFrom": [{"secretRef": {"name": "none-such"}}]}},
            'secret "none-such" not found',
            "CreateContainerConfigError",
            id="missing secret",
        ),
        pytest.param(
            {"idleCommand": ["/bin/false"], "spec": {"restartPolicy": "Never"}},
            "status 1",
            # Whether it will be started anew is known a moment later.
            "The container ",
            id="idle command that ends",
        ),
        pytest.param(
            {"container": {"ports": [{"containerPort": 99999}]}},
            "99999",
            "The cluster refuses the pod.",
            id="refused by the API",
        ),
        pytest.param(
            {"spec": {"affinity": {"nodeAffinities": {}}}},
            'unknown field "spec.affinity.nodeAffinities"',
            "The cluster refuses the pod.",
            id="misspelt field",
        ),
    ],
)
async def test_what_cannot_start_ends_the_login_soon_with_the_clusters_words(
    cluster: Cluster, home: str, backend: KubernetesBackend, change: dict[str, Any], log: str, user: str
) -> None:
    began = asyncio.get_running_loop().time()
    with pytest.raises(BackendError) as failed:
        async with logged_in(
            backend, a_login(), config(cluster, home, timeouts={"podTrouble": "500ms", "podStart": "60s"}, **change)
        ):
            pass
    assert log in failed.value.explanation
    assert user in failed.value.user_message
    assert "127.0.0.1" not in failed.value.user_message
    assert asyncio.get_running_loop().time() - began < 15
    await no_pods(cluster, home)


async def test_who_waits_is_told_what_for(cluster: Cluster, home: str, backend: KubernetesBackend) -> None:
    seen = Seen()
    init = {"name": "slow", "image": BUSYBOX, "imagePullPolicy": "Never", "command": ["sleep", "2"]}
    async with logged_in(backend, a_login(), config(cluster, home, spec={"initContainers": [init]}), seen) as handler:
        assert await run(handler, "echo in") == (b"in\n", 0)
    assert seen.lines[0] == "The pod has a node"
    assert not any("127.0.0.1" in line for line in seen.lines)


async def test_a_quota_refuses_the_login_in_the_clusters_words(
    cluster: Cluster, namespace: str, backend: KubernetesBackend
) -> None:
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    cluster.apply(quota, namespace=namespace)
    with pytest.raises(BackendError, match="exceeded quota") as failed:
        async with logged_in(backend, a_login(), config(cluster, namespace)):
            pass
    assert failed.value.user_message == "The pod is refused: a quota is used up."
