"""One suite for all container backends: what a backend and whatever stands behind it have to offer to its tests."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, Literal

from containerssh.core.handlers import ConnectionHandler, SessionHandler
from containerssh.core.metadata import Login
from containerssh.core.requests import ExitSignal, PtyRequest
from tests.support.docker import Channel, a_login
from tests.support.waiting import until

Mode = Literal["connection", "session"]


class Lack(StrEnum):
    """What not every place can do; the places say which and why."""

    SESSIONS = "a container for each session"
    NO_AGENT = "programs without an agent"


class Place(ABC):
    """
    Where logins of the suite go: a backend, and an engine, a runtime or a cluster behind it. Its images have busybox
    with all applets, and ``/bin/sh`` as root's shell.
    """

    name: ClassVar[str]
    lacks: ClassVar[Mapping[Lack, str]] = {}
    """What cannot work here, and why. Tests that need it do not run here."""
    removed: ClassVar[str] = "The connection to the container was lost."
    """What a user is told whose container an administrator removed."""
    signals_main_program: ClassVar[bool] = False
    """Whether there are signals for a container's main program, also without an agent."""

    @abstractmethod
    def login(
        self, meta: Login, *, mode: Mode = "connection", agent: bool = True
    ) -> AbstractAsyncContextManager[ConnectionHandler]:
        """
        A login; without *agent*, the engine starts its programs by itself. Whoever asks for what the place lacks has
        made a mistake.
        """

    @abstractmethod
    def left(self, meta: Login) -> list[str]:
        """
        What there is of the login outside its container: the containers themselves, or, where the container is not the
        login's own, what runs for it in there. Blocks.
        """

    @abstractmethod
    def remove(self, meta: Login) -> None:
        """Remove the login's container as an administrator does, by the engine's own tools. Blocks."""

    @abstractmethod
    def section(self) -> dict[str, Any]:
        """The configuration of a whole server that lets users in here."""


@dataclass(frozen=True)
class Done:
    """A program that has ended."""

    out: bytes
    err: bytes
    end: int | ExitSignal | Exception


@dataclass(frozen=True)
class User:
    """Somebody who is logged in."""

    place: Place
    meta: Login
    handler: ConnectionHandler
    mode: Mode

    async def run(self, command: str, stdin: bytes = b"", *, pty: PtyRequest | None = None, **env: str) -> Done:
        """*command* in a session of its own, to its end."""
        channel = Channel(stdin)
        async with self.handler.session(channel) as session:
            if pty is not None:
                await session.request_pty(pty)
            for name, value in env.items():
                await session.set_env(name, value)
            await session.run_command(command)
            end = await channel.ended(60)
        return Done(channel.out.data, channel.err.data, end)

    @asynccontextmanager
    async def running(
        self, command: str, shows: bytes, *, pty: PtyRequest | None = None
    ) -> AsyncIterator[tuple[SessionHandler, Channel]]:
        """*command* with an open input, once its output has *shows* in it."""
        channel = Channel(ends=False)
        async with self.handler.session(channel) as session:
            if pty is not None:
                await session.request_pty(pty)
            await session.run_command(command)
            await until(lambda: shows in channel.out.data, 30)
            yield session, channel


@asynccontextmanager
async def logged_in(
    place: Place, meta: Login | None = None, *, mode: Mode = "connection", agent: bool = True
) -> AsyncIterator[User]:
    """A login that leaves nothing."""
    meta = meta or a_login()
    async with place.login(meta, mode=mode, agent=agent) as handler:
        yield User(place, meta, handler, mode)
    await nothing_left(place, meta)


async def nothing_left(place: Place, meta: Login, within: float = 30) -> None:
    """Wait until there is nothing of the login any more."""
    until_when = asyncio.get_running_loop().time() + within
    while left := await asyncio.to_thread(place.left, meta):
        assert asyncio.get_running_loop().time() < until_when, left
        await asyncio.sleep(0.05)
