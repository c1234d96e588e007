"""A program whose streams come from the engine: an exec or, in session mode, a container's main program."""

from __future__ import annotations

import asyncio
import logging
import re
from abc import ABC, abstractmethod
from contextlib import suppress

from containerssh.backends.docker.engine_error import Cure, EngineError
from containerssh.backends.docker.exec_client import End
from containerssh.backends.docker.frames import STDERR, AttachedInput, Demultiplexer
from containerssh.backends.docker.wire import Wire
from containerssh.backends.exec_signals import no_break
from containerssh.backends.terminal_input import TerminalInput
from containerssh.core.codes import DockerCode
from containerssh.core.errors import BackendError, ContainerSSHError, ProtocolError
from containerssh.core.messages import Event
from containerssh.core.requests import ExitSignal, WindowSize
from containerssh.core.streams import CHUNK, ByteReader, ByteWriter
from containerssh.core.text import one_line

logger = logging.getLogger(__name__)

_FIRST_LOOK, _SLOWEST_LOOK = 0.01, 1.0
_PATIENCE = 60.0
"""How long in seconds an unreachable engine is retried for the exit code of a program."""
_SIZE_TRIES = 8
_NOT_RUN = re.compile(rb"OCI runtime exec failed: (?:runc )?exec failed:.*", re.DOTALL)
_WHY_NOT_RUN = re.compile(r'.*exec: "(?P<program>[^"]*)": (?:stat \S+: )?(?P<why>[^:"]+)(?:: unknown)?')


class Pipe(ByteReader):
    """A stream between two tasks that buffers one piece of data."""

    def __init__(self) -> None:
        self._pieces: asyncio.Queue[bytes | ConnectionError] = asyncio.Queue(1)
        self._last: bytes | ConnectionError | None = None

    async def put(self, data: bytes) -> None:
        """Write *data*; waits for the reader."""
        if data:
            await self._pieces.put(data)

    async def end(self, error: ConnectionError | None = None) -> None:
        """Signal EOF, or that the stream broke with *error*."""
        await self._pieces.put(error or b"")

    async def read(self) -> bytes:
        piece = self._last if self._last is not None else await self._pieces.get()
        if isinstance(piece, ConnectionError):
            self._last = piece
            raise ConnectionAbortedError(str(piece))
        if not piece:
            self._last = piece
        return piece


class EngineProcess(ABC):
    """
    A running program, see :class:`~containerssh.backends.programs.RunningProgram`.

    The engine reports the end of a program only through the end of its output, after which its exit code is queried.
    Death by a signal cannot be distinguished from an exit code of 128 or more.
    """

    stdin: ByteWriter
    stdout: ByteReader
    stderr: ByteReader | None

    def __init__(self, wire: Wire, *, terminal: bool) -> None:
        self._wire = wire
        self._terminal = terminal
        self._frames = Demultiplexer()
        self._out, self._err = Pipe(), Pipe()
        self.stdout = self._out
        self.stderr = None if terminal else self._err
        plain = AttachedInput(wire)
        self.stdin = TerminalInput(plain) if terminal else plain
        self._drained = asyncio.Event()
        self._broken: ContainerSSHError | None = None
        self._over = False
        self._tasks: list[asyncio.Task[None]] = []

    @abstractmethod
    async def look(self) -> End:
        """Query the state of the program. Raises EngineError."""

    @abstractmethod
    async def set_size(self, size: WindowSize) -> None:
        """Set the size of the terminal. Raises EngineError, also if the program has not started or has ended."""

    @abstractmethod
    async def signal(self, name: str) -> None:
        """Send a signal. Raises BackendError, Rejected."""

    @abstractmethod
    async def kill_program(self) -> None:
        """Kill the program, if possible. Raises BackendError."""

    def begin(self, first: list[tuple[int, bytes]], size: WindowSize | None) -> None:
        """
        Start transferring output; *first* has been read already. *size* is applied as soon as the engine allows it.
        """
        self._tasks.append(asyncio.create_task(self._pump(first)))
        if size is not None:
            self._tasks.append(asyncio.create_task(self.set_first_size(size)))

    async def pieces(self) -> list[tuple[int, bytes]] | None:
        """
        The next output, by stream; None at its end.

        Raises:
            ConnectionError, ProtocolError: the engine's stream broke.
        """
        data = await self._wire.reader.read(CHUNK)
        if not data:
            if not self._frames.between_frames:
                raise ConnectionResetError("the engine cut the stream inside a frame")
            return None
        return [(0, data)] if self._terminal else list(self._frames.feed(data))

    async def wait(self) -> int | ExitSignal:
        """
        Wait for the end of the program and its output; return the exit code.

        Raises:
            BackendError: the stream broke, or the engine does not report how the program ended.
        """
        await self._drained.wait()
        if self._broken is not None:
            raise self._broken
        end = await self.ended()
        self._over = True
        return end.exit_code & 0xFFFFFFFF

    async def ended(self) -> End:
        """
        Poll until the program has ended; return its state.

        Raises:
            EngineError: the engine does not report it.
        """
        pause, waited = _FIRST_LOOK, 0.0
        while True:
            try:
                end = await self.look()
            except EngineError as exc:
                if exc.cure is not Cure.WAIT or waited > _PATIENCE:
                    raise
                waited += pause
            else:
                if not end.running:
                    return end
            await asyncio.sleep(pause)
            pause = min(1.5 * pause, _SLOWEST_LOOK)

    async def set_first_size(self, size: WindowSize) -> None:
        """
        Set the initial size of the terminal as soon as the engine allows it: it may answer a start before the program
        runs.
        """
        pause = 0.005
        for _ in range(_SIZE_TRIES):
            try:
                return await self.set_size(size)
            except EngineError as exc:
                # Not started yet, or already ended.
                logger.debug(Event(DockerCode.EXEC_RESIZE_FAILED, exc.explanation))
            await asyncio.sleep(pause)
            if self._drained.is_set():
                return None
            pause *= 2
        return None

    async def resize(self, size: WindowSize) -> None:
        """
        Set the size of the terminal. It is not an error if the program is just starting or has just ended.

        Raises:
            BackendError: the engine does not respond.
        """
        if self._terminal and not self._drained.is_set():
            await self.set_first_size(size)

    async def send_break(self, milliseconds: int) -> None:
        """Raises Rejected: engines do not support breaks."""
        del milliseconds
        raise no_break()

    async def kill(self) -> None:
        """Kill the program if it still runs and that is possible, and close the streams. A second call does nothing."""
        try:
            if not self._over:
                with suppress(ContainerSSHError):
                    await self.kill_program()
        finally:
            await self.release()

    async def release(self) -> None:
        """Close the streams without ending the program. A second call does nothing."""
        self._over = True
        self._wire.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def over(self) -> bool:
        """Whether the program is known to have ended."""
        return self._over

    async def _pump(self, first: list[tuple[int, bytes]]) -> None:
        error: ConnectionError | None = None
        try:
            pieces: list[tuple[int, bytes]] | None = first
            begun = False
            while pieces is not None:
                for number, data in pieces:
                    # If the program does not exist, the engine writes an error message to standard output instead.
                    failed = not begun and _NOT_RUN.fullmatch(data) is not None
                    begun = True
                    to_error = number == STDERR or (failed and not self._terminal)
                    await (self._err if to_error else self._out).put(self._not_run(data) if failed else data)
                pieces = await self.pieces()
        except (OSError, ProtocolError) as exc:
            text = f"the engine's stream of the program broke ({exc})"
            error = ConnectionAbortedError(text)
            self._broken = BackendError(
                DockerCode.STREAM_OUTPUT_FAILED, text, user_message="The connection to the container was lost."
            )
        self._drained.set()
        await self._out.end(error)
        await self._err.end(error)

    def _not_run(self, data: bytes) -> bytes:
        """Replace the engine's message by a line for the user, and log the message."""
        text = one_line(data.decode("utf-8", "replace"))
        logger.debug(Event(DockerCode.EXEC, f"The engine could not start the program: {text}"))
        end = "\r\n" if self._terminal else "\n"
        return f"containerssh: {not_run(text)}{end}".encode()


def not_run(text: str) -> str:
    """The text for the user in place of *text*, the engine's message about a program that it could not start."""
    if found := _WHY_NOT_RUN.fullmatch(text):
        return f"{found['program']}: {found['why']}"
    return "The program could not be started."
