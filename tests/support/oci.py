"""Logins to the embedded backend without SSH around it."""

from __future__ import annotations

import asyncio
import os
import secrets
import shlex
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from containerssh.backends.oci.backend import OCIBackend
from containerssh.backends.oci.demo import demo_image
from containerssh.config.oci import OCIConfig
from containerssh.core.handlers import ConnectionHandler, Notices, SessionChannel
from containerssh.core.instance import Instance, open_instance
from containerssh.core.metadata import Login, SocketAddress, Value
from containerssh.core.requests import ExitSignal
from containerssh.core.streams import ByteReader, ByteWriter

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
RUNTIMES = ("crun", "runc")


@cache
def image() -> Path:
    """The demo's root file system, made once per user."""
    return demo_image(Path(tempfile.gettempdir()) / f"containerssh-test-{os.geteuid()}")


def config(**changes: Any) -> OCIConfig:
    """A configuration, its keys as they are in a file."""
    return OCIConfig.model_validate({"image": str(image()), **changes})


def login(**changes: Any) -> Login:
    """A user who has just logged in."""
    return Login(SocketAddress("192.0.2.1", 4711), secrets.token_hex(16), username="ada", **changes)


def values(**texts: str) -> Mapping[str, Value[str]]:
    """As webhooks return them."""
    return {name: Value(text) for name, text in texts.items()}


@dataclass
class Told(Notices):
    """Records the messages to the user."""

    lines: list[str] = field(default_factory=list)

    def notice(self, text: str) -> None:
        self.lines.append(text)


class _Input(ByteReader):
    def __init__(self, data: bytes) -> None:
        self._chunks = [data] if data else []

    async def read(self) -> bytes:
        return self._chunks.pop() if self._chunks else b""


class _Output(ByteWriter):
    def __init__(self) -> None:
        self.data = bytearray()

    async def write(self, data: bytes) -> None:
        self.data += data

    async def write_eof(self) -> None:
        pass


class Channel(SessionChannel):
    """A client's end of a session that keeps everything."""

    def __init__(self, stdin: bytes = b"") -> None:
        self.stdin: ByteReader = _Input(stdin)
        self.out, self.err = _Output(), _Output()
        self.stdout: ByteWriter = self.out
        self.stderr: ByteWriter = self.err
        self.ended: asyncio.Future[int | ExitSignal | Exception] = asyncio.get_running_loop().create_future()

    async def exit_status(self, status: int) -> None:
        self.ended.set_result(status)

    async def exit_signal(self, signal: ExitSignal) -> None:
        self.ended.set_result(signal)

    async def fail(self, error: Exception) -> None:
        self.ended.set_result(error)


@dataclass(frozen=True)
class Done:
    """A program that has ended."""

    status: int | ExitSignal | Exception
    stdout: str
    stderr: str


async def run(connection: ConnectionHandler, command: str, stdin: bytes = b"") -> Done:
    """Run *command*, a line for the shell, in a session of its own, to its end."""
    channel = Channel(stdin)
    async with asyncio.timeout(30), connection.session(channel) as session:
        await session.run_command(f"/bin/sh -c {shlex.quote(command)}")
        status = await channel.ended
    return Done(status, channel.out.data.decode(), channel.err.data.decode())


@contextmanager
def short_folder() -> Iterator[Path]:
    """A folder of this user's own with a short path, gone at the end."""
    folder = Path(tempfile.mkdtemp(prefix="cssh-", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@asynccontextmanager
async def open_backend(folder: Path) -> AsyncIterator[tuple[OCIBackend, Instance]]:
    """A backend with its state in *folder*."""
    with open_instance(folder / "state", folder / "run") as instance:
        backend = OCIBackend(instance)
        try:
            yield backend, instance
        finally:
            await backend.close()


@asynccontextmanager
async def logged_in(meta: Login | None = None, **changes: Any) -> AsyncIterator[ConnectionHandler]:
    """A login to a backend of its own."""
    with short_folder() as folder:
        async with (
            open_backend(folder) as (backend, _),
            backend.login(meta or login(), config(**changes), Told()) as connection,
        ):
            yield connection
