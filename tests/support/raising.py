"""Layers that raise where a test wants it, around any server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from containerssh.core.forwarding import ANY_ADDRESS, AddressRules
from containerssh.core.handlers import (
    AuthMethod,
    ConnectionHandler,
    NetworkHandler,
    Notices,
    PartialSuccess,
    Prompts,
    PublicKey,
    ServerHandler,
    SessionChannel,
    SessionHandler,
)
from containerssh.core.layer import ConnectionLayer, NetworkLayer, ServerLayer, SessionLayer
from containerssh.core.metadata import AuthAttempt, ConnectionMetadata, Login
from containerssh.core.requests import PtyRequest, WindowSize
from containerssh.core.streams import ByteStream


@dataclass
class Fault:
    """Raises *error* once, when the handlers get to *place*."""

    place: str = ""
    error: Exception = field(default_factory=RuntimeError)
    happened: bool = False

    def arm(self, place: str, error: Exception) -> None:
        self.place, self.error, self.happened = place, error, False

    def at(self, place: str) -> None:
        if place == self.place and not self.happened:
            self.happened = True
            raise self.error


@dataclass(eq=False)
class RaisingServer(ServerLayer):
    inner: ServerHandler
    fault: Fault

    @asynccontextmanager
    async def accept(self, meta: ConnectionMetadata) -> AsyncIterator[NetworkHandler]:
        self.fault.at("accept")
        async with self.inner.accept(meta) as network:
            yield RaisingNetwork(network, self.fault)
        self.fault.at("accept's end")


@dataclass(eq=False)
class RaisingNetwork(NetworkLayer):
    fault: Fault

    @property
    def auth_methods(self) -> frozenset[AuthMethod]:
        self.fault.at("auth_methods")
        return self.inner.auth_methods

    async def authenticate_password(self, attempt: AuthAttempt, password: bytes) -> Login:
        self.fault.at("authenticate_password")
        return await self.inner.authenticate_password(attempt, password)

    async def authenticate_public_key(self, attempt: AuthAttempt, key: PublicKey) -> Login:
        self.fault.at("authenticate_public_key")
        return await self.inner.authenticate_public_key(attempt, key)

    async def authenticate_interactive(self, attempt: AuthAttempt, prompts: Prompts) -> Login:
        self.fault.at("authenticate_interactive")
        return await self.inner.authenticate_interactive(attempt, prompts)

    async def authenticated(
        self, login: Login, method: AuthMethod, before: PartialSuccess | None, key: PublicKey | None = None
    ) -> Login | PartialSuccess:
        self.fault.at("authenticated")
        return await self.inner.authenticated(login, method, before, key)

    def handshake_failed(self, error: Exception) -> None:
        self.fault.at("handshake_failed")
        self.inner.handshake_failed(error)

    @asynccontextmanager
    async def login(self, login: Login, notices: Notices) -> AsyncIterator[ConnectionHandler]:
        self.fault.at("login")
        async with self.inner.login(login, notices) as connection:
            yield RaisingConnection(connection, self.fault)
        self.fault.at("login's end")


@dataclass(eq=False)
class RaisingConnection(ConnectionLayer):
    fault: Fault

    @asynccontextmanager
    async def session(self, channel: SessionChannel) -> AsyncIterator[SessionHandler]:
        self.fault.at("session")
        async with self.inner.session(channel) as session:
            yield RaisingSession(session, self.fault)
        self.fault.at("session's end")

    async def connect_tcp(self, host: str, port: int, addresses: AddressRules = ANY_ADDRESS) -> ByteStream:
        self.fault.at("connect_tcp")
        return await self.inner.connect_tcp(host, port, addresses)

    async def connect_unix(self, path: str) -> ByteStream:
        self.fault.at("connect_unix")
        return await self.inner.connect_unix(path)

    async def terminate(self) -> None:
        self.fault.at("terminate of the login")
        await self.inner.terminate()


@dataclass(eq=False)
class RaisingSession(SessionLayer):
    fault: Fault

    async def set_env(self, name: str, value: str) -> None:
        self.fault.at("set_env")
        await self.inner.set_env(name, value)

    async def request_pty(self, request: PtyRequest) -> None:
        self.fault.at("request_pty")
        await self.inner.request_pty(request)

    async def run_shell(self) -> None:
        self.fault.at("run_shell")
        await self.inner.run_shell()

    async def run_command(self, command: str) -> None:
        self.fault.at("run_command")
        await self.inner.run_command(command)

    async def run_subsystem(self, name: str) -> None:
        self.fault.at("run_subsystem")
        await self.inner.run_subsystem(name)

    async def send_signal(self, name: str) -> None:
        self.fault.at("send_signal")
        await self.inner.send_signal(name)

    async def send_break(self, milliseconds: int) -> None:
        self.fault.at("send_break")
        await self.inner.send_break(milliseconds)

    async def resize(self, size: WindowSize) -> None:
        self.fault.at("resize")
        await self.inner.resize(size)

    async def terminate(self) -> None:
        self.fault.at("terminate")
        await self.inner.terminate()
