"""A real one-node Kubernetes on loopback, started by ``scripts/cluster`` for a test run."""

from __future__ import annotations

import io
import json
import os
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from http.client import HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any

import pytest

from tests.support.services import wait_until
from tests.support.tools import tool

BUSYBOX = "localhost/containerssh-test/busybox:1"
"""Static busybox with every applet, users root and user (1000), ``CMD ["/bin/sh"]``."""
TESTER_TOKEN = "tester-token"
"""The token of the user ``tester``, who has no rights until a test grants some."""

_SCRIPT = Path(__file__).parents[2] / "scripts" / "cluster"
_START_LIMIT = 240.0
_RBAC = "/apis/rbac.authorization.k8s.io/v1"
_IN_FORCE = {"apiGroups": ["tests.invalid"], "resources": ["rights"], "verbs": ["get"]}
"""A right to nothing that there is: who has it has the others of its role, too."""


class APIRefused(OSError):
    """An error response of the API: its status and message."""


@dataclass(frozen=True)
class Cluster:
    """A cluster whose node is ready."""

    folder: Path
    """Its state: ``pki/*.crt`` and ``.key`` of ``ca``, ``admin``, ``tester``; ``*.kubeconfig`` of the latter two."""
    port: int
    """The API server's, on 127.0.0.1."""
    binaries: Path

    @property
    def address(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def host_address(self) -> str:
        """The address of this machine that pods reach: their bridge's."""
        return f"10.213.{self.port % 200}.1"

    def processes(self) -> list[int]:
        """The ids of what runs it: the API server, the kubelet, the runtime and so on."""
        return [int(text) for file in (self.folder / "pid").iterdir() if (text := file.read_text())]

    @property
    def kubeconfig(self) -> Path:
        """The administrator's."""
        return self.folder / "admin.kubeconfig"

    @property
    def authorities(self) -> Path:
        return self.folder / "pki" / "ca.crt"

    def connection(self, **more: object) -> dict[str, object]:
        """The administrator's connection, as ``kubernetes.connection`` has it."""
        pki = self.folder / "pki"
        return {
            "host": self.address,
            "cacertFile": str(pki / "ca.crt"),
            "certFile": str(pki / "admin.crt"),
            "keyFile": str(pki / "admin.key"),
            **more,
        }

    def kubectl(self, *arguments: str, stdin: bytes | None = None, kubeconfig: Path | None = None) -> str:
        """
        Run kubectl; its output without the last line end.

        Raises:
            subprocess.CalledProcessError: it failed; ``stderr`` has its words.
        """
        command = [str(self.binaries / "kubectl"), "--kubeconfig", str(kubeconfig or self.kubeconfig), *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, check=True, timeout=60)
        return done.stdout.decode().rstrip("\n")

    def object(self, *arguments: str) -> dict[str, Any]:
        """What ``kubectl get`` says of one object or a list."""
        found: dict[str, Any] = json.loads(self.kubectl("get", *arguments, "-o", "json"))
        return found

    def ask(self, path: str, method: str = "GET", body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """
        What the API answers the administrator: a tenth of what starting kubectl takes.

        Raises:
            APIRefused: it says no.
        """
        context = ssl.create_default_context(cafile=str(self.authorities))
        context.load_cert_chain(self.folder / "pki" / "admin.crt", self.folder / "pki" / "admin.key")
        connection = HTTPSConnection("127.0.0.1", self.port, context=context, timeout=60)
        try:
            data = None if body is None else json.dumps(body).encode()
            connection.request(method, path, data, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            found: dict[str, Any] = json.loads(answer.read())
        finally:
            connection.close()
        if answer.status >= 400:
            raise APIRefused(answer.status, str(found.get("message")))
        return found

    def apply(self, *objects: Mapping[str, Any], namespace: str = "default") -> None:
        """Create or change objects."""
        text = "\n---\n".join(json.dumps(one) for one in objects)
        self.kubectl("--namespace", namespace, "apply", "-f", "-", stdin=text.encode())

    def token(self, namespace: str, rules: Sequence[Mapping[str, Any]]) -> str:
        """The token of a new service account of *namespace* that may do what the RBAC *rules* say there."""
        name = f"account-{secrets.token_hex(4)}"
        core, rbac = f"/api/v1/namespaces/{namespace}", f"{_RBAC}/namespaces/{namespace}"
        self.ask(f"{core}/serviceaccounts", "POST", {"metadata": {"name": name}})
        self.ask(f"{rbac}/roles", "POST", {"metadata": {"name": name}, "rules": [*rules, _IN_FORCE]})
        binding = {
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
        }
        self.ask(f"{rbac}/rolebindings", "POST", binding)
        who = f"system:serviceaccount:{namespace}:{name}"
        wait_until(lambda: self._is_in_force(namespace, who), within=30, what="the account's rights")
        token: str = self.ask(f"{core}/serviceaccounts/{name}/token", "POST", {})["status"]["token"]
        return token

    @contextmanager
    def namespace(self) -> Iterator[str]:
        """A namespace of its own in which pods can be made; it is being deleted afterwards."""
        name = f"test-{secrets.token_hex(4)}"
        self.ask("/api/v1/namespaces", "POST", {"metadata": {"name": name}})
        try:
            wait_until(lambda: self._has_account(name), within=30, what="the namespace's default account")
            yield name
        finally:
            with suppress(OSError, HTTPException):
                self.ask(f"/api/v1/namespaces/{name}/pods", "DELETE", {"gracePeriodSeconds": 0})
                self.ask(f"/api/v1/namespaces/{name}", "DELETE")

    def import_image(self, archive: bytes) -> None:
        """Give the node the images of an archive, as ``docker save`` or :func:`image_archive` makes them."""
        socket_path = str(self.folder / "containerd" / "sock")
        command = [tool("ctr"), "--address", socket_path, "--namespace", "k8s.io", "images", "import", "-"]
        subprocess.run(command, input=archive, capture_output=True, check=True, timeout=120)

    def kill_api_server(self) -> None:
        """End the API server at once; it does not come back by itself."""
        pid = int((self.folder / "pid" / "kube-apiserver").read_text())
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not _listens(self.port), within=10, what="the API server's end")

    def start_api_server(self) -> None:
        """Start it again; returns when it is ready."""
        _run("start-api", str(self.folder))

    def _is_in_force(self, namespace: str, who: str) -> bool:
        """Whether the API server has heard of the role of *who*."""
        right = {"namespace": namespace, "group": "tests.invalid", "resource": "rights", "verb": "get"}
        review = {"spec": {"user": who, "resourceAttributes": right}}
        found = self.ask("/apis/authorization.k8s.io/v1/subjectaccessreviews", "POST", review)
        return bool(found["status"]["allowed"])

    def _has_account(self, namespace: str) -> bool:
        try:
            self.ask(f"/api/v1/namespaces/{namespace}/serviceaccounts/default")
        except APIRefused:
            return False
        return True


@contextmanager
def running_cluster() -> Iterator[Cluster]:
    """
    A cluster of this run, ended with it. Skips the test when nothing was built (``make cluster``), or fails it if
    CONTAINERSSH_CLUSTER_REQUIRED is set.
    """
    found = subprocess.run([_SCRIPT, "folder"], capture_output=True, text=True)
    if found.returncode or os.geteuid() != 0:
        why = "needs root: run make test" if os.geteuid() else "Kubernetes is not built: run make cluster"
        if os.environ.get("CONTAINERSSH_CLUSTER_REQUIRED"):
            pytest.fail(why, pytrace=False)
        pytest.skip(why)
    # A short path: there are unix sockets below it.
    folder = Path(tempfile.mkdtemp(prefix="kt-", dir="/tmp"))
    port = _four_ports()
    try:
        _run("up", str(folder), str(port))
        yield Cluster(folder, port, Path(found.stdout.strip()))
    finally:
        _run("down", str(folder))
        shutil.rmtree(folder, ignore_errors=True)


def image_archive(
    name: str,
    root: bytes,
    *,
    command: Sequence[str] = ("/bin/sh",),
    user: str = "",
    env: Sequence[str] = ("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",),
) -> bytes:
    """An image with the root file system *root* (tar), as an archive that a node can import."""
    config = json.dumps(
        {
            "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine],
            "os": "linux",
            "config": {"Cmd": list(command), "User": user, "Env": list(env)},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{sha256(root).hexdigest()}"]},
        }
    ).encode()
    config_name = f"{sha256(config).hexdigest()}.json"
    manifest = json.dumps([{"Config": config_name, "RepoTags": [name], "Layers": ["layer.tar"]}]).encode()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for path, content in ((config_name, config), ("layer.tar", root), ("manifest.json", manifest)):
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def _run(*arguments: str) -> None:
    done = subprocess.run(
        [_SCRIPT, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        timeout=_START_LIMIT, text=True,
    )  # fmt: skip
    assert done.returncode == 0, f"scripts/cluster {arguments[0]}: {done.stderr.strip()[-2000:]}"


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _four_ports() -> int:
    """The first of four consecutive free ports, below the kernel's ephemeral range."""
    while True:
        first = 20_000 + secrets.randbelow(12_000)
        if not any(_listens(port) for port in range(first, first + 4)):
            return first
