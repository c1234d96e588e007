"""One container: its folder, its files, its runtime process, and the link to its agent."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import count
from pathlib import Path

from containerssh.agent.dialback import MOUNT_POINT, dial_back
from containerssh.agent.link import AgentLink
from containerssh.backends.oci import cgroups, trees
from containerssh.backends.oci.bundle import BundleSpec, IdMap, Limits, write_bundle
from containerssh.backends.oci.image import Image
from containerssh.backends.oci.launcher import Child, Launcher, clean_environment
from containerssh.backends.oci.runtime import Runtime, architecture, staging_folder
from containerssh.backends.oci.users import User, resolve_folder
from containerssh.config.oci import OCIConfig, OCINetwork, split_bind
from containerssh.core.codes import OCICode
from containerssh.core.counters import counters
from containerssh.core.errors import BackendError
from containerssh.core.instance import Instance, make_private
from containerssh.core.metrics import BACKEND_ERRORS, BACKEND_REQUESTS
from containerssh.core.tasks import finish

_numbers = count()


@dataclass(frozen=True)
class Place:
    """How an image's files become a container's root, determined by trying (:mod:`.placement`)."""

    image: Image
    """The image as the container sees it: a shifted copy where mounts cannot shift owners."""
    storage: str
    """``overlay``, or ``copy`` where overlays are unavailable (without root before Linux 5.11)."""
    id_map: IdMap | None
    idmapped: bool
    """Whether the image is mounted with shifted owners (idmapped)."""

    def order(self, container: Path, at: str, binds: Sequence[str]) -> dict[str, object]:
        """The part of an order to the helper that describes the assembly of the files."""
        order: dict[str, object] = {
            "at": at,
            "container": str(container),
            "base": self.id_map.base if self.id_map else 0,
            "lower": str(self.image.root),
            "storage": self.storage,
            "binds": list(binds),
        }
        if self.idmapped and self.id_map:
            order["idmap"] = [self.id_map.base, self.id_map.size]
        return order


@dataclass(frozen=True)
class ContainerSpec:
    """The description of a container to be started."""

    id: str
    config: OCIConfig
    image: Image
    """The original image, for lookups: without root, the gateway may lack access to files in a shifted copy."""
    place: Place
    user: User
    environment: Mapping[str, str]
    hostname: str
    limits: Limits
    annotations: Mapping[str, str]

    def with_environment(self, environment: Mapping[str, str]) -> ContainerSpec:
        """A copy of this description with *environment*."""
        return replace(self, environment=environment)


@dataclass(frozen=True)
class Host:
    """The resources of this machine that containers use."""

    instance: Instance
    launcher: Launcher
    runtime: Runtime
    data: Path

    @property
    def makes_user_namespaces(self) -> bool:
        """Whether the helper, not the runtime, creates the containers' user namespaces."""
        return self.launcher.ranges is None and self.runtime.joins_user_namespaces

    @property
    def state(self) -> Path:
        """The runtime's state folder of this instance's containers."""
        return self.instance.runtime / self.runtime.kind

    def container_folder(self, container_id: str) -> Path:
        """The folder of a container's bundle and its changes."""
        return self.data / "containers" / self.instance.id / container_id


@asynccontextmanager
async def open_container(host: Host, spec: ContainerSpec) -> AsyncIterator[AgentLink]:
    """
    Start a container with the agent as its first process; it is removed with all its data at the end.

    The caller limits the start; ``containerStop`` limits each step of the removal.

    Raises:
        BackendError: the container did not start.
    """
    within = spec.config.timeouts.container_stop
    async with dial_back(host.instance.runtime, architecture()) as back:
        argv = [*_entrypoint(spec), *back.command]
        async with running(host, spec, argv, {MOUNT_POINT: back.folder}, within) as child:
            link = await _first(back.accept(), child)
            # References kept while it runs would take memory for each login.
            del spec, argv, back
            yield link


def _entrypoint(spec: ContainerSpec) -> Sequence[str]:
    given = spec.config.entrypoint
    return spec.image.config.entrypoint if given is None else given


@asynccontextmanager
async def running(
    host: Host, spec: ContainerSpec, argv: Sequence[str], mounts: Mapping[str, Path], within: timedelta
) -> AsyncIterator[Child]:
    """The scope of a container that runs *argv*, with *mounts* (inside, outside) bound read-only."""
    container_id = spec.id
    folder = host.container_folder(container_id)
    make_private(folder.parent)
    folder.mkdir(mode=0o700)
    try:
        order = await _written(host, spec, folder, argv, mounts)
        child = host.launcher.child()
        del spec, argv, mounts
        try:
            counters.add(BACKEND_REQUESTS, backend="oci")
            await child.start("run", **order)
            del order
            yield child
        finally:
            await finish(lambda: _end(host, container_id, child), within=within)
    finally:
        await finish(lambda: _remove(host, folder), within=within)


async def _written(
    host: Host, spec: ContainerSpec, folder: Path, argv: Sequence[str], mounts: Mapping[str, Path]
) -> dict[str, object]:
    """Write the bundle to *folder*; return the order to the helper that runs it."""
    if spec.place.storage == "copy":
        await _copy_root(host, spec, folder)
    own = {**_write_files(folder, spec), **mounts}
    binds = [split_bind(bind)[0] for bind in spec.config.binds]
    at = staging_folder(host.data, host.instance.runtime, Path(host.runtime.path))
    namespace = _user_namespace(host, spec.place.id_map)
    numbered = [f"{at}/{number}" for number in range(len(binds) + len(own))]
    bundle = BundleSpec(
        root=f"{at}/root",
        argv=argv,
        environment=spec.environment,
        user=spec.user,
        working_directory=_working_directory(spec),
        hostname=spec.hostname,
        id_map=spec.place.id_map,
        user_namespace=f"{at}/user" if namespace else None,
        cgroup=cgroups.cgroup_path(host.instance.id, spec.id) if host.runtime.cgroups else None,
        limits=spec.limits,
        binds=numbered[: len(binds)],
        mounts=[(source, inside, True) for source, inside in zip(numbered[len(binds) :], own, strict=True)],
        annotations=spec.annotations,
    )
    write_bundle(folder, spec.config, bundle)
    return {
        "argv": host.runtime.argv(host.state, "run", "--bundle", str(folder), spec.id),
        "environment": clean_environment(),
        "hide_unified": host.runtime.hide_unified,
        "user_namespace": namespace,
        **spec.place.order(folder, at, [*binds, *map(str, own.values())]),
    }


def _user_namespace(host: Host, id_map: IdMap | None) -> list[int] | None:
    """The user namespace that the helper creates: base, size, owner. None: the runtime creates one."""
    if id_map is None or not host.makes_user_namespaces:
        return None
    return [id_map.base, id_map.size, id_map.base + next(_numbers) % id_map.size]


async def _copy_root(host: Host, spec: ContainerSpec, folder: Path) -> None:
    ended = await host.launcher.call("copy", source=str(spec.place.image.root), target=str(folder / "copy"))
    if ended.status != 0:
        raise BackendError(OCICode.CONTAINER_CREATE_FAILED, f"the image could not be copied: {ended.last_words}")


def _write_files(folder: Path, spec: ContainerSpec) -> dict[str, Path]:
    """
    Write the files that engines mount over some files of the image. They are bind mounts: the image is never modified.
    """
    hosts = f"127.0.0.1\tlocalhost {spec.hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n"
    texts = {"/etc/hostname": f"{spec.hostname}\n", "/etc/hosts": hosts, "/etc/resolv.conf": ""}
    if spec.config.network is OCINetwork.HOST:
        for name in ("/etc/hosts", "/etc/resolv.conf"):
            with suppress(OSError, UnicodeDecodeError):
                texts[name] = Path(name).read_text()
    own = {}
    taken = {split_bind(bind)[1] for bind in spec.config.binds}
    for name, text in texts.items():
        if name not in taken:
            own[name] = folder / Path(name).name
            own[name].write_text(text)
            own[name].chmod(0o644)
    return own


def _working_directory(spec: ContainerSpec) -> str:
    image = spec.image
    return resolve_folder(image.root, spec.config.working_directory or image.config.working_directory or "/")


async def _first(accepting: Coroutine[None, None, AgentLink], child: Child) -> AgentLink:
    """The agent's link; raises an error as soon as the container has ended instead."""
    accept = asyncio.create_task(accepting)
    ended = asyncio.create_task(child.wait())
    try:
        await asyncio.wait((accept, ended), return_when=asyncio.FIRST_COMPLETED)
        if accept.done():
            return accept.result()
        counters.add(BACKEND_ERRORS, backend="oci")
        raise BackendError(OCICode.CONTAINER_CREATE_FAILED, f"the container did not start: {ended.result().last_words}")
    finally:
        for waiting in (accept, ended):
            waiting.cancel()
        await asyncio.gather(accept, ended, return_exceptions=True)


async def _end(host: Host, container_id: str, child: Child) -> None:
    """Kill the container, and remove what the runtime has not removed."""
    await child.stop()
    state = host.state / container_id
    left = await asyncio.to_thread(_kill_what_is_left, host, container_id, state)
    if left:
        await _remove(host, state)


def _kill_what_is_left(host: Host, container_id: str, state: Path) -> bool:
    left = state.exists()
    if left:
        kill_by_state(state)
    if host.runtime.cgroups:
        cgroups.kill_and_remove(host.instance.id, container_id)
    return left


async def _remove(host: Host, folder: Path) -> None:
    if host.launcher.alive:
        ended = await host.launcher.call("remove", folder=str(folder))
        if ended.status == 0:
            return
        reason = ended.last_words
    else:
        # Without root, only a helper can remove files of the container's users; the next start has one again.
        try:
            await asyncio.to_thread(trees.remove, str(folder))
        except OSError as exc:
            reason = str(exc)
        else:
            return
    raise BackendError(OCICode.CONTAINER_REMOVE_FAILED, f"{folder} could not be removed: {reason}")


def kill_by_state(state: Path) -> bool:
    """
    Kill the first process of the container whose state a runtime left in *state*, if the process id was not reused.
    """
    for name, pid_key, start_key in (
        ("status", "pid", "process-start-time"),  # crun
        ("state.json", "init_process_pid", "init_process_start"),  # runc
    ):
        try:
            found = json.loads((state / name).read_bytes())
            pid, started = int(found[pid_key]), int(found[start_key])
            descriptor = os.pidfd_open(pid)
        except (OSError, ValueError, KeyError, TypeError):
            continue
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            if int(fields[19]) == started:
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                return True
        except (OSError, IndexError):
            continue
        finally:
            os.close(descriptor)
    return False
