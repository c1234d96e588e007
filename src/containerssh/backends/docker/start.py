"""Starting a container with the guest agent in it, and connecting to the agent."""

from __future__ import annotations

import asyncio
import io
import logging
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Self, TypeVar

from containerssh.agent.binaries import agent_binary
from containerssh.agent.dialback import MOUNT_POINT, dial_back
from containerssh.agent.link import FRAMED_ARGUMENTS, AgentLink, framed_link
from containerssh.backends.docker.answers import Image
from containerssh.backends.docker.container import EngineContainer, persist
from containerssh.backends.docker.engine import Engine
from containerssh.backends.docker.engine_error import EngineError, counted
from containerssh.backends.docker.frames import Attached
from containerssh.backends.docker.launch import agent_is_main, create_body
from containerssh.backends.docker.reference import parse_reference
from containerssh.backends.expiry import expiry_labels
from containerssh.backends.login_files import write_login_files
from containerssh.config.docker import DockerConfig
from containerssh.core.codes import DockerCode
from containerssh.core.errors import ProtocolError, describe
from containerssh.core.handlers import Notices
from containerssh.core.instance import Instance
from containerssh.core.messages import Event, log_labels
from containerssh.core.metadata import Login
from containerssh.core.tasks import finish, time_limit
from containerssh.core.text import one_line

logger = logging.getLogger(__name__)

T = TypeVar("T")

UPLOADED_AGENT = ".containerssh/agent"
"""The path of the agent, relative to ``/``, in a container that cannot access the gateway's files."""

_FIRST_LOOK = 0.1
_SLOWEST_LOOK = 0.5
_AGENT_LINES = 50
_STREAM_BEFORE_STATE = 1.0
"""How long in seconds a busy Podman may still report a container as running after the end of its stream."""
_SILENT_ENGINE = timedelta(seconds=2)


class _SocketUseless(Exception):
    """The agent cannot be reached through a socket; *lasting*: on this engine in general."""

    def __init__(self, why: str, *, lasting: bool) -> None:
        super().__init__(why)
        self.lasting = lasting


@dataclass
class Start:
    """Starts one container for *login*; :meth:`run` is its lifetime."""

    engine: Engine
    instance: Instance
    config: DockerConfig
    login: Login
    notices: Notices
    on_left: Callable[[EngineContainer], None]
    """Called with a container that could not be removed in time."""
    held: set[str] = field(default_factory=set)
    """The ``launch`` id of each container that this process still manages."""
    patience: timedelta = timedelta(seconds=10)
    """The time after which the image's entrypoint is assumed to ignore its arguments, which are the agent's command."""
    _last: EngineError | None = field(default=None, init=False)
    container: EngineContainer | None = field(default=None, init=False)
    """The container that was created last."""
    _agent_lines: int = field(default=0, init=False)
    _ends: float = field(default=0.0, init=False)

    @asynccontextmanager
    async def run(self, within: timedelta) -> AsyncIterator[AgentLink]:
        """
        The scope of a started container with the login's files; yields the link to its agent. The container is removed
        at the end.

        Raises:
            BackendError: it could not be started within *within*.
        """
        self._ends = asyncio.get_running_loop().time() + within.total_seconds()
        async with AsyncExitStack() as undo:
            async with time_limit(within, partial(self._late, within)):
                link = await self._start(undo)
            await self.write_login_files(link.write_file)
            yield link

    def again(self) -> Self:
        """A copy for another container."""
        return replace(self)

    async def prepare(self) -> None:
        """
        In session mode, prepare the login: make sure that the image exists.

        Raises:
            BackendError: the image is not available.
        """
        within = self.config.timeouts.container_start
        async with time_limit(within, partial(self._late, within)):
            await self._image()

    def _late(self, within: timedelta) -> EngineError:
        text = f"the container was not ready within {within.total_seconds():g} s"
        if self._last is not None:
            text += f"; last error: {self._last.explanation}"
        user_message = "The container was not ready in time."
        return counted(EngineError(DockerCode.CONTAINER_START_FAILED, text, user_message=user_message))

    async def _start(self, undo: AsyncExitStack) -> AgentLink:
        execution = self.config.execution
        image = await self._image()
        architecture = execution.platform.get("architecture") or image.architecture
        if self.engine.uses_socket(execution):
            try:
                return await self._kept(undo, partial(self._by_socket, architecture))
            except _SocketUseless as exc:
                if execution.agent_transport == "socket":
                    text = f"agentTransport socket: the container cannot use this machine's sockets ({exc})"
                    raise EngineError(DockerCode.CONTAINER_CREATE_FAILED, text) from None
                if exc.lasting:
                    self.engine.lacks_our_files()
                    self.engine.uses_socket(execution)
        return await self._kept(undo, partial(self._by_attach, architecture))

    async def _image(self) -> Image:
        execution = self.config.execution
        reference = parse_reference(execution.image)
        return await self._persist(lambda: self.engine.images.ready(reference, execution, self.notices))

    async def _kept(self, undo: AsyncExitStack, start: Callable[[AsyncExitStack], Awaitable[T]]) -> T:
        """Run *start*; what it opens is closed at once if it fails, otherwise by *undo*."""
        async with AsyncExitStack() as opened:
            result = await start(opened)
            undo.push_async_callback(opened.pop_all().aclose)
        return result

    # -- by a socket in a mounted folder -------------------------------------------------------------------

    async def _by_socket(self, architecture: str, undo: AsyncExitStack) -> AgentLink:
        try:
            back = await undo.enter_async_context(dial_back(self.instance.runtime, architecture))
        except OSError as exc:
            text = "no folder could be made for the agent"
            raise EngineError(DockerCode.CONTAINER_CREATE_FAILED, text) from exc
        is_main = agent_is_main(self.config.execution)
        mount = {"Type": "bind", "Source": str(back.folder), "Target": MOUNT_POINT, "ReadOnly": True}
        try:
            container = await self._created(undo, back.command if is_main else None, mount=mount)
            await self._persist(container.start)

            async def begin_beside() -> None:
                command = tuple(back.command)
                exec_id = await self.engine.client.create_exec(container.id, command, attached=False)
                await self.engine.client.start_exec(exec_id)

            if not is_main:
                await self._persist(begin_beside)
        except EngineError as exc:
            # Docker reports a missing mount source. Podman creates an empty folder, and does not find the agent in it.
            if _misses(exc, str(back.folder), "permission denied") or _misses(exc, back.command[0]):
                raise _SocketUseless(exc.explanation, lasting=True) from exc
            raise
        try:
            link = await self._while_running(container, back.accept, begin_beside if is_main else None)
        except EngineError as exc:
            kept = f"{MOUNT_POINT}/socket" in exc.explanation or _misses(exc, back.command[0])
            if exc.code == DockerCode.CONTAINER_ENDED and kept:
                # Some runtimes and policies block the host's sockets; or an init did not find the agent.
                raise _SocketUseless(exc.explanation, lasting=False) from exc
            raise
        undo.push_async_callback(finish, link.close, within=self.config.timeouts.signal)
        return link

    # -- through the engine's attach stream ------------------------------------------------------------------

    async def _by_attach(self, architecture: str, undo: AsyncExitStack) -> AgentLink:
        client = self.engine.client
        is_main = agent_is_main(self.config.execution)
        command = (f"/{UPLOADED_AGENT}", *FRAMED_ARGUMENTS)
        archive = await asyncio.to_thread(agent_archive, agent_binary(architecture))
        container = await self._created(undo, command if is_main else None, attached=is_main)
        try:
            await client.put_archive(container.id, "/", archive)
        except EngineError as exc:
            if "read-only" in exc.explanation:
                exc.explanation += (
                    "; with readonlyRootfs the agent can only come by socket, which needs an engine on this machine"
                )
            raise
        if is_main:
            container.attached = attached = await client.attach_container(container.id, self._log_agent)
            undo.push_async_callback(finish, attached.close, within=self.config.timeouts.http)
            await self._persist(container.start)
        else:
            await self._persist(container.start)
            exec_id = await client.create_exec(container.id, command, attached=True)
            attached = await client.attach_exec(exec_id, self._log_agent)
            undo.push_async_callback(finish, attached.close, within=self.config.timeouts.http)
        return await self._while_running(container, partial(self._framed, undo, attached))

    async def _framed(self, undo: AsyncExitStack, attached: Attached) -> AgentLink:
        link: AbstractAsyncContextManager[AgentLink] = framed_link(attached.output, attached.input)
        return await undo.enter_async_context(link)

    def _log_agent(self, data: bytes) -> None:
        self._agent_lines += 1
        if self._agent_lines <= _AGENT_LINES:
            logger.info(Event(DockerCode.AGENT_LOG, one_line(data.decode("utf-8", "replace"))))

    # -- steps of both ---------------------------------------------------------------------------------------

    async def _created(
        self,
        undo: AsyncExitStack,
        agent: tuple[str, ...] | list[str] | None,
        *,
        mount: dict[str, object] | None = None,
        attached: bool = False,
        changes: Mapping[str, object] | None = None,
    ) -> EngineContainer:
        """
        Create a container whose main program is *agent*, or the configured idle command; *undo* removes it. *changes*
        override fields of the request body.
        """
        execution = self.config.execution
        container = EngineContainer(self.engine.client)
        body = create_body(
            execution,
            self.login,
            instance=self.instance.id,
            launch=container.launch,
            expiry=expiry_labels(self.login, self.config.timeouts.container_stop),
            command=agent if agent is not None else execution.idle_command,
            mount=mount,
            attached=attached,
        ) | dict(changes or {})
        self.held.add(container.launch)
        undo.push_async_callback(self._removed, container)
        create = partial(container.create, body, name=execution.container_name, platform=execution.platform_text)
        try:
            await self._persist(create)
        except EngineError as exc:
            if exc.status != 404 or "no such image" not in exc.explanation.lower():
                raise
            # The image was removed since it was looked up.
            self.engine.images.forget(parse_reference(execution.image))
            await self._image()
            await self._persist(create)
        self.container = container
        undo.enter_context(log_labels(containerId=container.id))
        await self._persist(partial(self.engine.check, container.id, execution.engine_structures()[1]))
        return container

    async def _removed(self, container: EngineContainer) -> None:
        async def remove() -> None:
            try:
                await container.remove()
            except BaseException:
                # Refused or timed out: the backend retries in the background.
                self.on_left(container)
                raise
            self.held.discard(container.launch)

        within = self.config.timeouts.container_stop
        if not container.id and asyncio.get_running_loop().time() >= self._ends:
            # The engine has not responded, and the user is waiting for an error message.
            within = min(within, _SILENT_ENGINE)
        await finish(remove, within=within)

    async def _while_running(
        self,
        container: EngineContainer,
        link: Callable[[], Awaitable[AgentLink]],
        begin_beside: Callable[[], Awaitable[None]] | None = None,
    ) -> AgentLink:
        """The result of *link*; if the container exits meanwhile, the reason is raised at once."""
        try:
            async with asyncio.TaskGroup() as group:
                watch = group.create_task(self._watch(container, begin_beside))
                result = await link()
                watch.cancel()
        except BaseExceptionGroup as errors:
            reason = await self._reason(container, errors)
            # One of the group is not to be its own cause.
            raise reason from (reason.__cause__ if reason in errors.exceptions else errors)
        return result

    async def _watch(self, container: EngineContainer, begin_beside: Callable[[], Awaitable[None]] | None) -> None:
        pause, waited = _FIRST_LOOK, 0.0
        while True:
            await asyncio.sleep(pause)
            waited += pause
            pause = min(1.5 * pause, _SLOWEST_LOOK)
            if (reason := await self._persist(container.ended)) is not None:
                raise reason
            if begin_beside is not None and waited >= self.patience.total_seconds():
                logger.debug(
                    Event(DockerCode.EXEC, "The image's entrypoint did not start the agent; starting it beside")
                )
                await self._persist(begin_beside)
                begin_beside = None

    async def _reason(self, container: EngineContainer, errors: BaseExceptionGroup[BaseException]) -> BaseException:
        """The error to report: the exit of the container explains why the agent does not respond."""
        for error in errors.exceptions:
            if isinstance(error, EngineError) or not isinstance(error, Exception):
                return error
        first = errors.exceptions[0]
        with suppress(EngineError):
            if reason := await self._ended_soon(container):
                return reason
        if isinstance(first, OSError | EOFError | ProtocolError):
            text = f"the agent in the container cannot be reached ({describe(first)})"
            return EngineError(DockerCode.CONTAINER_START_FAILED, text)
        return first

    async def _ended_soon(self, container: EngineContainer) -> EngineError | None:
        last_look = asyncio.get_running_loop().time() + _STREAM_BEFORE_STATE
        while True:
            if (reason := await container.ended()) or asyncio.get_running_loop().time() > last_look:
                return reason
            await asyncio.sleep(_FIRST_LOOK)

    async def _persist(self, once: Callable[[], Awaitable[T]]) -> T:
        def remember(error: EngineError) -> None:
            self._last = error

        try:
            return await persist(once, on_error=remember)
        except EngineError as exc:
            if exc.absent:
                # The engine is unreachable, so the removal continues in the background.
                self._ends = asyncio.get_running_loop().time()
            raise

    async def write_login_files(self, write: Callable[[str, bytes], Awaitable[None]]) -> None:
        """Write the login's files by *write*; a file that cannot be written is a warning."""
        await write_login_files(
            self.login,
            write,
            limit=self.config.timeouts.command_start,
            writing=DockerCode.FILE_WRITE,
            failed=DockerCode.FILE_WRITE_FAILED,
        )


def agent_archive(binary: Path) -> bytes:
    """A tar archive with the agent's binary, to be unpacked at ``/``."""
    content = binary.read_bytes()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        folder = tarfile.TarInfo(str(Path(UPLOADED_AGENT).parent))
        folder.type, folder.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(folder)
        entry = tarfile.TarInfo(UPLOADED_AGENT)
        entry.size, entry.mode = len(content), 0o755
        archive.addfile(entry, io.BytesIO(content))
    # Without trailing padding: Podman stops reading before it, and sending the rest would fail.
    return buffer.getvalue()[: archive.offset]


def _misses(error: EngineError, path: str, *more: str) -> bool:
    words = error.explanation
    return path in words and any(
        text in words.lower() for text in ("does not exist", "no such file or directory", *more)
    )
