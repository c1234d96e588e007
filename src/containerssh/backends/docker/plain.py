"""Logins without the guest agent: programs run by the engine's exec or, in session mode, as main programs."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from datetime import timedelta
from functools import partial

from containerssh.agent.process import Program
from containerssh.agent.upstream_forwards import upstream_forwards
from containerssh.backends.container import Execution
from containerssh.backends.docker.container import EngineContainer
from containerssh.backends.docker.engine_error import EngineError
from containerssh.backends.docker.engine_process import EngineProcess
from containerssh.backends.docker.exec_client import End, ExecClient
from containerssh.backends.docker.execs import Execs, check
from containerssh.backends.docker.files import write_files
from containerssh.backends.docker.launch import environment
from containerssh.backends.docker.start import Start
from containerssh.backends.docker.wire import Wire
from containerssh.backends.host_addresses import HostAddresses, host_addresses
from containerssh.backends.plain import PlainConnection
from containerssh.backends.session_codes import SessionCodes
from containerssh.config.docker import DockerConfig
from containerssh.core.codes import AgentCode, DockerCode
from containerssh.core.errors import BackendError
from containerssh.core.handlers import ConnectionHandler
from containerssh.core.messages import Event
from containerssh.core.requests import WindowSize
from containerssh.core.tasks import time_limit

logger = logging.getLogger(__name__)

_CODES = SessionCodes(
    already_running=DockerCode.PROGRAM_ALREADY_RUNNING,
    not_running=DockerCode.PROGRAM_NOT_RUNNING,
    no_subsystem=DockerCode.SUBSYSTEM_NOT_SUPPORTED,
    signal_failed=DockerCode.EXEC_SIGNAL_FAILED,
    started=DockerCode.EXEC,
)


class PlainStart(Start):
    """Starts a container whose main program is the configured idle command or a user's program."""

    @asynccontextmanager
    async def run_idle(self, within: timedelta, agent: str | None) -> AsyncIterator[Execs]:
        """
        The scope of a started container with the login's files; yields the object that starts programs in it. The
        container is removed at the end. *agent* is the path of the image's agent, empty for none, None to use it if the
        image has it.

        Raises:
            BackendError: the container could not be started within *within*.
        """
        files = self.login.files
        async with AsyncExitStack() as undo:
            async with time_limit(within, partial(self._late, within)):
                await self._image()
                container = await self._created(undo, None)
                client = self.engine.client
                if agent is None:
                    path = self.config.execution.agent_path
                    agent = path if path and await client.has_file(container.id, path) else ""
                if not agent and files:
                    await write_files(client, container.id, files)
                await self._persist(container.start)
            execs = Execs(client, container, agent)
            if agent:
                await self.write_login_files(execs.write_file)
            yield execs

    @asynccontextmanager
    async def run_main(self) -> AsyncIterator[MainPrograms]:
        """The scope of a container for a single main program; it is removed at the end."""
        async with AsyncExitStack() as undo:
            yield MainPrograms(self, undo)

    async def create_main(self, undo: AsyncExitStack, program: Program) -> EngineContainer:
        """
        Create a container whose main program is *program*; *undo* removes it.

        Raises:
            BackendError: the engine refuses.
        """
        execution = self.config.execution
        entries = {entry.partition("=")[0]: entry for entry in environment(execution, self.login)}
        entries |= {name: f"{name}={value}" for name, value in program.env.items()}
        changes = {"Tty": program.pty is not None, "Env": list(entries.values())}
        await self._image()
        container = await self._created(undo, tuple(program.argv), attached=True, changes=changes)
        if self.login.files:
            await write_files(self.engine.client, container.id, self.login.files)
        return container

    async def start_main(self, container: EngineContainer) -> None:
        """Start the container. Raises EngineError if its program cannot be run."""
        await self._persist(container.start)


class MainPrograms:
    """Starts one program as the main program of a container."""

    def __init__(self, start: PlainStart, undo: AsyncExitStack) -> None:
        self._start = start
        self._undo = undo

    async def start(self, program: Program) -> EngineProcess:
        """
        Create and start a container for *program*; returns when it runs.

        Raises:
            BackendError: it cannot be started.
        """
        check(program)
        client = self._start.engine.client
        container = await self._start.create_main(self._undo, program)
        wire = await client.attach_main(container.id)
        process = MainProcess(client, container.id, wire, terminal=program.pty is not None)
        try:
            await self._start.start_main(container)
        except BaseException as exc:
            await process.kill()
            if isinstance(exc, EngineError) and exc.permanent:
                text = f"{program.argv[0]}: there is no such program, or it cannot be executed"
                raise BackendError(AgentCode.START_FAILED, exc.explanation, user_message=text) from exc
            raise
        process.begin([], program.pty.size if program.pty is not None else None)
        return process


class MainProcess(EngineProcess):
    """A container's main program. It runs as process 1, which ignores signals that it does not handle, except KILL."""

    def __init__(self, client: ExecClient, container: str, wire: Wire, *, terminal: bool) -> None:
        super().__init__(wire, terminal=terminal)
        self._client = client
        self._container = container

    async def look(self) -> End:
        state = await self._client.inspect_container(self._container)
        if state is None:
            raise EngineError(DockerCode.EXIT_CODE_FAILED, "the container was removed before its exit code was known")
        return End(state.running, state.exit_code)

    async def set_size(self, size: WindowSize) -> None:
        await self._client.resize_main(self._container, size)

    async def signal(self, name: str) -> None:
        await self._client.signal_main(self._container, name)

    async def kill_program(self) -> None:
        """Does nothing: the removal of the container kills the program."""


_MISSING = "there are no exit signals, breaks, terminal modes, forwards or built-in SFTP"
_WITHOUT = {
    "image": "the image's agent starts programs: a signal reaches one process and not its group; there are no exit"
    " signals, breaks, terminal modes, built-in SFTP or ssh-agents",
    "session": "each program is the main one of a container: signals that it does not handle do nothing but KILL; "
    + _MISSING,
    "none": "the engine starts programs: there are no signals, and a program ends by itself or with its login; "
    + _MISSING,
}


@asynccontextmanager
async def plain_login(start: Start, way: str, *, why: str = "") -> AsyncIterator[ConnectionHandler]:
    """
    The scope of a login without the guest agent. *way*: ``image``, ``none``, or ``auto`` to use the image's agent if
    there is one; *why* explains why the guest agent cannot be used.

    Raises:
        BackendError: the container could not be started.
    """
    plain = PlainStart(
        start.engine, start.instance, start.config, start.login, start.notices, start.on_left, start.held
    )
    refusal = DockerCode.GUEST_AGENT_DISABLED
    if start.config.execution.mode == "session":
        _tell(plain, "session", why)
        await plain.prepare()
        yield PlainConnection(lambda: plain.again().run_main(), execution_of(start.config), refusal)
        return
    agent = {"image": start.config.execution.agent_path, "none": ""}.get(way)
    async with plain.run_idle(start.config.timeouts.container_start, agent) as execs:
        _tell(plain, "image" if execs.agent else "none", why)
        assert plain.container is not None
        execution = execution_of(start.config, plain.container.host_addresses)
        if not execs.agent:
            yield PlainConnection(lambda: nullcontext(execs), execution, refusal)
            return
        async with upstream_forwards(execs.start, execs.agent) as forwards:
            yield PlainConnection(lambda: nullcontext(execs), execution, refusal, forwards)


def forbids_agent(error: EngineError) -> bool:
    """Whether *error* means that this engine does not allow the guest agent in a container."""
    if error.code == DockerCode.AGENT_KEPT_OUT:
        return error.status is not None
    return error.code == DockerCode.CONTAINER_CREATE_FAILED and error.status == 403


def execution_of(config: DockerConfig, host: HostAddresses = host_addresses) -> Execution:
    """The settings that sessions and forwards need."""
    execution, timeouts = config.execution, config.timeouts
    return Execution(
        shell_command=execution.shell_command,
        subsystems=execution.subsystems,
        command_start=timeouts.command_start,
        signal=timeouts.signal,
        window=timeouts.window,
        environment={},
        leftovers=execution.background_processes,
        codes=_CODES,
        host=host,
    )


def _tell(start: PlainStart, way: str, why: str) -> None:
    """Log which features are available: a warning once for each engine and way, otherwise for debugging."""
    cause = f"The engine keeps the server's agent out ({why}), so" if why else "By the configuration"
    text = f"{cause} {_WITHOUT[way]}"
    level = logging.WARNING if start.engine.is_first_time(f"{way} {bool(why)}") else logging.DEBUG
    logger.log(level, Event(DockerCode.GUEST_AGENT_DISABLED, text, engine=start.engine.client.endpoint.url))
