"""A server whose logins run through a real agent on this machine, and peers for what is forwarded."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from containerssh.agent.link import AgentLink
from containerssh.backends.container import ContainerConnection, Execution
from containerssh.config.security import SecurityConfig
from containerssh.core.codes import SSHCode
from containerssh.core.handlers import ConnectionHandler, NetworkHandler, Notices, ServerHandler
from containerssh.core.layer import NetworkLayer, ServerLayer
from containerssh.core.metadata import ConnectionMetadata, Login
from containerssh.layers.security import Policy, SecurityConnection
from tests.support.agent import linked_process
from tests.support.local_backend import LocalBackend
from tests.support.openssh import OpenSSH
from tests.support.server import free_port
from tests.support.ssh_front import Front, serving

LIMIT = 30.0

EXECUTION = Execution(
    shell_command=("/bin/sh",),
    subsystems={},
    command_start=timedelta(seconds=10),
    signal=timedelta(seconds=10),
    window=timedelta(seconds=10),
)

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass(eq=False)
class AgentServer(ServerLayer):
    """Lets in whom the local backend lets in, and runs their programs through an agent."""

    transport: str = "socket"
    security: SecurityConfig | None = None
    around_connection: Callable[[ConnectionHandler], ConnectionHandler] | None = None
    links: list[AgentLink] = field(default_factory=list)
    agents: list[int] = field(default_factory=list)

    @asynccontextmanager
    async def accept(self, meta: ConnectionMetadata) -> AsyncIterator[NetworkHandler]:
        async with self.inner.accept(meta) as network:
            yield AgentNetwork(network, self)


@dataclass(eq=False)
class AgentNetwork(NetworkLayer):
    server: AgentServer

    @asynccontextmanager
    async def login(self, login: Login, notices: Notices) -> AsyncIterator[ConnectionHandler]:
        async with (
            self.inner.login(login, notices),
            linked_process(self.server.transport) as (link, process),
        ):
            self.server.links.append(link)
            self.server.agents.append(process.pid)
            connection: ConnectionHandler = ContainerConnection(link, EXECUTION)
            if self.server.security is not None:
                connection = SecurityConnection(connection, Policy(self.server.security))
            if self.server.around_connection is not None:
                connection = self.server.around_connection(connection)
            yield connection


@dataclass
class Forwarding:
    """A running server of that kind."""

    front: Front
    server: AgentServer

    @property
    def port(self) -> int:
        return self.front.port

    @property
    def reverse_forwards(self) -> int:
        """How many requests to listen have been answered well."""
        done = self.front.log.of(SSHCode.GLOBAL_REQUEST_SUCCESSFUL)
        return sum("forward" in str(labels["RequestType"]) for _, labels in done)


@asynccontextmanager
async def forwarding(
    transport: str = "socket",
    security: dict[str, Any] | None = None,
    around_connection: Callable[[ConnectionHandler], ConnectionHandler] | None = None,
    **options: Any,
) -> AsyncIterator[Forwarding]:
    """
    The server; *security* is that section of the configuration, without it everything is allowed. *around_connection*
    adds a layer.
    """
    made: list[AgentServer] = []

    def around(inner: ServerHandler) -> ServerHandler:
        config = None if security is None else SecurityConfig.model_validate(security)
        made.append(AgentServer(inner, transport, config, around_connection))
        return made[0]

    async with serving(LocalBackend(), around=around, **options) as front:
        yield Forwarding(front, made[0])


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An echo server; it also returns EOF."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.write_eof()


async def digest(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Takes everything until the end, and only then answers with its SHA-256: half-closing has to work."""
    hashed = hashlib.sha256()
    while data := await reader.read(65536):
        hashed.update(data)
    writer.write(hashed.hexdigest().encode())
    await writer.drain()


@asynccontextmanager
async def listening(serve: Serve, path: Path | None = None, host: str | None = "127.0.0.1") -> AsyncIterator[int]:
    """A server on a free port of *host* (None: all addresses), or on the socket *path*; its port."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            await serve(reader, writer)
        writer.close()

    if path is None:
        server = await asyncio.start_server(handle, host, free_port() if host is None else 0)
        port = server.sockets[0].getsockname()[1]
    else:
        server, port = await asyncio.start_unix_server(handle, str(path)), 0
    try:
        yield port
    finally:
        server.close()


async def talk(where: int | Path, data: bytes) -> bytes:
    """Send *data* and the end of file to a port of 127.0.0.1 or a socket; everything that comes back."""
    async with asyncio.timeout(LIMIT):
        if isinstance(where, int):
            reader, writer = await asyncio.open_connection("127.0.0.1", where)
        else:
            reader, writer = await asyncio.open_unix_connection(str(where))

        async def send() -> None:
            writer.write(data)
            await writer.drain()
            writer.write_eof()

        try:
            _, answer = await asyncio.gather(send(), reader.read(-1))
        finally:
            writer.close()
    return answer


@asynccontextmanager
async def client(
    openssh: OpenSSH, server: Forwarding, *options: str, env: dict[str, str] | None = None
) -> AsyncIterator[Path]:
    """OpenSSH's client that only forwards, ready; the path of its control socket."""
    control = openssh.folder / "control"
    argv = [*openssh.command(server.front, "-N", "-M", "-S", str(control), *options)]
    process = await asyncio.create_subprocess_exec(*argv, env=env or openssh.environment(), start_new_session=True)
    try:
        async with asyncio.timeout(LIMIT):
            while not control.exists() or server.reverse_forwards < options.count("-R"):
                assert process.returncode is None, "the client has ended"
                await asyncio.sleep(0.02)
        yield control
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def refused(port: int) -> bool:
    """Wait until nothing listens there any more."""
    async with asyncio.timeout(LIMIT):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                return True
            except ConnectionResetError:
                # It was closed while we stood in its queue.
                continue
            writer.close()
            await asyncio.sleep(0.02)


def unused_port() -> int:
    """A free port of 127.0.0.1."""
    return free_port()
