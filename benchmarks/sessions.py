"""One user among others: further sessions, keystrokes, and a client that takes nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncssh

from benchmarks.connections import connect
from benchmarks.processes import own_memory
from benchmarks.servers import Client, Server

_KEY_EVERY = 0.01
_HUGE_WINDOW = 2**31 - 1


async def further_sessions(client: Client, server: Server, count: int) -> list[float]:
    """Milliseconds from the request for a session to its first byte, on a connection that has had one."""
    async with await connect(client, server) as connection:
        times = []
        for _ in range(count + 1):
            began = time.perf_counter()
            process = await connection.create_process("echo ready", encoding=None)
            await process.stdout.readexactly(6)
            times.append((time.perf_counter() - began) * 1000)
            await process.wait()
    return times[1:]


async def keystrokes(client: Client, server: Server, count: int) -> list[float]:
    """Milliseconds until each of *count* keys comes back from a terminal's echo."""
    async with await connect(client, server) as connection:
        process = await connection.create_process("cat", term_type="xterm", encoding=None)
        times = []
        for number in range(count + 1):
            # The first also waits for the program.
            key = b"\n" if number % 40 == 39 else b"x"
            began = time.perf_counter()
            process.stdin.write(key)
            await process.stdout.readexactly(1)
            times.append((time.perf_counter() - began) * 1000)
            if key == b"\n":
                # The line's other end, and the same line from the program.
                await process.stdout.readexactly(1)
                await process.stdout.readuntil(b"\n")
            await asyncio.sleep(_KEY_EVERY)
        process.close()
    return times[1:]


@asynccontextmanager
async def bulk(client: Client, server: Server) -> AsyncIterator[None]:
    """Another user's endless download meanwhile, by OpenSSH's client in a process of its own."""
    command = client.command(server, "exec cat /dev/zero", cipher="aes128-gcm@openssh.com")
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        # It has to log in first.
        await asyncio.sleep(1)
        yield
    finally:
        process.kill()
        await process.wait()


async def unread_growth(client: Client, server: Server, seconds: float) -> float:
    """MiB by which the server grows while a client grants a window of 2 GiB and then reads nothing."""
    async with await connect(client, server) as connection:
        await connection.run("echo warm")
        before = own_memory(server.pid)
        process: asyncssh.SSHClientProcess[bytes] = await connection.create_process(
            "exec cat /dev/zero", encoding=None, window=_HUGE_WINDOW
        )
        await process.stdout.read(1)
        # The library has no call for it, and would grant more window when its buffer is read.
        transport = connection._transport
        assert transport is not None, "it is connected"
        transport.pause_reading()
        await asyncio.sleep(seconds)
        growth = own_memory(server.pid) - before
        connection.abort()
    return growth / 1024 / 1024
