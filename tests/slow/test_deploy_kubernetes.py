"""The Helm chart on a real cluster: two servers, a login through each, one killed, one drained."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from ruamel.yaml import YAML

from containerssh.auth.hashes import hash_password
from tests.support.cluster import BUSYBOX, Cluster
from tests.support.deployed import DEPLOY, ROOT, Client, Place, image_file
from tests.support.services import wait_until

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]

CHART = DEPLOY / "helm/containerssh"


def values(guests: str) -> dict[str, Any]:
    """Two servers that take one another for dead quickly, and drain for as long as a test may take."""
    return {
        "image": {"pullPolicy": "Never"},
        "users": {"alice": {"password": hash_password("secret")}},
        "config": {
            "log": {"level": "info"},
            "kubernetes": {
                "timeouts": {"lease": "4s"},
                "pod": {"spec": {"dnsPolicy": "Default", "terminationGracePeriodSeconds": 1}},
            },
        },
        "guests": {
            "namespace": guests,
            "image": BUSYBOX,
            "imagePullPolicy": "Never",
            "shell": ["/bin/sh"],
            "podSecurity": "baseline",
            "agentImage": {"repository": "localhost/containerssh-agent", "pullPolicy": "Never"},
        },
        "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}},
        "agentLink": {"mode": "direct"},
        "metrics": {"enabled": True},
        "drain": {"seconds": 40, "beforeSeconds": 1},
    }


@dataclass(frozen=True)
class Release:
    """The chart, installed."""

    cluster: Cluster
    helm: Path
    namespace: str
    guests: str
    values: Path

    def run(self, *arguments: str) -> str:
        settings = ("--kubeconfig", str(self.cluster.kubeconfig), "--namespace", self.namespace)
        command = [str(self.helm), *settings, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=80)
        assert done.returncode == 0, done.stderr + self.events()
        return done.stdout

    def put(self, verb: str, *more: str) -> str:
        return self.run(verb, "gw", str(CHART), "--values", str(self.values), "--wait", "--timeout", "60s", *more)

    def events(self) -> str:
        return self.cluster.kubectl("--namespace", self.namespace, "get", "events,pods")

    def servers(self) -> dict[str, dict[str, Any]]:
        """Pods of servers that are not going, by name."""
        selector = ("--selector", "app.kubernetes.io/name=containerssh")
        items = self.cluster.object("--namespace", self.namespace, "pods", *selector)["items"]
        return {pod["metadata"]["name"]: pod for pod in items if not pod["metadata"].get("deletionTimestamp")}

    def guest_pods(self) -> list[str]:
        items = self.cluster.object("--namespace", self.guests, "pods")["items"]
        return [pod["metadata"]["name"] for pod in items if not pod["metadata"].get("deletionTimestamp")]

    def left(self) -> list[str]:
        """Pods and Leases among the guests."""
        return self.cluster.kubectl("--namespace", self.guests, "get", "pods,leases", "-o", "name").split()

    def host_keys(self) -> dict[str, str]:
        found: dict[str, str] = self.cluster.object(
            "--namespace", self.namespace, "secret", "gw-containerssh-host-keys"
        )["data"]
        return found

    def may(self, verb: str, what: str, *where: str) -> bool:
        """Whether the servers' account may do that (``kubectl auth can-i``) to *what*, a resource or a part of one."""
        account = f"system:serviceaccount:{self.namespace}:gw-containerssh"
        # What stands behind a slash there would be taken for an object's name.
        resource, _, part = what.partition("/")
        asked = (verb, resource, *([f"--subresource={part}"] if part else []), *where)
        with suppress(subprocess.CalledProcessError):
            return self.cluster.kubectl("auth", "can-i", "--as", account, *asked) == "yes"
        return False


def helm() -> Path:
    """Helm; skips where it was not built, as the cluster does."""
    found = subprocess.run([ROOT / "scripts/helm", "path"], capture_output=True, text=True)
    if found.returncode:
        why = "Helm is not built: run make cluster"
        if os.environ.get("CONTAINERSSH_CLUSTER_REQUIRED"):
            pytest.fail(why, pytrace=False)
        pytest.skip(why)
    return Path(found.stdout.strip())


@pytest.fixture(scope="module")
def release(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    program = helm()
    for kind in ("server", "agent"):
        cluster.import_image(image_file(kind).read_bytes())
    guests = f"guests-{secrets.token_hex(4)}"
    file = tmp_path_factory.mktemp("chart") / "values.yaml"
    file.write_text(json.dumps(values(guests)))
    with cluster.namespace() as namespace:
        made = Release(cluster, program, namespace, guests, file)
        # What is not as strict as it can be is not let in.
        cluster.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
        try:
            made.put("install")
            yield made
        finally:
            with suppress(AssertionError, subprocess.SubprocessError):
                made.run("uninstall", "gw", "--no-hooks")
            with suppress(subprocess.SubprocessError):
                cluster.kubectl("delete", "namespace", guests, "--wait=false")


def page(address: str) -> bytes:
    with urlopen(address, timeout=10) as answer:
        content: bytes = answer.read()
        return content


def yaml(text: str) -> dict[str, Any]:
    content: dict[str, Any] = YAML(typ="safe", pure=True).load(text)
    return content


def place(pod: dict[str, Any]) -> Place:
    return Place(pod["status"]["podIP"])


def process_of(pod: dict[str, Any]) -> int:
    """The server's process in *pod*, as this machine numbers it."""
    uid = pod["metadata"]["uid"]
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            runs = b"/usr/local/bin/containerssh" in (folder / "cmdline").read_bytes().split(b"\0")
            if runs and uid in (folder / "cgroup").read_text():
                return int(folder.name)
    raise LookupError(f"no process of pod {uid}")


# -- what is installed ---------------------------------------------------------------------------------------


async def test_each_server_takes_logins_with_the_same_host_keys(release: Release, tmp_path: Path) -> None:
    client = Client(tmp_path)
    first, second = (place(pod) for pod in release.servers().values())
    answers = await asyncio.gather(*(client.log_in(at, "cat /proc/1/cmdline; exit 3") for at in (first, second)))
    for done in answers:
        assert done.status == 3, done
        assert b"wait-signal" in done.stdout, "the agent came by the init container"
    known = [line.split()[1:] for line in (tmp_path / "known_hosts").read_text().splitlines()]
    assert len(known) == 2
    assert known[0] == known[1]
    for at in (first, second):
        assert b"containerssh_ssh_connections_total" in await asyncio.to_thread(page, f"http://{at.host}:9100/metrics")


async def test_an_upgrade_changes_neither_host_keys_nor_servers(release: Release) -> None:
    keys, servers = release.host_keys(), {pod["metadata"]["uid"] for pod in release.servers().values()}
    assert set(keys) == {"ed25519", "rsa"}
    release.put("upgrade")
    assert release.host_keys() == keys
    assert {pod["metadata"]["uid"] for pod in release.servers().values()} == servers


def test_servers_may_do_with_guests_what_they_need_and_nothing_else(release: Release) -> None:
    inside, beside = ("--namespace", release.guests), ("--namespace", release.namespace)
    for verb, what in (
        ("create", "pods"), ("watch", "pods"), ("get", "pods/exec"), ("create", "pods/exec"),
        ("list", "events"), ("patch", "leases.coordination.k8s.io"),
    ):  # fmt: skip
        assert release.may(verb, what, *inside), (verb, what)
    for verb, what, where in (
        ("get", "secrets", inside), ("patch", "pods", inside), ("create", "pods/attach", inside),
        ("get", "secrets", beside), ("list", "pods", beside),
        ("create", "pods", beside), ("create", "pods", ("--namespace", "default")), ("list", "nodes", ()),
    ):  # fmt: skip
        assert not release.may(verb, what, *where), (verb, what, where)


def test_the_cluster_takes_every_object_that_the_chart_can_make(release: Release, tmp_path: Path) -> None:
    more = {
        "autoscaling": {"enabled": True, "logins": 80},
        "service": {"type": "LoadBalancer", "loadBalancerSourceRanges": ["192.0.2.0/24"], "nodePort": 30022},
        "guests": {"networkPolicy": {"ingress": [{"from": [{"podSelector": {}}]}]}},
        # As names of volumes these two could be the same.
        "extraSecrets": {
            "more.certificates": "/etc/containerssh/more",
            "more-certificates": "/etc/containerssh/yet-more",
        },
        "priorityClassName": "system-cluster-critical",
    }
    file = tmp_path / "more.json"
    file.write_text(json.dumps(more))
    files = ("--values", str(release.values), "--values", str(file))
    text = release.run("template", "gw", str(CHART), "--kube-version", "1.37", *files)
    seen = release.cluster.kubectl("apply", "--dry-run=server", "-o", "name", "-f", "-", stdin=text.encode())
    kinds = {line.partition("/")[0].partition(".")[0] for line in seen.splitlines()}
    assert kinds >= {"networkpolicy", "poddisruptionbudget", "horizontalpodautoscaler", "deployment", "service", "job"}
    monitored = release.run(
        "template", "gw", str(CHART), "--kube-version", "1.37", *files, "--set", "metrics.serviceMonitor.enabled=true"
    )
    assert "kind: ServiceMonitor" in monitored


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ("guests.namespace={namespace}", "guests belong into another one"),
        ("users=null", "nobody could log in"),
        ("metrics.enabled=false,metrics.serviceMonitor.enabled=true", "takes metrics.enabled"),
        ("replicas=many", "replicas"),
        ("replicas=-1", "replicas"),
        ("drain.seconds=1h", "drain"),
        ("service.port=70000", "service"),
        ("service.nodePort=30022", "service.nodePort takes"),
        ("service.type=NodePort,service.loadBalancerSourceRanges={{192.0.2.0/24}}", "loadBalancerSourceRanges take"),
        ("autoscaling.enabled=true,autoscaling.cpu=0", "cpu or logins"),
        ("autoscaling.enabled=true,autoscaling.minReplicas=11", "more than maxReplicas"),
        ("agentLink.port=9100", "agentLink.port is taken"),
        ("config.kubernetes.agentLink.mode=auto", "set agentLink.mode"),
        ("config.kubernetes.pod.metadata.namespace=default", "set guests.namespace"),
        ("config.ssh.listen=0.0.0.0:22", "config.ssh.listen has to end with :2222"),
        ("config.metrics.listen=0.0.0.0:9101", "config.metrics.listen has to end with :9100"),
        ("config.health.enable=false", "config.health.enable has to stay"),
        ("guests.networkPolicy.block=x", "block"),
    ],
)
def test_values_that_cannot_work_are_refused_with_a_reason(release: Release, setting: str, why: str) -> None:
    with pytest.raises(AssertionError, match=why):
        release.run(
            "template", "gw", str(CHART), "--kube-version", "1.37", "--values", str(release.values),
            "--set", setting.format(namespace=release.namespace),
        )  # fmt: skip


def test_a_method_of_ones_own_leaves_the_other_methods_alone(release: Release) -> None:
    text = release.run(
        "template", "gw", str(CHART), "--kube-version", "1.37", "--values", str(release.values),
        "--set", "config.auth.password.method=webhook", "--show-only", "templates/config.yaml",
    )  # fmt: skip
    auth = yaml(yaml(text)["stringData"]["config.yaml"])["auth"]
    assert (auth["password"]["method"], auth["publicKey"]["method"]) == ("webhook", "users")


def test_the_chart_has_no_mistake_that_helm_knows(release: Release) -> None:
    release.run("lint", "--strict", str(CHART), "--values", str(release.values))


# -- servers that end ----------------------------------------------------------------------------------------


async def test_when_a_server_is_killed_another_serves_on_and_removes_what_is_left(
    release: Release, tmp_path: Path
) -> None:
    client = Client(tmp_path)
    servers = release.servers()
    (doomed, one), (_, other) = servers.items()
    process = process_of(one)
    lost, kept = (
        await client.stay(place(one), "echo in; sleep 60"),
        await client.stay(place(other), "echo in; sleep 60"),
    )
    try:
        for session in (lost, kept):
            assert session.stdout is not None
            async with asyncio.timeout(30):
                assert await session.stdout.readline() == b"in\n"
        assert len(release.guest_pods()) == 2
        release.cluster.kubectl(
            "--namespace", release.namespace, "delete", "pod", doomed, "--grace-period=0", "--force", "--wait=false"
        )
        # Nobody starts it again: its pod is gone.
        os.kill(process, signal.SIGKILL)
        assert len(release.guest_pods()) == 2
        assert (await client.log_in(place(other), "echo in")).stdout == b"in\n", "the other one serves on"
        await asyncio.to_thread(wait_until, lambda: len(release.guest_pods()) == 1, within=20, what="the removal")
        logs = release.cluster.kubectl(
            "--namespace", release.namespace, "logs", "--selector", "app.kubernetes.io/name=containerssh", "--tail=-1"
        )
        assert "a server had left whose Lease has run out" in logs
        assert kept.returncode is None, "who is logged in elsewhere notices nothing"
    finally:
        for session in (lost, kept):
            with suppress(ProcessLookupError):
                session.kill()
            await session.communicate()


async def test_a_server_that_is_drained_ends_when_its_last_login_does(release: Release, tmp_path: Path) -> None:
    await asyncio.to_thread(
        release.cluster.kubectl, "--namespace", release.namespace, "rollout", "status", "deployment/gw-containerssh"
    )
    await asyncio.to_thread(wait_until, lambda: not release.guest_pods(), within=20, what="no pods of others")
    name, pod = next(iter(release.servers().items()))
    session = await Client(tmp_path).stay(place(pod), "echo in; sleep 6; echo done")
    try:
        assert session.stdout is not None
        async with asyncio.timeout(30):
            assert await session.stdout.readline() == b"in\n"
        release.cluster.kubectl("--namespace", release.namespace, "delete", "pod", name, "--wait=false")
        async with asyncio.timeout(30):
            assert await session.stdout.read() == b"done\n"
            assert await session.wait() == 0
        gone = ("--namespace", release.namespace, "wait", "--for=delete", f"pod/{name}", "--timeout=20s")
        await asyncio.to_thread(release.cluster.kubectl, *gone)
        assert release.guest_pods() == []
    finally:
        with suppress(ProcessLookupError):
            session.kill()
        await session.communicate()


async def test_guests_may_be_as_restricted_as_the_cluster_knows(release: Release, tmp_path: Path) -> None:
    user = "config.kubernetes.pod.spec.securityContext.runAsUser=1000"
    await asyncio.to_thread(release.put, "upgrade", "--set", f"guests.podSecurity=restricted,{user}")
    at = place(next(iter(release.servers().values())))
    done = await Client(tmp_path).log_in(at, "id -u; grep CapBnd /proc/self/status")
    assert done.stdout.split() == [b"1000", b"CapBnd:", b"0" * 16], done


# -- the end: nothing may come after this --------------------------------------------------------------------


async def test_servers_that_are_uninstalled_remove_the_pods_of_their_logins(release: Release, tmp_path: Path) -> None:
    at = place(next(iter(release.servers().values())))
    session = await Client(tmp_path).stay(at, "echo in; sleep 6; echo done")
    try:
        assert session.stdout is not None
        async with asyncio.timeout(30):
            assert await session.stdout.readline() == b"in\n"
        await asyncio.to_thread(release.run, "uninstall", "gw")
        assert len(release.guest_pods()) == 1
        async with asyncio.timeout(30):
            assert await session.stdout.read() == b"done\n", "what drains has its rights and its walls until its end"
        await asyncio.to_thread(wait_until, lambda: not release.left(), within=30, what="the removal")
    finally:
        with suppress(ProcessLookupError):
            session.kill()
        await session.communicate()
