"""Who may log in: hands each method to the authenticator that is configured for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from containerssh.auth.authenticator import (
    Authorizer,
    GSSAPIAuthenticator,
    InteractiveAuthenticator,
    PasswordAuthenticator,
    PublicKeyAuthenticator,
)
from containerssh.auth.chains import Chain, UserChains, can_follow, merged
from containerssh.core.handlers import AuthMethod, GSSAPIExchange, NetworkHandler, PartialSuccess, Prompts, PublicKey
from containerssh.core.layer import NetworkLayer, ServerLayer
from containerssh.core.metadata import AuthAttempt, ConnectionMetadata, Login


@dataclass(frozen=True)
class Authenticators:
    """The configured authenticators; a method without one is not offered."""

    password: PasswordAuthenticator | None = None
    public_key: PublicKeyAuthenticator | None = None
    interactive: InteractiveAuthenticator | None = None
    gssapi: GSSAPIAuthenticator | None = None
    authorizer: Authorizer | None = None
    """Has the last word on every login."""
    chains: frozenset[Chain] = frozenset()
    """Methods that must succeed one after another; without any, one method is enough."""
    user_chains: UserChains | None = None
    """Users for whom others hold."""
    second_only: frozenset[AuthMethod] = frozenset()
    """Methods that prove too little to come first."""

    @property
    def _configured(self) -> frozenset[AuthMethod]:
        found = {
            AuthMethod.PASSWORD: self.password,
            AuthMethod.PUBLIC_KEY: self.public_key,
            AuthMethod.KEYBOARD_INTERACTIVE: self.interactive,
            AuthMethod.GSSAPI: self.gssapi,
        }
        return frozenset(method for method, authenticator in found.items() if authenticator is not None)

    @property
    def methods(self) -> frozenset[AuthMethod]:
        """
        Those that can come first. For all names alike: nobody is told which users there are, or how they log in.
        """
        chains = {*(self.chains or self._single), *(self.user_chains.chains if self.user_chains else ())}
        return self._configured & {chain[0] for chain in chains}

    def why_not_first(self, method: AuthMethod) -> str:
        """Why :attr:`methods` does not have *method*; empty if it does."""
        if method in self.methods:
            return ""
        if method not in self._configured:
            return "nobody judges it"
        if method in self.second_only:
            return "it proves too little to come first"
        return "no list of auth.authenticationMethods begins with it"

    async def chains_of(self, username: str) -> Collection[Chain]:
        """How this user can log in."""
        chains = self.chains or self._single
        return await self.user_chains.chains_of(username, chains) if self.user_chains else chains

    @property
    def _single(self) -> frozenset[Chain]:
        return frozenset((method,) for method in self._configured - self.second_only)


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
                await network.close()


@dataclass(eq=False)
class AuthenticationNetwork(NetworkLayer):
    authenticators: Authenticators
    _undo: AsyncExitStack = field(default_factory=AsyncExitStack)
    # What the steps so far have left, which others are to follow.
    _undo_steps: AsyncExitStack = field(default_factory=AsyncExitStack)
    _user: str = ""
    _chains: Collection[Chain] = ()

    @property
    def auth_methods(self) -> frozenset[AuthMethod]:
        return self.authenticators.methods

    async def authenticate_password(self, attempt: AuthAttempt, password: bytes) -> Login:
        if self.authenticators.password is None:
            return await super().authenticate_password(attempt, password)
        await self._begin(attempt)
        return await self.authenticators.password.authenticate_password(attempt, password)

    async def authenticate_public_key(self, attempt: AuthAttempt, key: PublicKey) -> Login:
        if self.authenticators.public_key is None:
            return await super().authenticate_public_key(attempt, key)
        await self._begin(attempt)
        return await self.authenticators.public_key.authenticate_public_key(attempt, key)

    async def authenticate_interactive(self, attempt: AuthAttempt, prompts: Prompts) -> Login:
        if self.authenticators.interactive is None:
            return await super().authenticate_interactive(attempt, prompts)
        await self._begin(attempt)
        return await self.authenticators.interactive.authenticate_interactive(attempt, prompts, self._undo)

    async def authenticate_gssapi(self, attempt: AuthAttempt, exchange: GSSAPIExchange) -> Login:
        if self.authenticators.gssapi is None:
            return await super().authenticate_gssapi(attempt, exchange)
        await self._begin(attempt)
        return await self.authenticators.gssapi.authenticate_gssapi(attempt, exchange, self._undo)

    async def authenticated(
        self, login: Login, method: AuthMethod, before: PartialSuccess | None
    ) -> Login | PartialSuccess:
        if before is None:
            await self._undo_steps.aclose()
        else:
            login = merged(before.login, login)
        succeeded = (*(before.succeeded if before else ()), method)
        # A key may have been judged some requests ago.
        chains = self._chains if self._user == login.username else await self.authenticators.chains_of(login.username)
        if methods := can_follow(chains, succeeded):
            self._undo_steps.push_async_exit(self._undo.pop_all())
            return PartialSuccess(login, succeeded, methods)
        return await self.authenticators.authorizer.authorize(login) if self.authenticators.authorizer else login

    async def close(self) -> None:
        """The connection has ended: take back what is left."""
        await self._undo.aclose()
        await self._undo_steps.aclose()

    async def _begin(self, attempt: AuthAttempt) -> None:
        await self._undo.aclose()
        if attempt.username != self._user:
            await self._undo_steps.aclose()
        # Before the credential is judged, so that the time does not tell whether it was right.
        self._chains = await self.authenticators.chains_of(attempt.username)
        self._user = attempt.username
