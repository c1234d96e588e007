"""Passes each authentication method to the authenticator that is configured for it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING

from containerssh.auth.authenticator import (
    Authorizer,
    GSSAPIAuthenticator,
    InteractiveAuthenticator,
    KeyExchanger,
    PasswordAuthenticator,
    PublicKeyAuthenticator,
)
from containerssh.auth.chains import Chain, UserChains, can_follow, merged
from containerssh.core.codes import AuthCode
from containerssh.core.errors import AuthFailed
from containerssh.core.gssapi import ExchangedKeys, GSSAPIExchange
from containerssh.core.handlers import AuthMethod, NetworkHandler, PartialSuccess, Prompts, PublicKey
from containerssh.core.layer import NetworkLayer, ServerLayer
from containerssh.core.metadata import AuthAttempt, ConnectionMetadata, Login

if TYPE_CHECKING:
    from containerssh.auth.remember import Memory


@dataclass(frozen=True)
class Authenticators:
    """The configured authenticators; a method without one is not offered."""

    password: PasswordAuthenticator | None = None
    public_key: PublicKeyAuthenticator | None = None
    interactive: InteractiveAuthenticator | None = None
    gssapi: GSSAPIAuthenticator | None = None
    authorizer: Authorizer | None = None
    """Decides about every login after authentication."""
    chains: frozenset[Chain] = frozenset()
    """Lists of methods that must succeed in sequence; without any, one method is enough."""
    user_chains: UserChains | None = None
    """Users with lists of their own."""
    second_only: frozenset[AuthMethod] = frozenset()
    """Methods that are too weak to come first."""
    worthless: frozenset[AuthMethod] = frozenset()
    """Methods that are not enough by themselves: another one must succeed as well."""
    memory: Memory | None = None
    """Remembered keys, which replace keyboard-interactive."""
    key_exchange: KeyExchanger | None = None
    """For clients that use GSSAPI key exchange."""

    @cached_property
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
        The methods that can come first. They are the same for all names, so that they reveal nothing about users.
        """
        return self._configured & {chain[0] for chain in self.chains_of_all}

    def why_not_first(self, method: AuthMethod) -> str:
        """Why *method* is not in :attr:`methods`; empty if it is."""
        if method in self.methods:
            return ""
        if method not in self._configured:
            return "nobody judges it"
        if method in self.second_only:
            return "it proves too little to come first"
        return "no list of auth.authenticationMethods begins with it"

    @property
    def chains_of_all(self) -> Collection[Chain]:
        """The lists of methods for names that nothing has been proved about."""
        return self._sound({*(self.chains or self._single), *(self.user_chains.chains if self.user_chains else ())})

    async def chains_of(self, username: str) -> Collection[Chain]:
        """The lists of methods for this user."""
        chains = self.chains or self._single
        return self._sound(await self.user_chains.chains_of(username, chains) if self.user_chains else chains)

    def _sound(self, chains: Collection[Chain]) -> frozenset[Chain]:
        """The methods that are enough by themselves."""
        too_little = self.second_only | self.worthless
        return frozenset(chain for chain in chains if not too_little.issuperset(chain))

    @cached_property
    def _single(self) -> frozenset[Chain]:
        followed = {(method, AuthMethod.KEYBOARD_INTERACTIVE) for method in self.worthless}
        return frozenset((method,) for method in self._configured - self.second_only - self.worthless) | followed


@dataclass(frozen=True)
class Answered:
    """What answered questions have added to the login."""

    before: Login
    """What the methods before them have added."""
    login: Login


@dataclass(frozen=True)
class Steps(PartialSuccess):
    """Methods that have succeeded, and what may be remembered of them once the login is authorized."""

    key: PublicKey | None
    """The key whose possession the client has proved."""
    answered: Answered | None


@dataclass(eq=False)
class AuthenticationServer(ServerLayer):
    authenticators: Authenticators

    def accept(self, meta: ConnectionMetadata) -> AbstractAsyncContextManager[NetworkHandler]:
        return _Accepted(self.inner.accept(meta), self.authenticators)


class _Accepted:
    """The scope of a connection. Not a generator, whose frame would be kept for each connection."""

    __slots__ = ("_authenticators", "_inner", "_network")

    def __init__(self, inner: AbstractAsyncContextManager[NetworkHandler], authenticators: Authenticators) -> None:
        self._inner = inner
        self._authenticators = authenticators
        self._network: AuthenticationNetwork

    async def __aenter__(self) -> NetworkHandler:
        self._network = AuthenticationNetwork(await self._inner.__aenter__(), self._authenticators)
        return self._network

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        try:
            await self._network.close()
        except BaseException as exc:
            if not await self._inner.__aexit__(type(exc), exc, exc.__traceback__):
                raise
            return True
        return await self._inner.__aexit__(kind, error, trace)


class _Undo:
    """An exit stack, created when needed: few logins have anything to undo."""

    __slots__ = ("_stack",)

    def __init__(self) -> None:
        self._stack: AsyncExitStack | None = None

    @property
    def stack(self) -> AsyncExitStack:
        if self._stack is None:
            self._stack = AsyncExitStack()
        return self._stack

    async def aclose(self) -> None:
        if self._stack is not None:
            await self._stack.aclose()


@dataclass(eq=False)
class AuthenticationNetwork(NetworkLayer):
    authenticators: Authenticators
    _undo: _Undo = field(default_factory=_Undo)
    # What the previous steps have added, for the steps that follow.
    _undo_steps: _Undo = field(default_factory=_Undo)
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
        return await self.authenticators.interactive.authenticate_interactive(attempt, prompts, self._undo.stack)

    async def authenticate_gssapi(self, attempt: AuthAttempt, exchange: GSSAPIExchange) -> Login:
        if self.authenticators.gssapi is None:
            return await super().authenticate_gssapi(attempt, exchange)
        await self._begin(attempt)
        return await self.authenticators.gssapi.authenticate_gssapi(attempt, exchange, self._undo.stack)

    async def exchange_keys(self, meta: ConnectionMetadata, token: bytes, digest: bytes) -> ExchangedKeys:
        if self.authenticators.key_exchange is None:
            return await super().exchange_keys(meta, token, digest)
        return await self.authenticators.key_exchange.exchange_keys(meta, token, digest)

    async def authenticated(
        self, login: Login, method: AuthMethod, before: PartialSuccess | None, key: PublicKey | None = None
    ) -> Login | PartialSuccess:
        steps = before if isinstance(before, Steps) else None
        key = key or (steps.key if steps else None)
        answered = steps.answered if steps else None
        if before is None:
            await self._undo_steps.aclose()
        else:
            if method is AuthMethod.KEYBOARD_INTERACTIVE:
                answered = Answered(before.login, login)
            login = merged(before.login, login)
        succeeded = (*(before.succeeded if before else ()), method)
        # A key may have been checked some requests ago.
        chains = self._chains if self._user == login.username else await self.authenticators.chains_of(login.username)
        proved = not self.authenticators.worthless.issuperset(succeeded)
        methods = can_follow(chains if proved else self.authenticators.chains_of_all, succeeded)
        recalled: Login | None = None
        if key and method is AuthMethod.PUBLIC_KEY and AuthMethod.KEYBOARD_INTERACTIVE in methods:
            recalled = await self._recall(login, key)
        if recalled:
            login, succeeded = recalled, (*succeeded, AuthMethod.KEYBOARD_INTERACTIVE)
            methods = can_follow(chains, succeeded)
        if methods:
            self._undo_steps.stack.push_async_exit(self._undo.stack.pop_all())
            return Steps(login, succeeded, methods, key, answered)
        await self._check_by_own_name(login, succeeded)
        memory = self.authenticators.memory
        try:
            settled = login
            if self.authenticators.authorizer:
                settled = await self.authenticators.authorizer.authorize(login)
                await self._check_by_own_name(settled, succeeded)
        except AuthFailed:
            if memory and key and AuthMethod.KEYBOARD_INTERACTIVE in succeeded:
                await memory.forget(login, key)
            raise
        if memory and key and answered:
            await memory.keep(answered.before, answered.login, key)
        return settled

    async def _check_by_own_name(self, login: Login, succeeded: Sequence[AuthMethod]) -> None:
        """
        If a method authenticates the name in another spelling, the requirements of that spelling apply as well. So no
        second factor can be evaded, neither by omitting it nor with another user's code.
        """
        name, given = login.authenticated_username, login.username
        users = self.authenticators.user_chains
        if users is None or not name or name == given:
            return
        if can_follow(await self.authenticators.chains_of(name), tuple(succeeded)):
            raise AuthFailed(AuthCode.FAILED, f"{name!r} needs more methods than {given!r}, the name that was given")
        code = AuthMethod.KEYBOARD_INTERACTIVE
        if code in succeeded and code in self.authenticators.second_only and not await users.code_counts(given, name):
            raise AuthFailed(
                AuthCode.FAILED, f"{name!r} has other one-time codes than {given!r}, which one was asked of"
            )

    async def _recall(self, login: Login, key: PublicKey) -> Login | None:
        """*login* with what the remembered answers have added; None if the questions have to be asked."""
        found = await self.authenticators.memory.recall(login, key) if self.authenticators.memory else None
        try:
            return merged(login, found) if found else None
        except AuthFailed:
            # The key belongs to another user now, who has to answer the questions.
            return None

    async def close(self) -> None:
        """Undo what is left after the end of the connection."""
        await self._undo.aclose()
        await self._undo_steps.aclose()

    async def _begin(self, attempt: AuthAttempt) -> None:
        await self._undo.aclose()
        if attempt.username != self._user:
            await self._undo_steps.aclose()
        # Before the credential is checked, so that the time does not reveal whether it was right.
        self._chains = await self.authenticators.chains_of(attempt.username)
        self._user = attempt.username
