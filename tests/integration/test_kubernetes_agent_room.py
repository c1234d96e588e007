"""Where the agent finds room in a pod, and what the log says where it finds none."""

from __future__ import annotations

import asyncio
import io
import re
import subprocess
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from containerssh.agent.binaries import agent_binary
from containerssh.backends.kubernetes.backend import KubernetesBackend
from containerssh.core.errors import BackendError
from containerssh.core.instance import open_instance
from tests.support.cluster import BUSYBOX, Cluster, image_archive
from tests.support.docker import a_login
from tests.support.pods import SCRATCH, config, import_images, logged_in, pods, run
from tests.support.tools import tool

pytestmark = pytest.mark.root

ONLY_SHELL = "localhost/containerssh-test/only-shell:1"
"""A shell as /bin/sh, and no other program."""


@pytest.fixture
async def backend(tmp_path: Path) -> AsyncIterator[KubernetesBackend]:
    with open_instance(tmp_path / "state", tmp_path / "run") as instance:
        made = KubernetesBackend(instance)
        try:
            yield made
        finally:
            await made.close()


def _only_shell() -> bytes:
    shell = tool("dash")
    linked = subprocess.run(["ldd", shell], capture_output=True, text=True, check=True).stdout
    files = {"bin/sh": shell, **{path.lstrip("/"): path for path in re.findall(r"/\S+", linked)}}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, path in files.items():
            content = Path(path).resolve().read_bytes()
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def _pod(command: str, *, read_only: bool) -> dict[str, Any]:
    """A pod named lab, whose /tmp takes 12 MiB."""
    container = {
        "name": "shell",
        "image": BUSYBOX,
        "imagePullPolicy": "Never",
        "command": ["sh", "-c", command],
        "securityContext": {"readOnlyRootFilesystem": read_only},
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
        "readinessProbe": {"exec": {"command": ["test", "-e", "/tmp/full"]}, "periodSeconds": 1},
    }
    spec = {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 0,
        "containers": [container],
        "volumes": [{"name": "tmp", "emptyDir": {"medium": "Memory", "sizeLimit": "12Mi"}}],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "lab"}, "spec": spec}


@pytest.mark.parametrize("link", ["exec", "direct"])
async def test_a_folder_that_is_nearly_full_is_passed_over(
    cluster: Cluster, namespace: str, backend: KubernetesBackend, link: str
) -> None:
    filled = 12 * 1024 - agent_binary(direct=link == "direct").stat().st_size // 1024 // 2
    fill = f"head -c {filled}k /dev/zero >/tmp/much; touch /tmp/full; exec sleep 600"
    cluster.apply(_pod(fill, read_only=False), namespace=namespace)
    settings = config(cluster, namespace, mode="persistent", metadata={"name": "lab"}, agent="injected", link=link)
    async with logged_in(backend, a_login(), settings) as handler:
        assert await run(handler, "ls -A /tmp; ls -d /.c*") == (b"full\nmuch\n", 1), "the agent's file is gone"


async def test_where_no_folder_has_room_for_the_agent_it_is_kept_out(
    cluster: Cluster, namespace: str, backend: KubernetesBackend, caplog: pytest.LogCaptureFixture
) -> None:
    fill = "head -c 11500k /dev/zero >/tmp/much; touch /tmp/full; exec sleep 600"
    cluster.apply(_pod(fill, read_only=True), namespace=namespace)
    settings = config(cluster, namespace, mode="persistent", metadata={"name": "lab"})
    async with logged_in(backend, a_login(), settings) as handler:
        assert await run(handler, "ls -A /tmp") == (b"full\nmuch\n", 0)
    assert "no folder in which a program may be put" in caplog.text


@pytest.mark.parametrize("disabled", [False, True], ids=["with the agent", "without an agent"])
async def test_a_file_for_which_there_is_no_room_is_a_warning_soon(
    cluster: Cluster, namespace: str, backend: KubernetesBackend, caplog: pytest.LogCaptureFixture, disabled: bool
) -> None:
    volume = {"name": "data", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}
    container = {"volumeMounts": [{"name": "data", "mountPath": "/data"}]}
    settings = config(cluster, namespace, disableAgent=disabled, container=container, spec={"volumes": [volume]})
    login = a_login(files={"/data/large": "x" * 5_000_000, "/data": "x" * 5_000_000, "/data/small": "x"})
    async with asyncio.timeout(15), logged_in(backend, login, settings) as handler:
        assert await run(handler, "ls -A /data") == (b"small\n", 0)
    assert "o space left on device" in caplog.text
    assert caplog.text.count("could not be written into the container") == 2


async def test_an_image_with_a_shell_alone_is_said_to_lack_the_programs_that_bring_the_agent_in(
    cluster: Cluster, namespace: str, backend: KubernetesBackend, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.import_image(image_archive(ONLY_SHELL, _only_shell()))
    async with logged_in(backend, a_login(), config(cluster, namespace, image=ONLY_SHELL)) as handler:
        assert await run(handler, "echo in") == (b"in\n", 0)
        assert len(pods(cluster, namespace, leaving=True)) == 1, "a volume would not help"
    assert "the image has no program mkdir" in caplog.text


async def test_an_image_without_shell_and_agent_is_said_to_have_neither(
    cluster: Cluster, namespace: str, backend: KubernetesBackend
) -> None:
    import_images(cluster)
    for _ in range(2):
        with pytest.raises(BackendError, match=r"containerssh-agent.*nor does the image seem to have sh: set"):
            async with logged_in(backend, a_login(), config(cluster, namespace, image=SCRATCH)):
                pytest.fail("it was let in")
