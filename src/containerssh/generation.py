"""A configuration in force, and what follows it: connections keep the one they began with.

What was opened for a configuration (clients of webhooks, threads that judge passwords) is closed when the last of its
connections has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
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
from containerssh.auth.chains import as_chain
from containerssh.auth.public_keys import PublicKeys
from containerssh.auth.users import UsersFile
from containerssh.backends.registry import Backends, ByName
from containerssh.config.app import AppConfig
from containerssh.config.auth import KerberosConfig, WebhookConfig
from containerssh.config.merge import overlay
from containerssh.core.handlers import AuthMethod, NetworkHandler, ServerHandler
from containerssh.core.instance import default_state_folder
from containerssh.core.metadata import ConnectionMetadata
from containerssh.core.tasks import HeldScope
from containerssh.geoip import countries
from containerssh.layers.authentication import AuthenticationServer, Authenticators
from containerssh.layers.metrics import MetricsServer
from containerssh.layers.per_login import PerLoginServer

if TYPE_CHECKING:
    from containerssh.auth.config_server import ConfigServer
    from containerssh.auth.kerberos.authenticator import KerberosAuthenticator
    from containerssh.auth.ldap.authenticator import LDAPAuthenticator
    from containerssh.auth.remember import Memory
    from containerssh.auth.webhook import WebhookAuthenticator


@dataclass(frozen=True)
class Opened:
    """What serves the connections of a generation."""

    handler: ServerHandler
    backends: ByName


class Generation:
    """A configuration; made by :meth:`Generations.open`."""

    def __init__(self, config: AppConfig, scope: HeldScope[Opened]) -> None:
        self.config = config
        self.scope = scope
        self.connections = 0
        self.retired = False

    @property
    def opened(self) -> Opened:
        return self.scope.value

    def retire(self) -> None:
        """No more connections come; close it once those that are there have ended."""
        self.retired = True
        if not self.connections:
            self.scope.let_go()


class Generations(ServerHandler):
    """The outermost handler: gives each connection to the generation that is in force when it arrives."""

    def __init__(self, backends: Backends) -> None:
        self._backends = backends
        self._open: set[Generation] = set()
        self.current: Generation

    async def open(self, config: AppConfig) -> Generation:
        """
        A generation for :meth:`use`; whoever does not use it retires it.

        Raises:
            ConfigError, BackendError: the configuration cannot be used.
        """
        generation = Generation(config, await HeldScope.enter(_opened(config, self._backends)))
        self._open = {other for other in self._open if not other.scope.left} | {generation}
        return generation

    def use(self, generation: Generation) -> None:
        """Give *generation* to all connections from now on."""
        if self.in_force:
            self.current.retire()
        self.current = generation

    @property
    def in_force(self) -> bool:
        """Whether there is a current one."""
        return hasattr(self, "current")

    async def close(self) -> None:
        """After the last connection."""
        for generation in self._open:
            generation.scope.let_go()
        await asyncio.gather(*(generation.scope.leave() for generation in self._open))

    def accept(self, meta: ConnectionMetadata) -> AbstractAsyncContextManager[NetworkHandler]:
        return _Accepted(self.current, meta)


class _Accepted:
    """A connection of a generation; no generator, whose frame would be kept for each of them."""

    __slots__ = ("_generation", "_inner")

    def __init__(self, generation: Generation, meta: ConnectionMetadata) -> None:
        self._generation = generation
        self._inner = generation.opened.handler.accept(meta)

    async def __aenter__(self) -> NetworkHandler:
        self._generation.connections += 1
        try:
            return await self._inner.__aenter__()
        except BaseException:
            self._ended()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        try:
            return await self._inner.__aexit__(kind, error, trace)
        finally:
            self._ended()

    def _ended(self) -> None:
        generation = self._generation
        generation.connections -= 1
        if generation.retired and not generation.connections:
            generation.scope.let_go()


@asynccontextmanager
async def _opened(config: AppConfig, backends: Backends) -> AsyncIterator[Opened]:
    async with AsyncExitStack() as stack:
        by_name = await backends.choose(config)
        config_server: ConfigServer | None = None
        if config.configserver.url:
            from containerssh.auth.config_server import open_config_server

            config_server = await stack.enter_async_context(open_config_server(config.configserver))
        authenticators = await open_authenticators(config, stack)
        handler: ServerHandler = AuthenticationServer(PerLoginServer(config, config_server, by_name), authenticators)
        if config.metrics.enable:
            country_of = await asyncio.to_thread(countries, config.geoip)
            handler = MetricsServer(handler, country_of, authorizes=authenticators.authorizer is not None)
        yield Opened(handler, by_name)


async def _webhook(config: WebhookConfig, stack: AsyncExitStack) -> WebhookAuthenticator:
    # Its HTTP client takes long to import, and many servers need none.
    from containerssh.auth.webhook import open_webhook

    return await stack.enter_async_context(open_webhook(config))


async def _kerberos(config: KerberosConfig, stack: AsyncExitStack) -> KerberosAuthenticator:
    from containerssh.auth.kerberos.authenticator import open_kerberos

    return await stack.enter_async_context(open_kerberos(config))


async def open_authenticators(config: AppConfig, stack: AsyncExitStack) -> Authenticators:
    """
    One for each way of authenticating that has a method; *stack* closes what is opened for them.

    A way of authenticating imports what it needs only when it is configured.
    """
    auth = config.auth
    users: UsersFile | None = None
    if auth.uses_users_file:
        users = UsersFile(
            Path(auth.users.file),
            check_config=lambda patch: overlay(config, patch),
            methods=auth.configured_methods,
            codes=auth.codes_by_users_file,
        )
        stack.callback(users.close)
    directory: LDAPAuthenticator | None = None
    if auth.uses_ldap:
        from containerssh.auth.ldap.authenticator import open_ldap

        directory = await stack.enter_async_context(open_ldap(auth.ldap))
    password: PasswordAuthenticator | None = None
    public_key: PublicKeyAuthenticator | None = None
    interactive: InteractiveAuthenticator | None = None
    gssapi: GSSAPIAuthenticator | None = None
    match auth.password.method:
        case "webhook":
            password = await _webhook(auth.password.webhook, stack)
        case "users":
            password = users
        case "ldap":
            password = directory
        case "kerberos":
            password = await _kerberos(auth.password.kerberos, stack)
    match auth.public_key.method:
        case "webhook":
            public_key = await _webhook(auth.public_key.webhook, stack)
        case "ldap":
            public_key = directory
        case "users":
            public_key = users
        case "remember":
            from containerssh.auth.remember import AnyKey

            public_key = AnyKey()
    if auth.public_key.is_configured:
        public_key = PublicKeys(auth.public_key, public_key, users if auth.public_key.method == "users" else None)
    if auth.keyboard_interactive.method == "oauth2":
        from containerssh.auth.oauth2.authenticator import open_oauth2

        interactive = await stack.enter_async_context(open_oauth2(auth.keyboard_interactive.oauth2))
    if auth.keyboard_interactive.method == "users" and users is not None:
        from containerssh.auth.codes import open_codes

        interactive = await stack.enter_async_context(
            open_codes(users, default_state_folder(), auth.keyboard_interactive.codes)
        )
    if auth.keyboard_interactive.method == "ldap":
        interactive = directory
    if auth.keyboard_interactive.method == "webhook":
        from containerssh.auth.interview import open_interview

        interactive = await stack.enter_async_context(open_interview(auth.keyboard_interactive.webhook))
    authorizer: Authorizer | None = None
    if auth.authz.method == "webhook":
        from containerssh.auth.webhook import open_authorizer

        authorizer = await stack.enter_async_context(open_authorizer(auth.authz.webhook))
    memory: Memory | None = None
    if auth.remember.period:
        from containerssh.auth.remember import open_memory

        memory = await asyncio.to_thread(open_memory, auth, default_state_folder())
    chains = frozenset(as_chain(text) for text in auth.authentication_methods)
    second_only = frozenset({AuthMethod.KEYBOARD_INTERACTIVE} if auth.codes_by_users_file else ())
    worthless = frozenset({AuthMethod.PUBLIC_KEY} if auth.takes_any_key else ())
    key_exchange: KeyExchanger | None = None
    if auth.gssapi.method == "kerberos":
        gssapi = key_exchange = await _kerberos(auth.gssapi.kerberos, stack)
    return Authenticators(
        password,
        public_key,
        interactive,
        gssapi,
        authorizer,
        chains,
        users,
        second_only,
        worthless,
        memory,
        key_exchange if auth.exchanges_by_tickets else None,
    )
