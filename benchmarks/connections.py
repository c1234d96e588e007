"""Many connections at once, made by one asyncssh client: what logins cost the server, and what idle ones keep."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncssh

from benchmarks.processes import cpu_seconds, memory, own_memory
from benchmarks.servers import KEX, Client, Server

AT_ONCE = 8
CIPHER = "aes128-gcm@openssh.com"
PAUSE = 0.5


@dataclass(frozen=True)
class Storm:
    """A series of logins."""

    per_second: float
    cpu_ms: float
    """Processor time of the server for each."""


def connect(client: Client, server: Server, *, accepted: bool = True) -> Awaitable[asyncssh.SSHClientConnection]:
    """A connection whose key the server knows, or does not."""
    return asyncssh.connect(
        "127.0.0.1",
        server.port,
        config=None,
        username=server.user,
        client_keys=[str(client.folder / ("id_ed25519" if accepted else "unknown"))],
        known_hosts=None,
        agent_path=None,
        preferred_auth="publickey",
        kex_algs=[KEX],
        encryption_algs=[CIPHER],
        # As OpenSSH prefers it; an RSA signature would cost the server more than the rest of a login.
        server_host_key_algs=["ssh-ed25519"],
        compression_algs=["none"],
        # Many connections at once queue here, not at the server.
        login_timeout=60,
    )


async def storm(client: Client, server: Server, count: int, *, accepted: bool) -> Storm:
    """*count* connections, some at a time, closed as soon as the server has decided; no session is opened."""
    left = count

    async def work() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            try:
                connection = await connect(client, server, accepted=accepted)
            except asyncssh.PermissionDenied:
                continue
            connection.abort()

    before = cpu_seconds(server.pid, with_ended_children=server.forks)
    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    seconds = time.perf_counter() - began
    await asyncio.sleep(PAUSE)
    spent = cpu_seconds(server.pid, with_ended_children=server.forks) - before
    return Storm(count / seconds, spent / count * 1000)


async def idle_memory(client: Client, server: Server, count: int) -> float:
    """KiB that each of *count* logged-in connections without a session costs."""
    return (await memory_of_each(client, server, idle=count, shells=0))[0]


async def memory_of_each(client: Client, server: Server, *, idle: int, shells: int) -> tuple[float, float]:
    """
    KiB that each of *idle* logged-in connections without a session costs, and each of *shells* with a terminal and a
    waiting shell, without the shell itself. 0 for none.

    Those that came before stay while others come: what they had freed, the others would get for nothing. The first pay
    for what is made once, threads above all, and are as many as log in at a time.
    """
    async with _open(client, server, AT_ONCE, _shell if shells else _nothing):
        await asyncio.sleep(PAUSE)
        before = _used(server)
        async with _open(client, server, idle, _nothing):
            await asyncio.sleep(PAUSE)
            with_idle = _used(server)
            async with _open(client, server, shells, _shell):
                await asyncio.sleep(PAUSE)
                with_shells = _used(server)
    return (with_idle - before) / max(1, idle) / 1024, (with_shells - with_idle) / max(1, shells) / 1024


async def _nothing(connection: asyncssh.SSHClientConnection) -> None:
    """Log in and leave it at that."""


async def _shell(connection: asyncssh.SSHClientConnection) -> None:
    process = await connection.create_process("echo up; exec cat", term_type="xterm", encoding=None)
    await process.stdout.readuntil(b"up")


def _used(server: Server) -> int:
    # A server that does not fork has containers below it, which are not its own memory.
    return memory(server.pid) if server.forks else own_memory(server.pid)


@asynccontextmanager
async def _open(
    client: Client, server: Server, count: int, use: Callable[[asyncssh.SSHClientConnection], Awaitable[None]]
) -> AsyncIterator[None]:
    connections: list[asyncssh.SSHClientConnection] = []
    room = asyncio.Semaphore(AT_ONCE)

    async def one() -> None:
        async with room:
            connection = await connect(client, server)
            connections.append(connection)
            await use(connection)

    try:
        await asyncio.gather(*(one() for _ in range(count)))
        yield
    finally:
        for connection in connections:
            connection.abort()
