"""Who may log in: hands each method to the authenticator that is configured for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from containerssh.auth.authenticator import PasswordAuthenticator, PublicKeyAuthenticator
from containerssh.core.handlers import AuthMethod, NetworkHandler, PublicKey
from containerssh.core.layer import NetworkLayer, ServerLayer
from containerssh.core.metadata import AuthAttempt, ConnectionMetadata, Login


@dataclass(frozen=True)
class Authenticators:
    """The configured authenticators; a method without one is not offered."""

    password: PasswordAuthenticator | None = None
    public_key: PublicKeyAuthenticator | None = None

    @property
    def methods(self) -> frozenset[AuthMethod]:
        found = {AuthMethod.PASSWORD: self.password, AuthMethod.PUBLIC_KEY: self.public_key}
        return frozenset(method for method, authenticator in found.items() if authenticator is not None)


@dataclass(eq=False)
class AuthenticationServer(ServerLayer):
    authenticators: Authenticators

    @asynccontextmanager
    async def accept(self, meta: ConnectionMetadata) -> AsyncIterator[NetworkHandler]:
        async with self.inner.accept(meta) as network:
            yield AuthenticationNetwork(network, self.authenticators)


@dataclass(eq=False)
class AuthenticationNetwork(NetworkLayer):
    authenticators: Authenticators

    @property
    def auth_methods(self) -> frozenset[AuthMethod]:
        return self.authenticators.methods

    async def authenticate_password(self, attempt: AuthAttempt, password: bytes) -> Login:
        if self.authenticators.password is None:
            return await super().authenticate_password(attempt, password)
        return await self.authenticators.password.authenticate_password(attempt, password)

    async def authenticate_public_key(self, attempt: AuthAttempt, key: PublicKey) -> Login:
        if self.authenticators.public_key is None:
            return await super().authenticate_public_key(attempt, key)
        return await self.authenticators.public_key.authenticate_public_key(attempt, key)
