"""Programs by plain exec in a running container, with or without an agent in the image."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass

from containerssh.agent import upstream
from containerssh.agent.process import Program, start_failed
from containerssh.backends.docker.container import EngineContainer, persist
from containerssh.backends.docker.engine_error import EngineError
from containerssh.backends.docker.engine_process import EngineProcess
from containerssh.backends.docker.exec_client import CONSOLE_SIZE_API, End, ExecClient
from containerssh.backends.docker.frames import STDERR
from containerssh.backends.docker.wire import Wire
from containerssh.backends.exec_signals import SignalCodes, send_signal
from containerssh.core.codes import DockerCode
from containerssh.core.errors import BackendError, ProtocolError
from containerssh.core.messages import Event
from containerssh.core.requests import WindowSize
from containerssh.core.text import one_line

logger = logging.getLogger(__name__)

_MOST_BEFORE_PID = 64 * 1024
"""The maximum of bytes on standard error before the process id."""
_WORDS = 2000
_PIECES = 16
_LAST_WORDS = 1.0
_COMMAND_NOT_RUN = (126, 127)
_SIGNAL_CODES = SignalCodes(
    no_agent=DockerCode.EXEC_SIGNAL_FAILED_NO_AGENT,
    ended=DockerCode.SIGNAL_FAILED_NO_PID,
    failed=DockerCode.EXEC_SIGNAL_FAILED,
)


@dataclass(frozen=True)
class Execs:
    """Starts programs in *container*, which must be running."""

    client: ExecClient
    container: EngineContainer
    agent: str = ""
    """The path of the image's agent; empty to work without one."""

    async def start(self, program: Program) -> EngineProcess:
        """
        Start a program; returns when the engine reports that it runs and, with an agent, the agent has reported the
        process id. Call ``kill`` at the end.

        Raises:
            BackendError: the program cannot be started.
            ProtocolError: the agent is missing or does not follow the protocol.
        """
        check(program)
        command = tuple(program.argv)
        size = program.pty.size if program.pty is not None else None
        # The terminal needs its size before the program runs; with an old API the agent waits for it.
        wait = bool(self.agent) and size is not None and (await self.client.info()).api < CONSOLE_SIZE_API
        if self.agent:
            command = upstream.console(self.agent, command, wait=wait)
        process = await self._begun(program, command)
        try:
            first: list[tuple[int, bytes]] = []
            if self.agent:
                reader = upstream.PidReader(terminal=size is not None, echo=wait)
                letting = asyncio.create_task(process.let_go(size)) if wait and size is not None else None
                try:
                    first = await self._first_output(process, reader)
                finally:
                    if letting is not None:
                        letting.cancel()
                        await asyncio.gather(letting, return_exceptions=True)
        except BaseException:
            await process.kill()
            raise
        process.begin(first, None if wait else size)
        return process

    async def run(self, command: tuple[str, ...], stdin: bytes = b"") -> tuple[int, str]:
        """
        Run a command of the image's agent to completion; return the exit code and standard error.

        Raises:
            BackendError, ProtocolError: the command could not be run.
        """
        process = await self._begun(Program(command), command)
        words = bytearray()
        sending = asyncio.create_task(_send(process, stdin))
        try:
            first = await self._first_output(process, upstream.PidReader(terminal=False))
            process.begin(first, None)

            async def listen() -> None:
                assert process.stderr is not None
                while data := await process.stderr.read():
                    words.extend(data[: max(0, _WORDS - len(words))])

            async def drain() -> None:
                while await process.stdout.read():
                    pass

            try:
                await asyncio.gather(listen(), drain())
            except ConnectionError as exc:
                raise BackendError(DockerCode.STREAM_OUTPUT_FAILED, f"{command[0]}: {exc}") from exc
            status = await process.wait()
            assert isinstance(status, int)
            return status, one_line(words.decode("utf-8", "replace"))
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            await process.kill()

    async def write_file(self, path: str, content: bytes) -> None:
        """Write a file by the image's agent, readable only by its user. Raises what :meth:`run` raises."""
        status, words = await self.run(upstream.write_file(self.agent, path), content)
        if status:
            raise EngineError(DockerCode.FILE_WRITE_FAILED, f"the agent ended with status {status}: {words}")

    async def _begun(self, program: Program, command: tuple[str, ...]) -> ExecProcess:
        terminal = program.pty is not None
        size = program.pty.size if program.pty is not None else None
        client, container = self.client, self.container.id

        async def create() -> str:
            return await client.create_program(
                container, command, env=program.env, folder=program.cwd, size=size, terminal=terminal
            )

        try:
            exec_id = await persist(create, on_error=_drop)
            # Not retried: the program may be running although the reply was lost.
            wire = await client.start_program(exec_id, size=size, terminal=terminal)
        except EngineError as exc:
            if exc.status == 409 and (reason := await self.container.ended()) is not None:
                raise reason from exc
            if exc.status in (400, 404, 500) and "exec failed" in exc.explanation.lower():
                raise start_failed(program, exc.explanation) from exc
            raise
        return ExecProcess(self, exec_id, wire, terminal=terminal)

    async def _first_output(self, process: ExecProcess, reader: upstream.PidReader) -> list[tuple[int, bytes]]:
        """
        Read until the process id is known; return the output read so far. Standard error text may precede the process
        id.
        """
        first: list[tuple[int, bytes]] = []
        cause: ProtocolError | None = None
        size = 0
        try:
            while reader.pid is None and cause is None and size <= _MOST_BEFORE_PID:
                pieces = await process.pieces()
                if pieces is None:
                    break
                for stream, data in pieces:
                    before = len(reader.seen)
                    try:
                        rest = data if stream == STDERR or cause else reader.feed(data)
                    except ProtocolError as exc:
                        cause, rest = exc, data[len(reader.seen) - before :]
                    size += len(rest)
                    first.append((stream, rest))
        except (OSError, ProtocolError) as exc:
            text = f"the engine's stream broke before the agent answered ({exc})"
            raise BackendError(DockerCode.EXEC_PID_READ_FAILED, text) from exc
        if reader.pid is None or cause is not None:
            raise await self._no_pid(process, reader.seen, first) from cause
        process.pid = reader.pid
        return first

    async def _no_pid(self, process: ExecProcess, seen: bytes, first: list[tuple[int, bytes]]) -> BackendError:
        """The error for a missing process id: usually the engine reports on the stream that there is no agent."""
        told = [seen, *(data for _, data in first)]
        status = -1
        with suppress(OSError, ProtocolError, EngineError, TimeoutError):
            async with asyncio.timeout(_LAST_WORDS):
                while len(told) < _PIECES:
                    pieces = await process.pieces()
                    if pieces is None:
                        status = (await process.ended()).exit_code
                        break
                    told += [data for _, data in pieces]
        words = one_line(b"".join(told)[:_WORDS].decode("utf-8", "replace"))
        end = f"it ended with status {status}" if status >= 0 else "it goes on"
        text = f"{self.agent} in the image does not answer like an agent, {end}: {words}"
        if status in _COMMAND_NOT_RUN:
            text = f"there is no agent at {self.agent} in the image: {words}"
        return BackendError(
            DockerCode.EXEC_PID_READ_FAILED, text, user_message="The agent of this image does not answer."
        )


class ExecProcess(EngineProcess):
    """An exec."""

    def __init__(self, execs: Execs, exec_id: str, wire: Wire, *, terminal: bool) -> None:
        super().__init__(wire, terminal=terminal)
        self._execs = execs
        self._id = exec_id
        self.pid: int | None = None

    async def look(self) -> End:
        return await self._execs.client.inspect_program(self._id)

    async def let_go(self, size: WindowSize) -> None:
        """Tell the waiting agent to continue, once the terminal has its size."""
        await self.set_first_size(size)
        with suppress(ConnectionError):
            await self.stdin.write(upstream.GO)

    async def set_size(self, size: WindowSize) -> None:
        await self._execs.client.resize_program(self._id, size)

    async def signal(self, name: str) -> None:
        """Send a signal to the program itself, see :func:`~containerssh.backends.exec_signals.send_signal`."""
        await send_signal(self._execs, self.pid, name, ended=self.over, codes=_SIGNAL_CODES)

    async def kill_program(self) -> None:
        # After the end of the stream the program has ended, or its end no longer matters.
        if self.pid is not None:
            await self.signal("KILL")
        else:
            text = "Without an agent the program cannot be ended before its login"
            logger.debug(Event(DockerCode.EXEC, text, containerId=self._execs.container.id))


def check(program: Program) -> None:
    """Raises BackendError if *program* cannot be started by the engine."""
    if not program.argv:
        raise start_failed(program, "no command")
    if any("\0" in text for text in (*program.argv, *program.env, *program.env.values())):
        raise start_failed(program, "a command or a variable cannot hold a NUL")
    try:
        "".join((*program.argv, *program.env, *program.env.values())).encode()
    except UnicodeEncodeError:
        # JSON cannot represent non-UTF-8 bytes.
        raise start_failed(program, "without the guest agent a command has to be valid UTF-8") from None


async def _send(process: EngineProcess, data: bytes) -> None:
    with suppress(OSError):
        if data:
            await process.stdin.write(data)
        await process.stdin.write_eof()


def _drop(error: EngineError) -> None:
    del error
