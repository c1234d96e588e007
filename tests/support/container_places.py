"""The places of :mod:`tests.support.container_backends`: Docker, Podman, crun, and pods of a cluster."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from containerssh.backends.docker.backend import DockerBackend
from containerssh.backends.kubernetes.backend import KubernetesBackend
from containerssh.backends.oci.backend import OCIBackend
from containerssh.config.docker import DockerConfig
from containerssh.config.kubernetes import KubernetesConfig
from containerssh.config.oci import OCIConfig
from containerssh.core.handlers import ConnectionHandler
from containerssh.core.instance import Instance, open_instance
from containerssh.core.metadata import Login
from tests.support import pods
from tests.support.cluster import Cluster
from tests.support.container_backends import Lack, Mode, Place
from tests.support.docker import Seen, containers_of
from tests.support.oci import image as oci_image
from tests.support.oci import short_folder
from tests.support.services import Engine
from tests.support.tools import tool


class OnEngine(Place):
    """Docker's engine, or another that speaks its API."""

    transport: ClassVar[str]
    signals_main_program = True

    def __init__(self, engine: Engine, backend: DockerBackend) -> None:
        self._engine = engine
        self._backend = backend

    def login(
        self, meta: Login, *, mode: Mode = "connection", agent: bool = True
    ) -> AbstractAsyncContextManager[ConnectionHandler]:
        return self._backend.login(meta, DockerConfig.model_validate(self._docker(mode, agent=agent)), Seen())

    def left(self, meta: Login) -> list[str]:
        return containers_of(self._engine, meta)

    def remove(self, meta: Login) -> None:
        self._engine.docker("rm", "--force", *containers_of(self._engine, meta))

    def section(self) -> dict[str, Any]:
        return {"backend": "docker", "docker": self._docker("connection", agent=True)}

    def _docker(self, mode: Mode, *, agent: bool) -> dict[str, Any]:
        return {
            "connection": {"host": self._engine.address},
            "execution": {
                "mode": mode,
                "agent": "injected" if agent else "none",
                "agentTransport": self.transport,
                "shellCommand": ["/bin/sh"],
                "container": {"image": "bb:latest"},
                "host": {"networkmode": "none"},
                **({} if agent else {"idleCommand": ["/bin/sleep", "600"]}),
            },
            "timeouts": {"containerStart": "30s"},
        }


class Docker(OnEngine):
    name = "docker"
    transport = "socket"


class DockerAttached(OnEngine):
    """The agent speaks through the engine's attach stream."""

    name = "docker attached"
    transport = "attach"
    lacks: ClassVar[Mapping[Lack, str]] = {Lack.NO_AGENT: "it differs from docker by the agent's transport alone"}


class Podman(OnEngine):
    name = "podman"
    transport = "socket"


class Crun(Place):
    """The embedded backend."""

    name = "oci"
    lacks: ClassVar[Mapping[Lack, str]] = {
        Lack.NO_AGENT: "an OCI runtime keeps no streams of its containers: without the agent there is nothing"
    }

    def __init__(self, folder: Path, backend: OCIBackend, instance: Instance) -> None:
        self._folder = folder
        self._backend = backend
        self._instance = instance

    def login(
        self, meta: Login, *, mode: Mode = "connection", agent: bool = True
    ) -> AbstractAsyncContextManager[ConnectionHandler]:
        assert agent, self.lacks[Lack.NO_AGENT]
        config = OCIConfig.model_validate({**self.section()["oci"], "mode": mode})
        return self._backend.login(meta, config, Seen())

    def left(self, meta: Login) -> list[str]:
        # Not rglob or glob, which fail on folders that vanish meanwhile.
        groups = Path("/sys/fs/cgroup").glob("*/containerssh")
        found = (
            Path(at, name)
            for folder in (self._folder, *groups)
            for at, folders, files in os.walk(folder)
            for name in (*folders, *files)
        )
        left = [str(path) for path in found if meta.connection_id in path.name]
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                about = (process / "cgroup").read_text() + (process / "cmdline").read_text()
                if meta.connection_id in about:
                    left.append(f"{process}: {about}")
        return left

    def remove(self, meta: Login) -> None:
        state = self._folder / "run" / self._instance.id / "crun"
        (container,) = state.glob(f"{meta.connection_id}*")
        subprocess.run(
            [tool("crun"), "--root", state, "kill", "--all", container.name, "KILL"], check=True, capture_output=True
        )

    def section(self) -> dict[str, Any]:
        return {"backend": "oci", "oci": {"image": str(oci_image()), "runtime": "crun"}}


class InPods(Place):
    """A pod for each login."""

    link: ClassVar[str]
    removed = "The pod was deleted."

    def __init__(self, cluster: Cluster, namespace: str, backend: KubernetesBackend) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._backend = backend

    def login(
        self, meta: Login, *, mode: Mode = "connection", agent: bool = True
    ) -> AbstractAsyncContextManager[ConnectionHandler]:
        section = self._kubernetes(mode=mode, agent="injected" if agent else "none")
        return self._backend.login(meta, KubernetesConfig.model_validate(section), Seen())

    def left(self, meta: Login) -> list[str]:
        return [
            str(pod["metadata"]["name"])
            for pod in pods.pods(self._cluster, self._namespace)
            if pod["metadata"]["labels"].get("containerssh_connection_id") == meta.connection_id
        ]

    def remove(self, meta: Login) -> None:
        (name,) = self.left(meta)
        self._delete(name)

    def section(self) -> dict[str, Any]:
        return {"backend": "kubernetes", "kubernetes": self._kubernetes()}

    def _delete(self, pod: str) -> None:
        self._cluster.kubectl("--namespace", self._namespace, "delete", "pod", pod, "--grace-period=0", "--force")

    def _kubernetes(self, **pod: Any) -> dict[str, Any]:
        return pods.section(self._cluster, self._namespace, link=self.link, **pod)


class PodsByExec(InPods):
    """All data goes through the API server."""

    name = "kubernetes"
    link = "exec"


class PodsByDirectLink(InPods):
    """The agent dials the server."""

    name = "kubernetes direct"
    link = "direct"
    lacks: ClassVar[Mapping[Lack, str]] = {Lack.NO_AGENT: "it differs from kubernetes by the agent's transport alone"}


class PodThatStays(InPods):
    """The agent is uploaded into a pod that is there, and shared."""

    name = "kubernetes persistent"
    link = "exec"
    lacks: ClassVar[Mapping[Lack, str]] = {
        Lack.SESSIONS: "all sessions of all logins are in the one pod",
        Lack.NO_AGENT: "what the cluster starts by itself cannot be ended, and the pod stays",
    }

    def login(
        self, meta: Login, *, mode: Mode = "connection", agent: bool = True
    ) -> AbstractAsyncContextManager[ConnectionHandler]:
        assert mode == "connection", self.lacks[Lack.SESSIONS]
        assert agent, self.lacks[Lack.NO_AGENT]
        config = KubernetesConfig.model_validate(self._kubernetes(metadata={"name": self._pod(meta)}))
        return self._backend.login(meta, config, Seen())

    def left(self, meta: Login) -> list[str]:
        """Processes beside those of the idle pod."""
        running = [
            pod["metadata"]["name"]
            for pod in pods.pods(self._cluster, self._namespace)
            if pod["status"].get("phase") == "Running"
        ]
        if self._pod(meta) not in running:
            return []
        try:
            shown = self._cluster.kubectl("--namespace", self._namespace, "exec", self._pod(meta), "--", *_PROCESSES)
        except subprocess.CalledProcessError as exc:
            # It may have ended just now, or its program is being started again: whoever asks again knows more.
            return [exc.stderr.decode()]
        processes = [line.strip().partition(" ") for line in shown.splitlines()[1:]]
        return [command for pid, _, command in processes if pid != "1" and command not in _IDLE]

    def remove(self, meta: Login) -> None:
        self._delete(self._pod(meta))

    def _pod(self, meta: Login) -> str:
        """The suite's logins are alone in their pods, so that what is left is theirs."""
        return f"stays-{meta.connection_id}"

    def _kubernetes(self, **pod: Any) -> dict[str, Any]:
        return super()._kubernetes(**{"metadata": {"name": "stays"}, **pod}, mode="persistent", createMissingPods=True)


_PROCESSES = ("ps", "-o", "pid,args")
_IDLE = ("sleep 86400", " ".join(_PROCESSES))


# -- opening them -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Opening:
    """How a place is opened from pytest's fixtures, and the marks of tests there."""

    open: Callable[[pytest.FixtureRequest, Instance, Path], AbstractAsyncContextManager[Place]]
    marks: tuple[pytest.MarkDecorator, ...]
    lacks: Mapping[Lack, str]


def _engine(kind: type[OnEngine], fixture: str, *marks: pytest.MarkDecorator) -> tuple[str, _Opening]:
    @asynccontextmanager
    async def opened(request: pytest.FixtureRequest, instance: Instance, _: Path) -> AsyncIterator[Place]:
        engine: Engine = request.getfixturevalue(fixture)
        backend = DockerBackend(instance)
        try:
            yield kind(engine, backend)
        finally:
            await backend.close()

    return kind.name, _Opening(opened, marks, kind.lacks)


@asynccontextmanager
async def _crun(_: pytest.FixtureRequest, instance: Instance, folder: Path) -> AsyncIterator[Place]:
    backend = OCIBackend(instance)
    try:
        yield Crun(folder, backend, instance)
    finally:
        await backend.close()


def _pods(kind: type[InPods]) -> tuple[str, _Opening]:
    @asynccontextmanager
    async def opened(request: pytest.FixtureRequest, instance: Instance, _: Path) -> AsyncIterator[Place]:
        cluster: Cluster = request.getfixturevalue("cluster")
        with cluster.namespace() as namespace:
            backend = KubernetesBackend(instance)
            try:
                yield kind(cluster, namespace, backend)
            finally:
                await backend.close()

    return kind.name, _Opening(opened, (pytest.mark.root,), kind.lacks)


_OPENINGS: Mapping[str, _Opening] = dict(
    (
        _engine(Docker, "docker_engine", pytest.mark.docker),
        _engine(DockerAttached, "docker_engine", pytest.mark.docker),
        _engine(Podman, "podman", pytest.mark.podman, pytest.mark.root),
        (Crun.name, _Opening(_crun, (pytest.mark.oci, pytest.mark.root), Crun.lacks)),
        _pods(PodsByExec),
        _pods(PodsByDirectLink),
        _pods(PodThatStays),
    )
)


def _parameters(lack: Lack | None) -> list[Any]:
    return [
        pytest.param(name, marks=opening.marks, id=name)
        for name, opening in _OPENINGS.items()
        if lack not in opening.lacks
    ]


PLACES = _parameters(None)
"""For the parameter of the fixture ``place``: all of them."""


def wherever_there_is(lack: Lack) -> pytest.MarkDecorator:
    """The test runs in the places that do not lack this."""
    return pytest.mark.parametrize("place", _parameters(lack), indirect=True, scope="module")


@asynccontextmanager
async def opened_place(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    """The place that the fixture's parameter names, with an instance of the product of its own."""
    with short_folder() as folder, open_instance(folder / "state", folder / "run") as instance:
        async with _OPENINGS[request.param].open(request, instance, folder) as place:
            yield place
