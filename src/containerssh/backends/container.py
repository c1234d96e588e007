"""Code shared by all container backends: sessions that run through the agent's link."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial

from containerssh.agent.link import AgentLink, Program
from containerssh.agent.process import Leftovers
from containerssh.agent.sftp import FileReport, sftp_program, wanted
from containerssh.backends.commandline import arguments, is_blank
from containerssh.backends.forwards import ContainerForwards
from containerssh.backends.host_addresses import HostAddresses, host_addresses
from containerssh.backends.output import Output
from containerssh.backends.programs import Programs, RunningProgram
from containerssh.backends.session_codes import SessionCodes
from containerssh.core.codes import AgentCode, SFTPCode
from containerssh.core.errors import BackendError, ContainerSSHError, Rejected
from containerssh.core.files import UPSTREAM_SERVER, SFTPRules
from containerssh.core.forwarding import ANY_ADDRESS, AddressRules
from containerssh.core.handlers import ConnectionHandler, Incoming, Listener, SessionChannel, SessionHandler
from containerssh.core.messages import Event
from containerssh.core.requests import SIGNALS, ExitSignal, PtyRequest, WindowSize, X11Request, can_be_variable
from containerssh.core.streams import ByteReader, ByteStream, ByteWriter, pump
from containerssh.core.tasks import finish, time_limit

logger = logging.getLogger(__name__)

_CLEAN_UP = timedelta(seconds=15)
_LAST_WORDS = timedelta(seconds=2)


@dataclass(frozen=True)
class Execution:
    """How programs are started, from a backend's ``execution`` and ``timeouts`` sections."""

    shell_command: Sequence[str]
    subsystems: Mapping[str, str]
    """The program for each subsystem name, without arguments."""
    command_start: timedelta
    signal: timedelta
    window: timedelta
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables of the login; those set on the channel take precedence."""
    leftovers: Leftovers = "hangUp"
    codes: SessionCodes = field(default_factory=SessionCodes)
    host: HostAddresses = host_addresses
    """Where forwards do not lead unless it is allowed."""


class ContainerConnection(ConnectionHandler):
    """A login with a running container and an open link; the backend closes both."""

    def __init__(self, link: AgentLink, execution: Execution) -> None:
        self._link = link
        self._execution = execution
        self._sessions: set[ContainerSession] = set()
        self._forwards = ContainerForwards(link)

    @asynccontextmanager
    async def session(self, channel: SessionChannel) -> AsyncIterator[SessionHandler]:
        session = ContainerSession(self._link, self._execution, channel, self._forwards)
        self._sessions.add(session)
        try:
            yield session
        finally:
            self._sessions.discard(session)
            await session.close()

    async def connect_tcp(self, host: str, port: int, addresses: AddressRules = ANY_ADDRESS) -> ByteStream:
        rules = addresses.apart_from_host(await self._execution.host())
        return await self._forwards.connect_tcp(host, port, rules)

    async def connect_unix(self, path: str) -> ByteStream:
        return await self._forwards.connect_unix(path)

    async def listen_tcp(self, host: str, port: int, incoming: Incoming) -> Listener:
        return await self._forwards.listen_tcp(host, port, incoming)

    async def listen_unix(self, path: str, incoming: Incoming) -> Listener:
        return await self._forwards.listen_unix(path, incoming)

    async def terminate(self) -> None:
        await asyncio.gather(*(session.terminate() for session in self._sessions))


class ContainerSession(SessionHandler):
    """
    A session: one program and its channel.

    The exit status is reported when the program has exited and its output has been transferred. As in OpenSSH's server,
    the output ends when no process has it open any more. However, if a background process keeps the output open without
    writing, the session ends after a short time instead of hanging.
    """

    def __init__(
        self,
        link: Programs,
        execution: Execution,
        channel: SessionChannel,
        forwards: ContainerForwards | None = None,
    ) -> None:
        """*forwards* is None if the container has no agent that could listen there."""
        self._link = link
        self._forwards = forwards
        self._execution = execution
        self._channel = channel
        self._env: dict[str, str] = {}
        self._pty: PtyRequest | None = None
        self._size: WindowSize | None = None
        self._starting = False
        self._told_to_end = False
        self._process: RunningProgram | None = None
        self._carrying: asyncio.Task[None] | None = None
        self._report: FileReport | None = None
        """The report of the built-in SFTP server, whose standard error is not sent to the client."""
        self._losing: asyncio.Task[None] | None = None

    async def set_env(self, name: str, value: str) -> None:
        self._check_not_started()
        if not can_be_variable(name, value):
            text = "a variable needs a name without an equals sign, and no NUL"
            raise Rejected(AgentCode.REQUEST_FAILED, text, user_message=text)
        self._env[name] = value

    async def request_pty(self, request: PtyRequest) -> None:
        self._check_not_started()
        if "\0" in request.term:
            text = "a terminal type cannot hold a NUL"
            raise Rejected(AgentCode.REQUEST_FAILED, text, user_message=text)
        self._pty = request
        self._size = None

    async def request_agent(self) -> None:
        if self._forwards is None:
            await super().request_agent()
        else:
            self._env.update(await self._forwards.agent(self._channel))

    async def request_x11(self, request: X11Request) -> None:
        if self._forwards is None:
            await super().request_x11(request)
        else:
            self._env.update(await self._forwards.display(request, self._channel))

    async def run_shell(self) -> None:
        await self._start(self._execution.shell_command)

    async def run_command(self, command: str) -> None:
        if is_blank(command):
            await self.run_shell()
        else:
            await self._start(arguments(command))

    def subsystem_command(self, name: str) -> str:
        return self._execution.subsystems.get(name, name)

    async def run_subsystem(self, name: str) -> None:
        self._check_not_started()
        path = self._execution.subsystems.get(name)
        if path is None:
            raise Rejected(
                self._execution.codes.no_subsystem,
                f"there is no subsystem {name!r}",
                user_message=f"There is no subsystem {name!r} here.",
            )
        await self._start((path,))

    async def run_sftp(self, rules: SFTPRules) -> None:
        self._check_not_started()
        required = rules.server == "builtin" or rules.binding
        preferred = rules.server == "auto" and self._execution.subsystems.get("sftp") == UPSTREAM_SERVER
        if not required and not (preferred and isinstance(self._link, AgentLink)):
            await self.run_subsystem("sftp")
        elif not isinstance(self._link, AgentLink):
            raise BackendError(
                SFTPCode.FAILED,
                "the sftp section asks for the guest agent's server, and this container has no guest agent",
                user_message="SFTP is not available here.",
            )
        else:
            await self._launch(sftp_program(rules, self._execution.environment, report=wanted(self._channel)))

    async def send_signal(self, name: str) -> None:
        process = self._running()
        if name not in SIGNALS:
            text = f"there is no signal {name!r}"
            raise Rejected(self._execution.codes.signal_failed, text, user_message=text)
        async with _answered_within(self._execution.signal, f"signal {name}"):
            await process.signal(name)

    async def send_break(self, milliseconds: int) -> None:
        process = self._running()
        async with _answered_within(self._execution.signal, "break"):
            await process.send_break(milliseconds)

    async def resize(self, size: WindowSize) -> None:
        if self._process is None or self._starting:
            self._size = size
        elif self._pty is not None:
            async with _answered_within(self._execution.window, "resize"):
                await self._process.resize(size)

    async def terminate(self) -> None:
        if self._process is not None and not self._told_to_end:
            # Only once, although both the session and the login request it: a program may handle each signal.
            self._told_to_end = True
            # The program or the link may just have ended.
            with suppress(ContainerSSHError):
                async with _answered_within(self._execution.signal, "signal TERM"):
                    await self._process.signal("TERM")

    async def close(self) -> None:
        """Stop transferring data, and kill the program if it still runs."""
        for task in (self._carrying, self._losing):
            if task is not None:
                task.cancel()
                await asyncio.wait((task,))
        self._carrying = self._losing = None
        if self._report is not None and self._process is not None:
            await finish(partial(_hang_up, self._process, self._report), within=_LAST_WORDS)
            self._report = None
        if self._process is not None:
            await finish(self._process.kill, within=_CLEAN_UP)

    async def _start(self, argv: Sequence[str]) -> None:
        self._check_not_started()
        await self._launch(self._program(argv))

    async def _launch(self, program: Program) -> None:
        self._starting = True
        if self._execution.codes.started is not None:
            logger.debug(Event(self._execution.codes.started, "Starting a program"))
        try:
            async with _answered_within(self._execution.command_start, f"starting {' '.join(program.argv)!r}"):
                self._process = await self._link.start(program)
        finally:
            self._starting = False
        if program.agent and self._process.stderr is not None:
            self._report = FileReport(self._process.stderr, self._channel, self._lose)
        self._carrying = asyncio.create_task(self._carry(self._process))

    def _program(self, argv: Sequence[str]) -> Program:
        env = {**self._execution.environment, **self._env}
        pty = self._pty
        if pty is not None:
            if pty.term:
                env["TERM"] = pty.term
            if self._size is not None:
                pty = replace(pty, size=self._size)
        return Program(argv, env, pty=pty, leftovers=self._execution.leftovers)

    def _check_not_started(self) -> None:
        if self._starting or self._process is not None:
            raise BackendError(
                self._execution.codes.already_running,
                "a program has been started on this channel already",
                user_message="A program is running already.",
            )

    def _running(self) -> RunningProgram:
        if self._process is None:
            text = "no program has been started"
            raise BackendError(self._execution.codes.not_running, text, user_message=text)
        return self._process

    async def _carry(self, process: RunningProgram) -> None:
        """Transfer data until the program has exited, and report its exit status to the channel."""
        feeding = asyncio.create_task(_feed(self._channel.stdin, process.stdin))
        output = Output(process.stdout, None if self._report is not None else process.stderr, self._channel)
        # The front handles a disconnected client.
        with suppress(ConnectionError):
            try:
                outcome = await process.wait()
                await output.drained()
                if self._report is not None:
                    await self._report.finished()
                    if self._report.failure is not None:
                        await self._channel.fail(self._report.failure)
                        return
            except Exception as exc:  # noqa: BLE001  whatever it is, it costs this channel and is logged there
                await self._channel.fail(exc)
                return
            finally:
                tasks = [feeding, *output.tasks]
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            if isinstance(outcome, ExitSignal):
                await self._channel.exit_signal(_standard(outcome))
            else:
                await self._channel.exit_status(outcome)

    def _lose(self, error: Exception) -> None:
        self._losing = asyncio.create_task(self._channel.fail(error))


async def _hang_up(process: RunningProgram, report: FileReport) -> None:
    """
    Close the input of the built-in SFTP server after the client has gone, and read its report on files still open.
    """
    try:
        if isinstance(process.stdout, ByteStream):
            await process.stdout.close()
        await report.finished()
    finally:
        await report.stop()


async def _feed(source: ByteReader, target: ByteWriter) -> None:
    with suppress(ConnectionError):
        await pump(source, target)


def _standard(signal: ExitSignal) -> ExitSignal:
    """Add a domain to signal names that RFC 4254 section 6.10 does not define."""
    return signal if signal.name in SIGNALS else replace(signal, name=f"{signal.name}@containerssh.io")


def _answered_within(limit: timedelta, what: str) -> AbstractAsyncContextManager[None]:
    def error() -> BackendError:
        text = f"{what}: the container did not answer within {limit.total_seconds():g} s"
        return BackendError(AgentCode.REQUEST_FAILED, text, user_message=text)

    return time_limit(limit, error)
