"""The streams of a program in a pod, through the API server (``exec`` and ``attach``)."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from containerssh.backends.kubernetes.channels import (
    RESIZE,
    STATUS,
    STDERR,
    STDIN,
    STDOUT,
    Closed,
    Codec,
    Ended,
    Happening,
    Piece,
    Reply,
)
from containerssh.backends.kubernetes.errors import ERROR_LIMIT, causes_of, parse_status, status_error
from containerssh.core.codes import KubernetesCode
from containerssh.core.errors import BackendError, ContainerSSHError, ProtocolError, describe
from containerssh.core.flag import Flag
from containerssh.core.requests import WindowSize
from containerssh.core.streams import CHUNK, ByteReader, ByteWriter
from containerssh.core.wire import Wire

_HELD = 256 * 1024
"""Unread bytes of one output at which receiving is paused."""
_SMALL = 1024
_JOINED = 16 * 1024
"""Small pieces are joined up to this many bytes; separate ones would take ten times the memory of their content."""
_REPLIES_HELD = 64 * 1024
"""Unsent bytes above which pings are neither answered nor sent."""
# Seconds between pings, and without any data after which the connection counts as broken.
_PING_EVERY = 15.0
_SILENCE_LIMIT = 60.0
_LAST_LIMIT = 10.0
"""Seconds without output after the program's status has arrived; then the output is considered complete."""
_FAREWELL_LIMIT = 1.0
"""Seconds that an orderly close may take."""


class RemoteStream:
    """
    The streams of one program, on a connection of their own. The client creates and closes it.

    All streams share the connection: if a requested standard output or error is not read, nothing more is received, not
    even the exit status.
    """

    def __init__(
        self,
        wire: Wire,
        codec: Codec,
        *,
        stdin: bool,
        stderr: bool,
        tty: bool,
        ping_every: float = _PING_EVERY,
        silence_limit: float = _SILENCE_LIMIT,
        last_limit: float = _LAST_LIMIT,
    ) -> None:
        self._wire = wire
        self._last_limit = last_limit
        self._ping_every = ping_every
        self._silence_limit = silence_limit
        self._codec = codec
        self._tty = tty
        self._stdout = _Output(self._resume)
        self._stderr = _Output(self._resume) if stderr and not tty else None
        self._outputs = {STDOUT: self._stdout, **({STDERR: self._stderr} if self._stderr else {})}
        self.stdin: ByteWriter = _Input(self, wanted=stdin)
        """Its EOF is passed on to the program, except on a terminal, where it has no meaning."""
        self.stdout: ByteReader = self._stdout
        """The program's output; raises ConnectionError if the connection broke before the status arrived."""
        self.stderr: ByteReader | None = self._stderr
        """None with a terminal, or if it was not requested."""
        self._status = bytearray()
        self._output_at = 0.0
        """The loop's time of the last output after the status."""
        self._outcome: int | ContainerSSHError | None = None
        self._over = Flag()
        loop = asyncio.get_running_loop()
        self._heard = loop.time()
        self._sent_since = False
        self._paused = False
        self._timer = loop.call_later(ping_every, self._look_after)
        if opening := codec.opening():
            wire.write(opening)
        wire.pass_on(self._receive, self._lost)

    async def resize(self, size: WindowSize) -> None:
        """
        Set the size of the terminal. If this is called before any input is sent, the program starts with it.

        Raises:
            BackendError: there is no terminal, or the connection is gone.
        """
        if not self._tty:
            raise BackendError(KubernetesCode.EXEC_FAILED, "a size was set without a terminal")
        text = json.dumps({"Width": min(size.columns, 0xFFFF), "Height": min(size.rows, 0xFFFF)})
        try:
            await self.send(self._codec.data(RESIZE, text.encode()))
        except ConnectionError as exc:
            raise BackendError(KubernetesCode.EXEC_FAILED, "a terminal's size could not be set") from exc

    async def wait(self) -> int:
        """
        The exit code, once all output has been received; 128 plus its number for a signal. For ``attach`` it is always
        0; the real one is in the status of the pod.

        Raises:
            BackendError: it could not be started, or the connection ended without a status.
        """
        await self._over.wait()
        if isinstance(self._outcome, ContainerSSHError):
            raise self._outcome
        assert self._outcome is not None
        return self._outcome

    @property
    def own_host(self) -> str:
        """The local address of the connection to the API server; empty if there is none."""
        return self._wire.own_host

    @property
    def ended(self) -> bool:
        """Whether :meth:`wait` would return, or raise, at once."""
        return self._over.is_set()

    async def close(self) -> None:
        """Close the connection, which does not end the program. Safe to call twice."""
        self._finish(ConnectionResetError("the stream was closed here"))
        try:
            if self._wire.is_open and not self._wire.unsent:
                self._wire.write(self._codec.farewell())
                await self._wire.close(_FAREWELL_LIMIT)
        finally:
            self._wire.abort()

    async def send(self, data: bytes) -> None:
        """
        Send whole messages of the protocol; returns when there is room for more.

        Raises:
            ConnectionError: the connection is gone.
        """
        if self._over.is_set() or not self._wire.is_open:
            raise ConnectionResetError("the connection to the program in the pod has ended")
        self._wire.write(data)
        await self._wire.drain()

    def message(self, data: bytes) -> bytes:
        """The message of the protocol for *data*, at most CHUNK bytes of input."""
        self._sent_since = True
        return self._codec.data(STDIN, data)

    def end_of_input(self) -> bytes:
        """The message of the protocol for the end of the input; empty if there is a terminal."""
        # On a terminal it would not reach the program, and the output from then on would be lost.
        return b"" if self._tty else self._codec.end(STDIN)

    def _receive(self, data: bytes) -> None:
        if self._over.is_set():
            return
        self._heard, self._sent_since = asyncio.get_running_loop().time(), False
        try:
            for happening in self._codec.feed(data):
                if self._deal(happening):
                    self._end(None)
                    return
        except (OSError, ProtocolError) as exc:
            self._end(exc)
            return
        if not self._paused and any(output.full for output in self._outputs.values()):
            self._paused = True
            self._wire.pause()

    def _resume(self) -> None:
        """Receive again, after an output has been read."""
        if self._paused and not any(output.full for output in self._outputs.values()):
            self._paused = False
            self._heard = asyncio.get_running_loop().time()
            if self._status and not self._over.is_set():
                self._await_last()
            self._wire.resume()

    def _lost(self, exc: Exception | None) -> None:
        self._finish(exc or ConnectionResetError("the API server ended the connection"))

    def _end(self, error: Exception | None) -> None:
        self._finish(error or ConnectionResetError("the API server ended the connection"))
        if error is not None:
            self._wire.abort()

    def _deal(self, happening: Happening) -> bool:
        match happening:
            case Piece(channel, data):
                if output := self._outputs.get(channel):
                    output.add(data)
                    if self._status:
                        self._output_at = asyncio.get_running_loop().time()
                elif channel == STATUS and len(self._status) + len(data) <= ERROR_LIMIT:
                    if not self._status:
                        self._await_last()
                    self._status += data
            case Ended(channel):
                if output := self._outputs.get(channel):
                    output.end(None)
            case Reply(data):
                # A peer that sends pings without reading the answers must not fill our memory.
                if self._wire.unsent < _REPLIES_HELD:
                    self._wire.write(data)
            case Closed(complaint):
                if complaint and not self._status:
                    raise ConnectionResetError(complaint)
                return True
        return False

    def _await_last(self) -> None:
        """The status has arrived: the remaining output follows soon, unless receiving is paused."""
        loop = asyncio.get_running_loop()
        self._output_at = loop.time()
        self._timer.cancel()
        self._timer = loop.call_later(self._last_limit, self._end_at_last)

    def _end_at_last(self) -> None:
        loop = asyncio.get_running_loop()
        left = self._output_at + self._last_limit - loop.time()
        if left > 0:
            self._timer = loop.call_later(left, self._end_at_last)
        elif not self._paused:
            self._end(None)

    def _finish(self, error: Exception) -> None:
        if self._over.is_set():
            return
        self._timer.cancel()
        self._outcome = self._judge(error)
        # Output before the status is complete, even if the program failed.
        complete = self._status and not self._codec.unfinished
        for output in self._outputs.values():
            output.end(None if complete else error)
        self._over.set()

    def _judge(self, error: Exception) -> int | ContainerSSHError:
        if not self._status:
            text = f"the stream of the program in the pod ended without its status ({describe(error)})"
            return BackendError(KubernetesCode.EXIT_CODE_FAILED, text)
        if self._codec.unfinished:
            text = f"the stream of the program in the pod ended in the middle of its output ({describe(error)})"
            return BackendError(KubernetesCode.EXEC_FAILED, text)
        found = parse_status(bytes(self._status))
        if found is None:
            return BackendError(KubernetesCode.EXIT_CODE_FAILED, "the API server told no status that can be understood")
        if found.get("status") == "Success":
            return 0
        code = causes_of(found).get("ExitCode", "")
        if found.get("reason") == "NonZeroExitCode" and code.isascii() and code.isdigit() and len(code) < 10:
            return int(code)
        failure = status_error("the program in the pod", found)
        return BackendError(KubernetesCode.EXEC_FAILED, failure.explanation)

    def _look_after(self) -> None:
        """Check that the peer answers; the pings also keep proxies from closing an idle connection."""
        loop = asyncio.get_running_loop()
        silence = 0.0 if self._paused else loop.time() - self._heard
        # A server answers only after it has passed on our input, which a program need not read.
        if silence > self._silence_limit and not self._sent_since:
            self._end(ConnectionResetError(f"nothing came from the API server for {silence:.0f} s"))
            return
        if silence >= self._ping_every / 2 and self._wire.unsent < _REPLIES_HELD:
            self._wire.write(self._codec.ping())
        self._timer = loop.call_later(self._ping_every, self._look_after)


class _Output(ByteReader):
    """Standard output or error of the program; holds what has arrived and is unread."""

    def __init__(self, on_room: Callable[[], None]) -> None:
        self._on_room = on_room
        self._ready: deque[bytes | bytearray] = deque()
        self._size = 0
        self._ended = False
        self._error: Exception | None = None
        self._news = Flag()

    @property
    def full(self) -> bool:
        return self._size >= _HELD

    def add(self, data: bytes) -> None:
        if self._ended or not data:
            return
        if len(data) >= _SMALL:
            self._ready.append(data)
        elif self._ready and isinstance(last := self._ready[-1], bytearray) and len(last) < _JOINED:
            last += data
        else:
            self._ready.append(bytearray(data))
        self._size += len(data)
        self._news.set()

    def end(self, error: Exception | None) -> None:
        if not self._ended:
            self._ended, self._error = True, error
            self._news.set()

    async def read(self) -> bytes:
        while not self._ready:
            if self._error is not None:
                raise ConnectionResetError(describe(self._error)) from self._error
            if self._ended:
                return b""
            self._news.clear()
            await self._news.wait()
        parts = [self._ready.popleft()]
        size = len(parts[0])
        while self._ready and size + len(self._ready[0]) <= CHUNK:
            parts.append(self._ready.popleft())
            size += len(parts[-1])
        self._size -= size
        if not self.full:
            self._on_room()
        return b"".join(parts) if len(parts) > 1 else bytes(parts[0])


class _Input(ByteWriter):
    """The program's standard input."""

    def __init__(self, stream: RemoteStream, *, wanted: bool) -> None:
        self._stream = stream
        self._ended = not wanted

    async def write(self, data: bytes) -> None:
        if self._ended:
            raise ConnectionResetError("the program has no standard input any more")
        for start in range(0, len(data), CHUNK):
            await self._stream.send(self._stream.message(data[start : start + CHUNK]))

    async def write_eof(self) -> None:
        if self._ended:
            return
        self._ended = True
        if ending := self._stream.end_of_input():
            with suppress(ConnectionError):
                await self._stream.send(ending)
