"""A client that has logged in and does as it likes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncssh

from tests.support.ssh_front import Front
from tests.support.waiting import until


@asynccontextmanager
async def client(server: Front, **options: Any) -> AsyncIterator[Any]:
    """A logged-in client whose private parts are at hand."""
    connection = await asyncssh.connect(
        "127.0.0.1", server.port, username="alice", password="secret", known_hosts=None, client_keys=None, **options
    )
    try:
        yield connection
    finally:
        connection.abort()
        with suppress(Exception):
            await connection.wait_closed()


class Quiet(asyncssh.SSHClientSession[bytes]):
    """A session that keeps what it gets."""

    def __init__(self) -> None:
        self.out = b""

    def data_received(self, data: bytes, datatype: Any) -> None:
        self.out += data


async def bare_channel(connection: Any) -> Any:
    """A session channel on which nothing was asked yet."""
    channel: Any = asyncssh.channel.SSHClientChannel(
        connection, asyncio.get_running_loop(), "strict", None, "strict", 2 * 1024 * 1024, 32768
    )
    channel._session = Quiet()
    await channel._open(b"session")
    channel.resume_reading()
    return channel


async def ended(server: Front) -> bool:
    await until(lambda: server.backend.open_scopes == 0)
    return True
