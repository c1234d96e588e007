"""The real agent as a process of this machine, both transports; a lying agent; a session channel in memory."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from containerssh.agent.binaries import agent_binary
from containerssh.agent.codec import PREAMBLE, STREAM_PREAMBLE, Frame, FrameType
from containerssh.agent.dialback import DialBack, dial_back
from containerssh.agent.link import FRAMED_ARGUMENTS, AgentLink, AgentProcess, Program, framed_link
from containerssh.agent.streams import SocketStream
from containerssh.core.handlers import SessionChannel
from containerssh.core.requests import ExitSignal
from containerssh.core.streams import ByteReader, ByteWriter

Dial = Callable[[bytes], Awaitable[SocketStream]]

LIMIT = 20.0
HELLO = Frame(FrameType.HELLO, 0, b"\0\1\0\1" + b"\0\0\0\4test").encode()


class PipeReader(ByteReader):
    """What a process writes."""

    def __init__(self, stream: asyncio.StreamReader) -> None:
        self._stream = stream

    async def read(self) -> bytes:
        return await self._stream.read(65536)


class PipeWriter(ByteWriter):
    """What a process reads."""

    def __init__(self, stream: asyncio.StreamWriter) -> None:
        self._stream = stream

    async def write(self, data: bytes) -> None:
        self._stream.write(data)
        await self._stream.drain()

    async def write_eof(self) -> None:
        self._stream.close()


@asynccontextmanager
async def agent_link(transport: str, noise: bytes = b"") -> AsyncIterator[AgentLink]:
    """A link to a real agent, ``socket`` or ``framed``; the agent has ended when the scope is left."""
    async with linked_process(transport, noise) as (link, _):
        yield link


@asynccontextmanager
async def linked_process(
    transport: str, noise: bytes = b""
) -> AsyncIterator[tuple[AgentLink, asyncio.subprocess.Process]]:
    """The same, with the agent's process."""
    opened = _by_socket() if transport == "socket" else _framed(noise)
    async with opened as (link, process):
        yield link, process
    assert await asyncio.wait_for(process.wait(), LIMIT) in (0, 1, -9)


@asynccontextmanager
async def _by_socket() -> AsyncIterator[tuple[AgentLink, asyncio.subprocess.Process]]:
    with tempfile.TemporaryDirectory() as parent:
        async with dial_back(Path(parent), os.uname().machine) as dialled:
            process = await asyncio.create_subprocess_exec(
                str(dialled.folder / "agent"), "serve", "--socket", str(dialled.folder / "socket")
            )
            async with asyncio.timeout(LIMIT):
                link = await dialled.accept()
            yield link, process


@asynccontextmanager
async def _framed(noise: bytes) -> AsyncIterator[tuple[AgentLink, asyncio.subprocess.Process]]:
    binary = str(agent_binary(os.uname().machine))
    pipe = asyncio.subprocess.PIPE
    if noise:
        # As an image's entrypoint does that greets and then becomes what it was told to run.
        script = f"head -c {len(noise)} $0 && exec {binary} {' '.join(FRAMED_ARGUMENTS)}"
        with tempfile.NamedTemporaryFile() as file:
            file.write(noise)
            file.flush()
            process = await asyncio.create_subprocess_exec("sh", "-c", script, file.name, stdin=pipe, stdout=pipe)
            async with _framed_process(process) as opened:
                yield opened
        return
    process = await asyncio.create_subprocess_exec(binary, *FRAMED_ARGUMENTS, stdin=pipe, stdout=pipe)
    async with _framed_process(process) as opened:
        yield opened


@asynccontextmanager
async def _framed_process(
    process: asyncio.subprocess.Process,
) -> AsyncIterator[tuple[AgentLink, asyncio.subprocess.Process]]:
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with framed_link(PipeReader(process.stdout), PipeWriter(process.stdin)) as link:
            yield link, process
    finally:
        process.stdin.close()


async def read_all(reader: ByteReader | None) -> bytes:
    """Everything until the end."""
    assert reader is not None
    data = bytearray()
    async with asyncio.timeout(LIMIT):
        while more := await reader.read():
            data += more
    return bytes(data)


async def read_until(reader: ByteReader, wanted: bytes) -> bytes:
    """Read up to and including *wanted*, and possibly more."""
    data = b""
    async with asyncio.timeout(LIMIT):
        while wanted not in data:
            more = await reader.read()
            assert more, f"{wanted!r} did not come, only {data!r}"
            data += more
    return data


async def run_to_end(process: AgentProcess, stdin: bytes = b"") -> tuple[bytes, int | ExitSignal]:
    """Feed *stdin*, end it; all output, and how the program ended."""

    async def feed() -> None:
        # One that ends without reading has closed it; what it did with its input shows in its output.
        with suppress(ConnectionError):
            await process.stdin.write(stdin)
            await process.stdin.write_eof()

    async with asyncio.timeout(LIMIT):
        output, _ = await asyncio.gather(read_all(process.stdout), feed())
        outcome = await process.wait()
    await process.kill()
    return output, outcome


async def shell(link: AgentLink, script: str, stdin: bytes = b"", **env: str) -> tuple[bytes, int | ExitSignal]:
    """The same of a shell's *script*."""
    return await run_to_end(await link.start(Program(["/bin/sh", "-c", script], env)), stdin)


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait until *condition* holds."""
    try:
        async with asyncio.timeout(LIMIT):
            while not condition():  # noqa: ASYNC110  processes outside have no event to wait for
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"it did not come to pass that {what}") from None


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in ("Z", "X")


class FakeAgent:
    """A fake: says on a framed link whatever a test wants it to. Faults that the real agent does not show."""

    def __init__(self, stream: SocketStream) -> None:
        self.stream = stream

    async def say(self, *frames: Frame | bytes) -> None:
        """Send frames or raw bytes."""
        for frame in frames:
            await self.stream.write(frame if isinstance(frame, bytes) else frame.encode())

    async def hear(self) -> tuple[int, int, bytes]:
        """The gateway's next message: type, id, payload."""
        async with asyncio.timeout(LIMIT):
            header = await self._exactly(8)
            payload = await self._exactly(int.from_bytes(header[1:4], "big"))
        return header[0], int.from_bytes(header[4:], "big"), payload

    async def hear_of(self, kind: FrameType) -> tuple[int, bytes]:
        """The next message of type *kind*, others skipped: id, payload."""
        while True:
            heard, identity, payload = await self.hear()
            if heard == kind:
                return identity, payload

    async def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = await self.stream.read(count - len(data))
            if not more:
                raise EOFError
            data += more
        return data


@asynccontextmanager
async def fake_agent(
    *, handshake: bool = True
) -> AsyncIterator[tuple[Callable[[], Coroutine[None, None, AgentLink]], FakeAgent]]:
    """A fake agent, and a call that gives the framed link to it; *handshake*: it begins as a real one."""
    ours, theirs = socket.socketpair()
    fake = FakeAgent(SocketStream(theirs))
    stream = SocketStream(ours)
    scope = framed_link(stream, stream)
    entered = False

    async def enter() -> AgentLink:
        nonlocal entered
        async with asyncio.timeout(LIMIT):
            link = await scope.__aenter__()
        entered = True
        return link

    try:
        if handshake:
            await fake.say(PREAMBLE, HELLO)
        yield enter, fake
    finally:
        if entered:
            await scope.__aexit__(None, None, None)
        await stream.close()
        await fake.stream.close()


@asynccontextmanager
async def fake_dial_back() -> AsyncIterator[tuple[DialBack, Dial]]:
    """A real dial-back folder, and a call with which a fake agent connects to it and says something."""
    opened: list[SocketStream] = []

    with tempfile.TemporaryDirectory() as parent:
        async with dial_back(Path(parent), "amd64") as dialled:

            async def dial(first: bytes) -> SocketStream:
                connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                connection.setblocking(False)
                await asyncio.get_running_loop().sock_connect(connection, str(dialled.folder / "socket"))
                stream = SocketStream(connection)
                opened.append(stream)
                if first:
                    await stream.write(first)
                return stream

            try:
                yield dialled, dial
            finally:
                for stream in opened:
                    await stream.close()


def stream_opening(token: bytes) -> bytes:
    """What an agent says first on a stream's connection."""
    return STREAM_PREAMBLE + token


class MemoryReader(ByteReader):
    """A client's input; a test puts in what it wants and ends it."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[bytes] = asyncio.Queue()

    async def read(self) -> bytes:
        return await self.queue.get()


class MemoryWriter(ByteWriter):
    """A client's view of the output; cleared *room* makes it stop reading."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.ended = False
        self.room = asyncio.Event()
        self.room.set()

    async def write(self, data: bytes) -> None:
        await self.room.wait()
        self.data += data

    async def write_eof(self) -> None:
        self.ended = True


class MemoryChannel(SessionChannel):
    """A session channel without SSH."""

    def __init__(self) -> None:
        self.stdin = self.client = MemoryReader()
        self.stdout = self.out = MemoryWriter()
        self.stderr = self.err = MemoryWriter()
        self.outcome: int | ExitSignal | Exception | None = None
        self._over = asyncio.Event()

    def send(self, data: bytes) -> None:
        """The client sends; ``b""`` is its end of file."""
        self.client.queue.put_nowait(data)

    async def over(self) -> int | ExitSignal | Exception:
        """How the session ended."""
        async with asyncio.timeout(LIMIT):
            await self._over.wait()
        assert self.outcome is not None
        return self.outcome

    async def exit_status(self, status: int) -> None:
        self._end(status)

    async def exit_signal(self, signal: ExitSignal) -> None:
        self._end(signal)

    async def fail(self, error: Exception) -> None:
        self._end(error)

    def _end(self, outcome: int | ExitSignal | Exception) -> None:
        assert self.outcome is None, "a session ends once"
        self.outcome = outcome
        self._over.set()
