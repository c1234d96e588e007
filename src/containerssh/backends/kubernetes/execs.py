"""Programs by plain exec in a running pod, with or without an agent in the image."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass

from containerssh.agent import upstream
from containerssh.agent.process import Program, start_failed
from containerssh.backends.exec_signals import SignalCodes, no_break, send_signal
from containerssh.backends.kubernetes.errors import APIError
from containerssh.backends.kubernetes.exec_stream import RemoteStream
from containerssh.backends.kubernetes.injection import Place
from containerssh.backends.terminal_input import TerminalInput
from containerssh.core.codes import KubernetesCode
from containerssh.core.errors import BackendError, ContainerSSHError, ProtocolError
from containerssh.core.messages import Event
from containerssh.core.requests import WindowSize
from containerssh.core.streams import ByteReader, ByteWriter
from containerssh.core.text import one_line

logger = logging.getLogger(__name__)

_WORDS = 2000
_PROBE_LIMIT = 10.0
_NO_PROGRAM = "/containerssh/no-such-program"
_NOT_RUN = ("executable file not found", "no such file or directory", "permission denied", "exec format error")
_SIGNAL_CODES = SignalCodes(
    no_agent=KubernetesCode.EXEC_SIGNAL_FAILED_NO_AGENT,
    ended=KubernetesCode.SIGNAL_FAILED_EXITED,
    failed=KubernetesCode.EXEC_SIGNAL_FAILED,
)
# The rename makes the file appear complete. The shell keeps the exec's output open until all input has arrived, also
# after a failure: with unread input the runtime does not report the end.
_WRITE = r"""
fail() {
    cat >/dev/null
    exit 1
}
case $1 in /*/*) mkdir -p "${1%/*}" || fail ;; esac
if [ -d "$1" ]; then
    echo "$1 is a folder" >&2
    fail
fi
umask 077
cat >"$1.$2" && mv -f "$1.$2" "$1" && exit
rm -f "$1.$2"
fail
"""


@dataclass(frozen=True)
class Execs:
    """Starts programs in a running container."""

    place: Place
    agent: str
    """The path of the image's agent; empty to work without one."""

    @classmethod
    async def of(cls, place: Place, agent: str, *, probe: bool) -> Execs:
        """Use the agent at the path *agent*; with *probe*, only if it exists."""
        execs = cls(place, agent)
        if probe and agent and not await execs.has_agent():
            return cls(place, "")
        return execs

    async def has_agent(self) -> bool:
        """Whether the image has the agent of ContainerSSH 0.5 or 0.6."""
        try:
            async with asyncio.timeout(_PROBE_LIMIT):
                await self.run(upstream.console(self.agent, (_NO_PROGRAM,)))
        except (ContainerSSHError, TimeoutError):
            return False
        return True

    async def start(self, program: Program) -> ExecProcess:
        """
        Start a program; with an agent, returns when it has reported the process id. Call ``kill`` at the end.

        Raises:
            BackendError: the program cannot be started.
            ProtocolError: the agent is missing or does not follow the protocol.
        """
        _check(program)
        size = program.pty.size if program.pty is not None else None
        command = tuple(program.argv)
        if self.agent:
            # The terminal needs its size before the program runs. The variables are the client's; a webhook's are
            # never passed as arguments, which are visible in the pod and in the API's audit log.
            agent, console, *rest = upstream.console(self.agent, command, wait=size is not None)
            pairs = (("--env", f"{name}={value}") for name, value in program.env.items())
            command = (agent, console, *(word for pair in pairs for word in pair), *rest)
        async with AsyncExitStack() as undo:
            place = self.place
            try:
                stream = await undo.enter_async_context(
                    place.client.exec(place.namespace, place.pod, place.container, command, tty=size is not None)
                )
            except APIError as exc:
                raise BackendError(KubernetesCode.EXEC_FAILED, exc.explanation) from exc
            process = ExecProcess(self, program, stream, undo.pop_all(), terminal=size is not None)
        try:
            if size is not None:
                await stream.resize(size)
            if self.agent:
                await process.read_pid(upstream.PidReader(terminal=size is not None, echo=size is not None))
        except BaseException:
            await process.kill()
            raise
        return process

    async def run(self, command: tuple[str, ...], stdin: bytes = b"") -> tuple[int, str]:
        """
        Run a command of the image's agent to completion; return the exit code and standard error.

        Raises:
            BackendError, ProtocolError: the command could not be run.
        """
        return await self._run(command, stdin, upstream.PidReader(terminal=False))

    async def write_file(self, path: str, content: bytes) -> None:
        """Write a file that only its owner may read. Raises what :meth:`run` raises."""
        if self.agent:
            status, words = await self.run(upstream.write_file(self.agent, path), content)
        else:
            command = ("sh", "-c", _WRITE, "sh", path, "containerssh")
            status, words = await self._run(command, content, None)
        if status:
            text = f"what writes it ended with status {status}: {words}"
            raise BackendError(KubernetesCode.FILE_WRITE_FAILED, text)

    async def _run(self, command: tuple[str, ...], stdin: bytes, pid: upstream.PidReader | None) -> tuple[int, str]:
        place = self.place
        words = bytearray()
        async with place.client.exec(place.namespace, place.pod, place.container, command) as stream:
            sending = asyncio.create_task(_send(stream.stdin, stdin))

            async def listen() -> None:
                assert stream.stderr is not None
                while data := await stream.stderr.read():
                    words.extend(data[: max(0, _WORDS - len(words))])

            async def drain() -> None:
                while data := await stream.stdout.read():
                    if pid is not None and pid.pid is None:
                        pid.feed(data)

            try:
                await asyncio.gather(listen(), drain())
                status = await stream.wait()
            except ConnectionError as exc:
                raise BackendError(KubernetesCode.EXEC_FAILED, f"{command[0]}: {exc}") from exc
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
        said = one_line(words.decode("utf-8", "replace"))
        if pid is not None and pid.pid is None:
            raise BackendError(KubernetesCode.PID_READ_FAILED, f"{command[0]} does not answer like an agent: {said}")
        return status, said


class ExecProcess:
    """
    The running program, for :class:`~containerssh.backends.programs.RunningProgram`. The cluster reports death by a
    signal as an exit code above 128.
    """

    stdin: ByteWriter
    stdout: ByteReader
    stderr: ByteReader | None

    def __init__(
        self, execs: Execs, program: Program, stream: RemoteStream, scope: AsyncExitStack, *, terminal: bool
    ) -> None:
        self._execs = execs
        self._program = program
        self._stream = stream
        self._scope = scope
        self._terminal = terminal
        self._out = _Rest(stream.stdout)
        self.stdin = TerminalInput(stream.stdin) if terminal else stream.stdin
        self.stdout = self._out
        self.stderr = stream.stderr
        self.pid: int | None = None
        self._over = False

    async def read_pid(self, reader: upstream.PidReader) -> None:
        """
        Tell a waiting agent to continue, and read the process id, with which its output begins.

        Raises:
            BackendError: there is no agent.
            ProtocolError: the agent does not follow the protocol.
        """
        if self._terminal:
            with suppress(ConnectionError):
                await self._stream.stdin.write(upstream.GO)
        cause: Exception | None = None
        try:
            while reader.pid is None and (data := await self._stream.stdout.read()):
                self._out.before += reader.feed(data)
        except (ConnectionError, ProtocolError) as exc:
            cause = exc
        if reader.pid is None:
            raise await self._no_pid(reader.seen, cause) from cause
        self.pid = reader.pid

    async def wait(self) -> int:
        """
        The exit code, after all output.

        Raises:
            BackendError: the program could not be started, or the connection broke.
        """
        try:
            status = await self._stream.wait()
        except BackendError as exc:
            words = exc.explanation.lower()
            if any(text in words for text in _NOT_RUN):
                raise start_failed(self._program, "there is no such program, or it cannot be executed") from exc
            raise
        finally:
            self._over = True
        return status & 0xFFFFFFFF

    async def signal(self, name: str) -> None:
        """Send a signal to the program itself, see :func:`~containerssh.backends.exec_signals.send_signal`."""
        ended = self._over or self._stream.ended
        await send_signal(self._execs, self.pid, name, ended=ended, codes=_SIGNAL_CODES)

    async def resize(self, size: WindowSize) -> None:
        """Set the terminal's size; a program that has just ended is not an error."""
        if self._terminal and not self._stream.ended:
            with suppress(BackendError):
                await self._stream.resize(size)

    async def send_break(self, milliseconds: int) -> None:
        """Raises Rejected: exec has no breaks."""
        del milliseconds
        raise no_break()

    async def kill(self) -> None:
        """End the program if it is running and an agent can, and close the streams. Safe to call twice."""
        try:
            if not self._over and not self._stream.ended:
                if self.pid is not None:
                    with suppress(ContainerSSHError):
                        await self.signal("KILL")
                else:
                    text = "Without an agent the program cannot be ended before its pod"
                    logger.debug(Event(KubernetesCode.EXEC_SIGNAL_FAILED_NO_AGENT, text))
        finally:
            await self.release()

    async def release(self) -> None:
        """Close the streams; the program may go on. Safe to call twice."""
        self._over = True
        await self._scope.aclose()

    async def _no_pid(self, seen: bytes, cause: Exception | None) -> BackendError:
        said = ""
        with suppress(ContainerSSHError, TimeoutError, ConnectionError):
            async with asyncio.timeout(1):
                if self._stream.stderr is not None:
                    said = (await self._stream.stderr.read()).decode("utf-8", "replace")
        if not said:
            try:
                async with asyncio.timeout(1):
                    await self._stream.wait()
            except BackendError as exc:
                said = exc.explanation
            except TimeoutError:
                pass
        words = one_line(" ".join(filter(None, (said, seen.decode("utf-8", "replace"), str(cause or "")))))
        text = f"{self._execs.agent} in the image does not answer like an agent: {words}"
        user = "The agent of this image does not answer."
        return BackendError(KubernetesCode.PID_READ_FAILED, text, user_message=user)


class _Rest(ByteReader):
    """The output after the process id."""

    def __init__(self, inner: ByteReader) -> None:
        self._inner = inner
        self.before = b""

    async def read(self) -> bytes:
        if self.before:
            data, self.before = self.before, b""
            return data
        return await self._inner.read()


def _check(program: Program) -> None:
    texts = (*program.argv, *program.env.values())
    if not program.argv:
        raise start_failed(program, "no command")
    if any("\0" in text for text in texts):
        raise start_failed(program, "a command cannot hold a NUL")
    try:
        "".join((*program.argv, *program.env, *program.env.values())).encode()
    except UnicodeEncodeError:
        # Kubernetes passes commands in the request's URL, as UTF-8.
        text = "without the guest agent a command and its variables have to be valid UTF-8"
        raise start_failed(program, text) from None


async def _send(target: ByteWriter, data: bytes) -> None:
    with suppress(OSError):
        if data:
            await target.write(data)
        await target.write_eof()
