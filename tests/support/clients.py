"""Clients of a whole server that are cheap enough to have many of."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Self

import asyncssh

from tests.support.openssh import Server
from tests.support.vitals import Watched

LIMIT = 60.0


@asynccontextmanager
async def logged_in(
    server: Server, user: str = "alice", password: str = "secret", **options: Any
) -> AsyncIterator[Any]:
    """A connection that has logged in; its private parts are at hand."""
    async with asyncio.timeout(LIMIT):
        connection: Any = await asyncssh.connect(
            "127.0.0.1",
            server.port,
            **{
                "username": user,
                "password": password,
                "known_hosts": None,
                "client_keys": None,
                "agent_path": None,
                "config": None,
                **options,
            },
        )
    try:
        yield connection
    finally:
        connection.abort()
        with suppress(OSError, asyncssh.Error):
            await connection.wait_closed()


async def good_login(server: Watched, user: str = "alice", **options: Any) -> float:
    """How long a login takes, from the connection to a program's output, in seconds."""
    began = time.monotonic()
    async with logged_in(server, user, **options) as connection, asyncio.timeout(LIMIT):
        assert (await connection.run("echo in")).stdout == "in\n"
        return time.monotonic() - began


async def good_logins(server: Watched, count: int, **options: Any) -> float:
    """The median of several, one after another."""
    return statistics.median([await good_login(server, **options) for _ in range(count)])


class Peak:
    """Watches a server's memory while others do something to it: ``async with Peak(server) as peak``."""

    def __init__(self, server: Watched) -> None:
        self._server = server
        self.start = self.highest = server.memory

    @property
    def growth(self) -> int:
        """How much more there was than at the start, at most; in bytes."""
        return self.highest - self.start

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self.highest = max(self.highest, self._server.memory)

    async def _watch(self) -> None:
        while True:
            self.highest = max(self.highest, self._server.memory)
            await asyncio.sleep(0.05)
