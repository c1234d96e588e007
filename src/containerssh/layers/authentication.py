"""Who may log in: hands each method to the authenticator that is configured for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from containerssh.auth.authenticator import (
    GSSAPIAuthenticator,
    InteractiveAuthenticator,
    PasswordAuthenticator,
    PublicKeyAuthenticator,
)
from containerssh.core.handlers import AuthMethod, GSSAPIExchange, NetworkHandler, Prompts, PublicKey
from containerssh.core.layer import NetworkLayer, ServerLayer
from containerssh.core.metadata import AuthAttempt, ConnectionMetadata, Login


@dataclass(frozen=True)
class Authenticators:
    """The configured authenticators; a method without one is not offered."""

    password: PasswordAuthenticator | None = None
    public_key: PublicKeyAuthenticator | None = None
    interactive: InteractiveAuthenticator | None = None
    gssapi: GSSAPIAuthenticator | None = None

    @property
    def methods(self) -> frozenset[AuthMethod]:
        found = {
            AuthMethod.PASSWORD: self.password,
            AuthMethod.PUBLIC_KEY: self.public_key,
            AuthMethod.KEYBOARD_INTERACTIVE: self.interactive,
            AuthMethod.GSSAPI: self.gssapi,
        }
        return frozenset(method for method, authenticator in found.items() if authenticator is not None)


@dataclass(eq=False)
class AuthenticationServer(ServerLayer):
    authenticators: Authenticators

    @asynccontextmanager
    async def accept(self, meta: ConnectionMetadata) -> AsyncIterator[NetworkHandler]:
        async with self.inner.accept(meta) as inner:
            network = AuthenticationNetwork(inner, self.authenticators)
            try:
                yield network
            finally:
                await network.undo.aclose()


@dataclass(eq=False)
class AuthenticationNetwork(NetworkLayer):
    authenticators: Authenticators
    undo: AsyncExitStack = field(default_factory=AsyncExitStack)
    """Takes back what the last attempt left with others."""

    @property
    def auth_methods(self) -> frozenset[AuthMethod]:
        return self.authenticators.methods

    async def authenticate_password(self, attempt: AuthAttempt, password: bytes) -> Login:
        if self.authenticators.password is None:
            return await super().authenticate_password(attempt, password)
        await self.undo.aclose()
        return await self.authenticators.password.authenticate_password(attempt, password)

    async def authenticate_public_key(self, attempt: AuthAttempt, key: PublicKey) -> Login:
        if self.authenticators.public_key is None:
            return await super().authenticate_public_key(attempt, key)
        await self.undo.aclose()
        return await self.authenticators.public_key.authenticate_public_key(attempt, key)

    async def authenticate_interactive(self, attempt: AuthAttempt, prompts: Prompts) -> Login:
        if self.authenticators.interactive is None:
            return await super().authenticate_interactive(attempt, prompts)
        await self.undo.aclose()
        return await self.authenticators.interactive.authenticate_interactive(attempt, prompts, self.undo)

    async def authenticate_gssapi(self, attempt: AuthAttempt, exchange: GSSAPIExchange) -> Login:
        if self.authenticators.gssapi is None:
            return await super().authenticate_gssapi(attempt, exchange)
        await self.undo.aclose()
        return await self.authenticators.gssapi.authenticate_gssapi(attempt, exchange, self.undo)
