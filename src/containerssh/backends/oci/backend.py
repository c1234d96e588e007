"""The ``oci`` backend: a container for each login or session, run by crun or runc."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from itertools import count
from pathlib import Path

from containerssh.backends.container import ContainerConnection, Execution
from containerssh.backends.expiry import expiry_labels
from containerssh.backends.host_addresses import host_addresses, no_addresses
from containerssh.backends.login_files import write_login_files
from containerssh.backends.oci import cgroups
from containerssh.backends.oci.bundle import DEFAULT_PATH
from containerssh.backends.oci.container import ContainerSpec, open_container
from containerssh.backends.oci.launcher import Launcher, open_launcher
from containerssh.backends.oci.machine import Machine, data_folder, find_machine
from containerssh.backends.oci.reaper import reap
from containerssh.backends.oci.users import find_user, shell_of
from containerssh.backends.session_mode import SessionModeConnection
from containerssh.config.oci import OCIConfig, OCIMode, OCINetwork
from containerssh.core.codes import OCICode
from containerssh.core.errors import BackendError
from containerssh.core.handlers import ConnectionHandler, Notices
from containerssh.core.instance import Instance
from containerssh.core.messages import Event
from containerssh.core.metadata import Login
from containerssh.core.requests import can_be_variable
from containerssh.core.tasks import time_limit

logger = logging.getLogger(__name__)

_FIND_LIMIT = timedelta(seconds=60)


class OCIBackend:
    """Runs containers without a daemon. Close it after the last login has ended."""

    name = "oci"

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._undo = AsyncExitStack()
        self._launcher: Launcher | None = None
        self._machines: dict[tuple[str, Path], Machine] = {}
        self._finding: dict[tuple[str, Path], asyncio.Task[Machine]] = {}
        self._data: set[Path] = set()
        self._preparing = asyncio.Lock()
        self._numbers = count(1)
        self._moves: asyncio.Future[None] | None = None

    def login(
        self, login: Login, config: OCIConfig, notices: Notices
    ) -> AbstractAsyncContextManager[ConnectionHandler]:
        """
        The scope of a login's container; in session mode, each session has its own.

        Raises:
            BackendError: the container could not be started.
        """
        return (self.container if config.mode is OCIMode.CONNECTION else self._sessions)(login, config, notices)

    @asynccontextmanager
    async def _sessions(self, login: Login, config: OCIConfig, notices: Notices) -> AsyncIterator[ConnectionHandler]:
        # Errors of the image or the configuration must be found here, while the user can still be told.
        async with time_limit(config.timeouts.container_start, lambda: _too_slow(config)):
            await self._prepare(login, config, notices)
        yield SessionModeConnection(partial(self.container, login, config, notices))

    @asynccontextmanager
    async def container(self, login: Login, config: OCIConfig, notices: Notices) -> AsyncIterator[ConnectionHandler]:
        """The scope of one container, ready for sessions; it is removed at the end."""
        async with AsyncExitStack() as undo:
            async with time_limit(config.timeouts.container_start, lambda: _too_slow(config)):
                self._expedite_moves()
                machine, spec = await self._prepare(login, config, notices)
                for image in (spec.image, spec.place.image):
                    undo.enter_context(machine.store.uses.hold(image.root))
                spec = replace(spec, place=undo.enter_context(machine.ranges.own(spec.place, config, machine.host)))
                logger.debug(Event(OCICode.CONTAINER_CREATE, "Starting a container", containerId=spec.id))
                link = await undo.enter_async_context(open_container(machine.host, spec))
            await write_login_files(
                login,
                link.write_file,
                limit=config.timeouts.command_start,
                writing=OCICode.FILE_WRITE,
                failed=OCICode.FILE_WRITE_FAILED,
            )
            container_id, connection = spec.id, ContainerConnection(link, _execution(config, spec))
            # Free the inputs, which would otherwise be kept as long as the container runs.
            del login, notices, spec, machine, image, link
            yield connection
            logger.debug(Event(OCICode.CONTAINER_REMOVE, "Removing the container", containerId=container_id))

    async def probe(self, config: OCIConfig) -> str:
        """
        Describe the runtime that works here.

        Raises:
            BackendError: none does; the text says what is missing and how to install it.
        """
        machine = await self._machine(config)
        return str(machine.host.runtime)

    async def reap(self, config: OCIConfig) -> int:
        """
        Remove what dead instances of this machine left: containers, their files, control groups. The caller forgets the
        instances afterwards (:meth:`Instance.forget`).

        Raises:
            BackendError: the helper process does not start.
        """
        dead = self._instance.dead()
        if not dead:
            return 0
        async with self._preparing:
            launcher = await self._running_launcher()
        return await reap(launcher, self._instance, data_folder(self._instance, config), dead)

    async def collect(self, config: OCIConfig) -> None:
        """
        Remove unpacked images that have not been used for ``imageExpiry``, if this server uses unpacked images.

        Raises:
            BackendError: the helper process has ended.
        """
        if config.image_expiry:
            for machine in list(self._machines.values()):
                await machine.store.collect(config.image_expiry)

    async def close(self) -> None:
        """End the helper process, and with it all running containers."""
        for finding in list(self._finding.values()):
            finding.cancel()
            await asyncio.wait((finding,))
        async with self._preparing:
            self._launcher = None
            await self._undo.aclose()
            for machine in self._machines.values():
                machine.close()
            self._machines.clear()
            for data in self._data:  # also if no runtime worked and there is no machine
                with suppress(OSError):
                    (data / "containers" / self._instance.id).rmdir()
        await asyncio.to_thread(cgroups.kill_and_remove, self._instance.id)

    def _expedite_moves(self) -> None:
        """
        Trigger the kernel's RCU grace period while the container is being prepared, so that its start need not wait for
        it.
        """
        uses_groups = any(machine.host.runtime.cgroups for machine in self._machines.values())
        if uses_groups and (self._moves is None or self._moves.done()):
            self._moves = asyncio.get_running_loop().run_in_executor(None, cgroups.expedite_moves)

    async def _machine(self, config: OCIConfig) -> Machine:
        """The result of probing this machine. Probed once, even if the first callers are cancelled meanwhile."""
        key = (config.runtime, data_folder(self._instance, config))
        machine = self._machines.get(key)
        if machine is not None and self._launcher is not None and self._launcher.alive:
            return machine
        finding = self._finding.get(key)
        if finding is None:
            finding = self._finding[key] = asyncio.create_task(self._find(key, config))
            finding.add_done_callback(partial(self._found, key))
        return await asyncio.shield(finding)

    async def _find(self, key: tuple[str, Path], config: OCIConfig) -> Machine:
        async with time_limit(_FIND_LIMIT, _nothing_found), self._preparing:
            launcher = await self._running_launcher()
            if key not in self._machines:
                self._data.add(key[1])
                self._machines[key] = await find_machine(launcher, self._instance, config)
            return self._machines[key]

    def _found(self, key: tuple[str, Path], finding: asyncio.Task[Machine]) -> None:
        del self._finding[key]
        if not finding.cancelled():
            finding.exception()  # mark as retrieved, in case all callers were cancelled

    async def _running_launcher(self) -> Launcher:
        """The helper process; started on first use, and again after it died."""
        if self._launcher is None or not self._launcher.alive:
            await self._undo.aclose()
            self._machines.clear()
            self._launcher = await self._undo.enter_async_context(open_launcher())
        return self._launcher

    async def _prepare(self, login: Login, config: OCIConfig, notices: Notices) -> tuple[Machine, ContainerSpec]:
        if not config.image:
            raise BackendError(OCICode.CONFIG_ERROR, "oci.image is not set")
        machine = await self._machine(config)
        limits = machine.limits(config)
        image = await machine.store.get(config, notices.notice)
        place = await machine.placement.place(image, config)
        # In a thread: files of a hostile image can be large.
        user = await asyncio.to_thread(find_user, image.root, config.user or image.config.user)
        number = next(self._numbers)
        spec = ContainerSpec(
            id=f"{login.connection_id}-{number}",
            config=config,
            image=image,
            place=place,
            user=user,
            environment={},
            hostname=config.hostname or login.connection_id[:12],
            limits=limits,
            annotations={
                **_annotations(login, self._instance),
                **expiry_labels(login, config.timeouts.container_stop),
            },
        )
        return machine, spec.with_environment(_environment(login, config, spec))


def _too_slow(config: OCIConfig) -> BackendError:
    text = f"the container was not ready within containerStart, {config.timeouts.container_start.total_seconds():g} s"
    return BackendError(OCICode.CONTAINER_CREATE_FAILED, text)


def _nothing_found() -> BackendError:
    text = f"it was not found out within {_FIND_LIMIT.total_seconds():g} s which OCI runtime works here"
    return BackendError(OCICode.RUNTIME_MISSING, text)


def _annotations(login: Login, instance: Instance) -> dict[str, str]:
    """The annotations, equal to the docker backend's labels."""
    return {
        "containerssh_connection_id": login.connection_id,
        "containerssh_ip": login.remote_address.host,
        "containerssh_username": login.username,
        "containerssh_instance": instance.id,
    }


def _environment(login: Login, config: OCIConfig, spec: ContainerSpec) -> dict[str, str]:
    """
    The container's environment. In increasing precedence: the login's, the image's, the configured, the webhooks'
    variables (``webhooks.md`` section 7).
    """
    user, root = spec.user, spec.image.root
    environment = {"PATH": DEFAULT_PATH, "HOSTNAME": spec.hostname, "HOME": user.home, "SHELL": shell_of(root, user)}
    if user.name:
        environment |= {"USER": user.name, "LOGNAME": user.name}
    environment |= spec.image.config.env
    environment |= own_environment(login, config)
    for name in [name for name, text in environment.items() if not can_be_variable(name, text)]:
        text = f"A variable cannot be named {name[:100]!r}, or its value contains NUL; it is left out"
        logger.warning(Event(OCICode.CONTAINER_CREATE, text))
        del environment[name]
    return environment


def own_environment(login: Login, config: OCIConfig) -> dict[str, str]:
    """The variables of a login that come neither from the image nor from its surroundings."""
    environment: dict[str, str] = dict(entry.partition("=")[::2] for entry in config.env)
    if config.expose_auth_metadata_as_env:
        environment |= {name: value.value for name, value in login.metadata.items()}
    return environment | {name: value.value for name, value in login.environment.items()}


def _execution(config: OCIConfig, spec: ContainerSpec) -> Execution:
    shell = config.shell_command or (shell_of(spec.image.root, spec.user),)
    return Execution(
        shell_command=tuple(shell),
        subsystems=dict(config.subsystems),
        command_start=config.timeouts.command_start,
        signal=config.timeouts.signal,
        window=config.timeouts.window,
        environment={},
        leftovers=config.background_processes,
        host=no_addresses if config.network is OCINetwork.HOST else host_addresses,
    )
