"""Base classes of layers, which delegate everything to ``inner``; a layer overrides only what it changes."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import timedelta

from containerssh.core.files import SFTPRules
from containerssh.core.forwarding import ANY_ADDRESS, AddressRules
from containerssh.core.gssapi import ExchangedKeys, GSSAPIExchange
from containerssh.core.handlers import (
    AuthMethod,
    ConnectionHandler,
    Incoming,
    Listener,
    NetworkHandler,
    Notices,
    PartialSuccess,
    Prompts,
    PublicKey,
    ServerHandler,
    SessionChannel,
    SessionHandler,
)
from containerssh.core.metadata import AuthAttempt, ConnectionMetadata, Login
from containerssh.core.requests import PtyRequest, WindowSize, X11Request
from containerssh.core.streams import ByteStream


@dataclass(eq=False)
class SessionLayer(SessionHandler):
    """A layer around one session."""

    inner: SessionHandler

    async def set_env(self, name: str, value: str) -> None:
        await self.inner.set_env(name, value)

    async def request_pty(self, request: PtyRequest) -> None:
        await self.inner.request_pty(request)

    async def request_x11(self, request: X11Request) -> None:
        await self.inner.request_x11(request)

    async def request_agent(self) -> None:
        await self.inner.request_agent()

    async def run_shell(self) -> None:
        await self.inner.run_shell()

    async def run_command(self, command: str) -> None:
        await self.inner.run_command(command)

    def subsystem_command(self, name: str) -> str:
        return self.inner.subsystem_command(name)

    async def run_subsystem(self, name: str) -> None:
        await self.inner.run_subsystem(name)

    async def run_sftp(self, rules: SFTPRules) -> None:
        await self.inner.run_sftp(rules)

    async def send_signal(self, name: str) -> None:
        await self.inner.send_signal(name)

    async def send_break(self, milliseconds: int) -> None:
        await self.inner.send_break(milliseconds)

    async def resize(self, size: WindowSize) -> None:
        await self.inner.resize(size)

    async def terminate(self) -> None:
        await self.inner.terminate()


@dataclass(eq=False)
class ConnectionLayer(ConnectionHandler):
    """A layer around one login."""

    inner: ConnectionHandler

    @property
    def longest(self) -> timedelta:
        return self.inner.longest

    def session(self, channel: SessionChannel) -> AbstractAsyncContextManager[SessionHandler]:
        return self.inner.session(channel)

    async def connect_tcp(self, host: str, port: int, addresses: AddressRules = ANY_ADDRESS) -> ByteStream:
        return await self.inner.connect_tcp(host, port, addresses)

    async def connect_unix(self, path: str) -> ByteStream:
        return await self.inner.connect_unix(path)

    async def listen_tcp(self, host: str, port: int, incoming: Incoming) -> Listener:
        return await self.inner.listen_tcp(host, port, incoming)

    async def listen_unix(self, path: str, incoming: Incoming) -> Listener:
        return await self.inner.listen_unix(path, incoming)

    async def terminate(self) -> None:
        await self.inner.terminate()


@dataclass(eq=False)
class NetworkLayer(NetworkHandler):
    """A layer around one TCP connection."""

    inner: NetworkHandler

    @property
    def auth_methods(self) -> frozenset[AuthMethod]:
        return self.inner.auth_methods

    async def authenticate_password(self, attempt: AuthAttempt, password: bytes) -> Login:
        return await self.inner.authenticate_password(attempt, password)

    async def authenticate_public_key(self, attempt: AuthAttempt, key: PublicKey) -> Login:
        return await self.inner.authenticate_public_key(attempt, key)

    async def authenticate_interactive(self, attempt: AuthAttempt, prompts: Prompts) -> Login:
        return await self.inner.authenticate_interactive(attempt, prompts)

    async def authenticate_gssapi(self, attempt: AuthAttempt, exchange: GSSAPIExchange) -> Login:
        return await self.inner.authenticate_gssapi(attempt, exchange)

    async def exchange_keys(self, meta: ConnectionMetadata, token: bytes, digest: bytes) -> ExchangedKeys:
        return await self.inner.exchange_keys(meta, token, digest)

    async def authenticated(
        self, login: Login, method: AuthMethod, before: PartialSuccess | None, key: PublicKey | None = None
    ) -> Login | PartialSuccess:
        return await self.inner.authenticated(login, method, before, key)

    def handshake_failed(self, error: Exception) -> None:
        self.inner.handshake_failed(error)

    def login(self, login: Login, notices: Notices) -> AbstractAsyncContextManager[ConnectionHandler]:
        return self.inner.login(login, notices)


@dataclass(eq=False)
class ServerLayer(ServerHandler):
    """A layer around the server."""

    inner: ServerHandler

    def accept(self, meta: ConnectionMetadata) -> AbstractAsyncContextManager[NetworkHandler]:
        return self.inner.accept(meta)
