"""What clients can make a server hold, as the memory of its process shows it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncssh
import pytest
from asyncssh.packet import Boolean, String

from tests.support.front_process import FrontProcess, front_process

MIB = 1024 * 1024
USERAUTH_REQUEST = 50
GLOBAL_REQUEST = 80
KEXINIT = 20
IGNORE = 2
UNKNOWN = 199

# How long an attack goes on; each of them made an unprotected server grow by several MiB a second.
ATTACK = 2.5


async def log_in(server: FrontProcess, **options: Any) -> Any:
    return await asyncssh.connect(
        "127.0.0.1",
        server.port,
        **{"username": "alice", "password": "secret", "known_hosts": None, "client_keys": None, **options},
    )


@asynccontextmanager
async def warm() -> AsyncIterator[FrontProcess]:
    """A server that has moved some data already: what Python takes for the first of everything does not count."""
    async with front_process() as server:
        for _ in range(3):
            connection = await log_in(server)
            await connection.run("head -c 3000000 /dev/zero", encoding=None)
            await connection.run("cat >/dev/null", input=bytes(3_000_000), encoding=None)
            connection.abort()
            await connection.wait_closed()
        yield server


async def flood(connection: Any, message: Callable[[], None]) -> int:
    """Send *message* for a while as fast as the server takes it, reading nothing; how often it was sent."""
    if connection._transport is None:
        return 0
    connection._transport.pause_reading()
    ends = time.monotonic() + ATTACK
    count = 0
    while time.monotonic() < ends and connection._transport:
        if connection._transport.get_write_buffer_size() < 4 * MIB:
            for _ in range(50):
                message()
            count += 50
        await asyncio.sleep(0 if count % 500 else 0.001)
    return count


async def good_login(server: FrontProcess) -> float:
    """How long another user's login takes meanwhile."""
    began = time.monotonic()
    connection = await log_in(server)
    assert (await connection.run("echo in")).stdout == "in\n"
    connection.abort()
    return time.monotonic() - began


class Unpatient(asyncssh.SSHClient):
    """Tells when its connection can ask for authentication."""

    def __init__(self) -> None:
        self.ready = asyncio.Event()
        self.connection: Any = None

    def connection_made(self, conn: Any) -> None:
        self.connection = conn

    def auth_banner_received(self, msg: str, lang: str) -> None: ...


@asynccontextmanager
async def waiting_for_its_password(server: FrontProcess) -> AsyncIterator[Any]:
    """A connection whose password is being checked, for ever."""
    client = Unpatient()
    login = asyncio.create_task(log_in(server, username="slow", client_factory=lambda: client))
    try:
        async with asyncio.timeout(10):
            while not getattr(client.connection, "_auth", None):  # noqa: ASYNC110  nobody tells
                await asyncio.sleep(0.01)
            # The request with the password has left.
            await asyncio.sleep(0.1)
        yield client.connection
    finally:
        client.connection.abort()
        login.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await login


@pytest.mark.parametrize("what", ["ignore", "unknown", "requests"])
async def test_a_stranger_who_floods_while_his_password_is_checked(what: str) -> None:
    async with warm() as server, waiting_for_its_password(server) as connection:
        before = server.memory
        messages = {
            "ignore": lambda: connection.send_packet(IGNORE, String(bytes(30_000))),
            "unknown": lambda: connection.send_packet(UNKNOWN, bytes(20)),
            "requests": lambda: connection.send_packet(
                USERAUTH_REQUEST,
                String("slow"),
                String("ssh-connection"),
                String("password"),
                Boolean(False),
                String("x"),
            ),
        }
        sent = await flood(connection, messages[what])
        if what == "requests":
            assert connection._transport is None, "more tries than a connection has end it"
        else:
            assert sent > 50
        assert await good_login(server) < 2
        # What a stranger may cost.
        assert server.memory - before < MIB


async def test_a_user_who_asks_global_questions_and_reads_no_answers() -> None:
    async with warm() as server:
        connection = await log_in(server)
        before = server.memory
        name = String("nothing@example.com")
        await flood(connection, lambda: connection.send_packet(GLOBAL_REQUEST, name, Boolean(True)))
        assert await good_login(server) < 2
        assert server.memory - before < 2 * MIB
        connection.abort()


async def test_a_window_of_two_gigabytes_and_nobody_who_reads() -> None:
    async with warm() as server:
        connection = await log_in(server)
        before = server.memory
        process = await connection.create_process("cat /dev/zero", encoding=None, window=2**31 - 1)
        await process.stdout.readexactly(1024)
        connection._transport.pause_reading()
        await asyncio.sleep(ATTACK)
        assert await good_login(server) < 2
        assert server.memory - before < 2 * MIB
        connection.abort()


async def test_a_key_exchange_that_is_begun_and_never_ended() -> None:
    async with warm() as server:
        connection = await log_in(server)
        before = server.memory
        process = await connection.create_process("cat /dev/zero", encoding=None, window=2**30)
        await process.stdout.readexactly(1024)
        handlers = type(connection)._packet_handlers
        connection._packet_handlers = {**handlers, KEXINIT: lambda *_: True}
        connection._send_kexinit()
        await asyncio.sleep(ATTACK)
        assert await good_login(server) < 2
        assert server.memory - before < 2 * MIB
        connection.abort()
