"""Logins through the kubernetes backend, for tests: what is configured, run and looked at."""

from __future__ import annotations

import asyncio
import io
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from containerssh.agent.binaries import agent_binary
from containerssh.backends.kubernetes.backend import KubernetesBackend
from containerssh.config.kubernetes import KubernetesConfig
from containerssh.core.handlers import ConnectionHandler
from containerssh.core.metadata import Login
from tests.support.cluster import BUSYBOX, Cluster, image_archive
from tests.support.docker import Channel, Seen
from tests.support.services import wait_until
from tests.support.tools import tool

AGENT_IMAGE = "localhost/containerssh-test/agent:1"
SCRATCH = "localhost/containerssh-test/one-program:1"
"""Nothing but busybox as ``/busybox``."""
OLD_AGENT = "localhost/containerssh-test/old-agent:1"
"""Busybox with an agent of ContainerSSH 0.6 at its usual place."""
NO_FOLDER = "localhost/containerssh-test/no-folder:1"
"""Busybox for an ordinary user, who may write nowhere."""
NO_SHELL = "localhost/containerssh-test/no-shell:1"
"""Busybox as ``/busybox``, and an agent that can wait at its usual place."""
ABSENT = "localhost:9/containerssh-test/no-such-image:1"
"""Its pull is refused at once, by this machine."""


def section(
    cluster: Cluster,
    namespace: str,
    /,
    *,
    image: str = BUSYBOX,
    container: dict[str, Any] | None = None,
    timeouts: dict[str, str] | None = None,
    connection: dict[str, object] | None = None,
    link: str = "exec",
    **pod: Any,
) -> dict[str, Any]:
    """
    Pods of *image* in *namespace*; *container* is laid over the console, *pod* over its section; *link* is the way of
    the data.
    """
    spec = {
        "automountServiceAccountToken": False,
        "dnsPolicy": "Default",
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 1,
        **pod.pop("spec", {}),
    }
    console = {"name": "shell", "image": image, "imagePullPolicy": "Never", **(container or {})}
    return {
        "connection": connection or cluster.connection(qps=100.0, burst=200),
        "pod": {
            "shellCommand": ["/bin/sh"],
            **pod,
            "metadata": {"namespace": namespace, **pod.get("metadata", {})},
            "spec": {"containers": [console], **spec},
        },
        "agentLink": {"mode": link, "advertise": cluster.host_address} if link != "exec" else {},
        "timeouts": {"podStart": "30s", "commandStart": "30s", **(timeouts or {})},
    }


def config(cluster: Cluster, namespace: str, /, **settings: Any) -> KubernetesConfig:
    """:func:`section`, read."""
    return KubernetesConfig.model_validate(section(cluster, namespace, **settings))


@asynccontextmanager
async def logged_in(
    backend: KubernetesBackend, login: Login, settings: KubernetesConfig, seen: Seen | None = None
) -> AsyncIterator[ConnectionHandler]:
    async with backend.login(login, settings, seen or Seen()) as handler:
        yield handler


async def run(handler: ConnectionHandler, command: str, stdin: bytes = b"", **env: str) -> tuple[bytes, object]:
    """The output and the end of *command*."""
    channel = Channel(stdin)
    async with handler.session(channel) as session:
        for name, value in env.items():
            await session.set_env(name, value)
        await session.run_command(command)
        end = await channel.ended()
    return channel.out.data, end


def pods(cluster: Cluster, namespace: str, *, leaving: bool = False) -> list[dict[str, Any]]:
    """The namespace's pods; those that are being deleted only if they are asked for."""
    items: list[dict[str, Any]] = cluster.ask(f"/api/v1/namespaces/{namespace}/pods")["items"]
    return [pod for pod in items if leaving or not pod["metadata"].get("deletionTimestamp")]


async def no_pods(cluster: Cluster, namespace: str, within: float = 20) -> None:
    """Wait until the namespace has no pod that is not about to go."""
    await asyncio.to_thread(wait_until, lambda: not pods(cluster, namespace), within=within, what="no pods")


def import_images(cluster: Cluster) -> None:
    """The images above are there afterwards."""
    busybox = Path(tool("busybox")).resolve().read_bytes()
    agent = agent_binary(direct=True).read_bytes()
    cluster.import_image(image_archive(AGENT_IMAGE, _tar({"containerssh-agent": agent}), command=()))
    cluster.import_image(image_archive(SCRATCH, _tar({"busybox": busybox}), command=()))
    files = {"busybox": busybox, "usr/bin/containerssh-agent": agent}
    cluster.import_image(image_archive(NO_SHELL, _tar(files), command=()))
    links = {f"bin/{name}": "busybox" for name in ("sh", "sleep", "head", "wc", "mkdir", "rm", "chmod", "uname", "id")}
    root = _tar({"bin/busybox": busybox}, links, writable=False)
    cluster.import_image(image_archive(NO_FOLDER, root, user="1000"))


def import_old_agent(cluster: Cluster, script: str, forwarder: Path) -> None:
    """:data:`OLD_AGENT` is there afterwards; its agent is the shell *script*, with a program that forwards."""
    busybox = Path(tool("busybox")).resolve().read_bytes()
    applets = ("sh", "sleep", "kill", "head", "cat", "echo", "stty", "tty", "test", "httpd")
    files = {
        "bin/busybox": busybox,
        "usr/bin/containerssh-agent": script.encode(),
        "usr/bin/forwarder": forwarder.read_bytes(),
    }
    cluster.import_image(image_archive(OLD_AGENT, _tar(files, {f"bin/{name}": "busybox" for name in applets})))


def _tar(files: dict[str, bytes], links: dict[str, str] | None = None, *, writable: bool = True) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name in ("tmp", "etc"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" and writable else 0o755
            archive.addfile(folder)
        for path, content in files.items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(content), 0o755
            archive.addfile(entry, io.BytesIO(content))
        for path, target in (links or {}).items():
            link = tarfile.TarInfo(path)
            link.type, link.linkname = tarfile.SYMTYPE, target
            archive.addfile(link)
    return out.getvalue()
