"""Beside the Docker engine: ways to it that fail, a registry, small images, and the front's side of a login."""

from __future__ import annotations

import asyncio
import ssl
import tarfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

from containerssh.core.handlers import Notices, SessionChannel
from containerssh.core.metadata import Login, SocketAddress, Value
from containerssh.core.requests import ExitSignal
from containerssh.core.streams import CHUNK, ByteReader, ByteWriter
from tests.support.services import Engine, wait_until
from tests.support.tools import tool

SCRATCH_IMAGE = "containerssh-test/scratch:latest"
"""Nothing but busybox as ``/busybox``: no shell, no /etc, no folder for temporary files."""


def build_image(engine: Engine, name: str, base: str, *changes: str) -> str:
    """An image *name*: *base* with the Dockerfile lines *changes*; its name."""
    text = "\n".join([f"FROM {base}", *changes]).encode()
    context = BytesIO()
    with tarfile.open(fileobj=context, mode="w") as archive:
        entry = tarfile.TarInfo("Dockerfile")
        entry.size = len(text)
        archive.addfile(entry, BytesIO(text))
    engine.docker("build", "--quiet", "--label", "containerssh-test", "--tag", name, "-", stdin=context.getvalue())
    return name


def scratch_image(engine: Engine) -> str:
    """The engine has :data:`SCRATCH_IMAGE` afterwards; its name."""
    if not engine.has_image(SCRATCH_IMAGE):
        content = Path(tool("busybox")).resolve().read_bytes()
        out = BytesIO()
        with tarfile.open(fileobj=out, mode="w") as archive:
            entry = tarfile.TarInfo("busybox")
            entry.size, entry.mode = len(content), 0o755
            archive.addfile(entry, BytesIO(content))
        engine.docker("import", "-", SCRATCH_IMAGE, stdin=out.getvalue())
    return SCRATCH_IMAGE


def containers_of(engine: Engine, login: Login) -> list[str]:
    """Ids of the login's containers, running or not."""
    found = engine.docker(
        "ps", "--all", "--quiet", "--filter", f"label=containerssh_connection_id={login.connection_id}"
    )
    return found.split()


async def gone(engine: Engine, login: Login, within: float = 15) -> None:
    """Wait until the login has no container."""
    await asyncio.to_thread(
        wait_until, lambda: not containers_of(engine, login), within=within, what="the removal of the container"
    )


# -- ways to the engine ------------------------------------------------------------------------------------


@dataclass
class Way:
    """A TCP way to the engine. Its faults are set while it is open."""

    address: str = ""
    network: str = "default"
    """As :attr:`Engine.network`."""
    requests: list[str] = field(default_factory=list)
    """First lines of the requests, the first one of each connection only once others follow on it."""
    connections: int = 0
    swallow: Callable[[bytes], bool] = lambda _: False
    """Requests whose reply never arrives: the engine gets them, then the connection breaks."""
    hold: Callable[[bytes], bool] = lambda _: False
    """Requests whose reply waits for :attr:`release`."""
    release: asyncio.Event = field(default_factory=asyncio.Event)
    held: asyncio.Event = field(default_factory=asyncio.Event)
    """A reply is being held."""
    elsewhere: bool = False
    """The engine does not find the folders made for agents, as if it lived on another machine."""
    refuse: bool = False
    """New connections are closed at once."""
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    def cut(self) -> None:
        """Break all connections."""
        for writer in list(self._writers):
            writer.transport.abort()


@asynccontextmanager
async def way_to(engine: Engine, tls: ssl.SSLContext | None = None, *, at: Path | None = None) -> AsyncIterator[Way]:
    """A way to *engine* from a free port of this machine, or from the new socket *at*."""
    way = Way(network=engine.network)
    tasks: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        way.connections += 1
        try:
            if not way.refuse:
                await _carry(way, engine.socket, reader, writer)
        except (OSError, EOFError):
            pass
        finally:
            tasks.discard(task)
            writer.transport.abort()

    if at is not None:
        server = await asyncio.start_unix_server(accept, at)
        way.address = f"unix://{at}"
    else:
        server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
        way.address = f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield way
    finally:
        server.close()
        way.release.set()
        way.cut()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _carry(way: Way, path: Path, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    engine_reader, engine_writer = await asyncio.open_unix_connection(str(path))
    way._writers |= {writer, engine_writer}
    fault: list[str] = []

    async def there() -> None:
        while data := await reader.read(CHUNK):
            first = data.split(b"\r\n", 1)[0]
            if first.endswith(b" HTTP/1.1"):
                way.requests.append(first.decode("latin-1"))
                if way.swallow(first):
                    fault.append("swallow")
                elif way.hold(first):
                    fault.append("hold")
            engine_writer.write(data.replace(b"/link-", b"/gone-") if way.elsewhere else data)
            await engine_writer.drain()
        with suppress(OSError):
            engine_writer.write_eof()

    async def back() -> None:
        while data := await engine_reader.read(CHUNK):
            if "swallow" in fault:
                writer.transport.abort()
                return
            if "hold" in fault:
                fault.clear()
                way.held.set()
                await way.release.wait()
            writer.write(data.replace(b"/gone-", b"/link-") if way.elsewhere else data)
            await writer.drain()
        with suppress(OSError, NotImplementedError):
            writer.write_eof() if writer.can_write_eof() else writer.close()

    forth = asyncio.create_task(there())
    try:
        await back()
    finally:
        forth.cancel()
        await asyncio.wait([forth])
        way._writers -= {writer, engine_writer}
        engine_writer.transport.abort()


# -- the front's side -------------------------------------------------------------------------------------------


def a_login(username: str = "alice", **texts: dict[str, str]) -> Login:
    """A login with a connection id of its own; *texts*: metadata, environment, files (as text)."""
    return Login(
        SocketAddress("192.0.2.7", 4022),
        f"{time.monotonic_ns():032x}",
        metadata={name: Value(value) for name, value in texts.get("metadata", {}).items()},
        environment={name: Value(value) for name, value in texts.get("environment", {}).items()},
        files={name: Value(value.encode()) for name, value in texts.get("files", {}).items()},
        username=username,
        authenticated_username=username,
    )


class Seen(Notices):
    """Keeps the lines that a user would have seen."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def notice(self, text: str) -> None:
        self.lines.append(text)


class Input(ByteReader):
    """Gives some bytes and its end; without an end it waits for ever."""

    def __init__(self, data: bytes, *, ends: bool = True) -> None:
        self._data = data
        self._ends = ends

    async def read(self) -> bytes:
        data, self._data = self._data[:CHUNK], self._data[CHUNK:]
        if not data and not self._ends:
            await asyncio.Event().wait()
        return data


class Output(ByteWriter):
    """Keeps what is written."""

    def __init__(self) -> None:
        self.data = b""
        self.ended = False

    async def write(self, data: bytes) -> None:
        self.data += data

    async def write_eof(self) -> None:
        self.ended = True


class Channel(SessionChannel):
    """A session channel whose client keeps everything."""

    def __init__(self, stdin: bytes = b"", *, ends: bool = True) -> None:
        self.stdin: ByteReader = Input(stdin, ends=ends)
        self.out, self.err = Output(), Output()
        self.stdout: ByteWriter = self.out
        self.stderr: ByteWriter = self.err
        self._end: asyncio.Future[int | ExitSignal | Exception] = asyncio.get_running_loop().create_future()

    async def ended(self, within: float = 20) -> int | ExitSignal | Exception:
        """How the program ended, or the error that the session broke with."""
        async with asyncio.timeout(within):
            return await asyncio.shield(self._end)

    async def exit_status(self, status: int) -> None:
        self._settle(status)

    async def exit_signal(self, signal: ExitSignal) -> None:
        self._settle(signal)

    async def fail(self, error: Exception) -> None:
        self._settle(error)

    def _settle(self, end: int | ExitSignal | Exception) -> None:
        if not self._end.done():
            self._end.set_result(end)
