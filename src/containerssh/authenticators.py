"""From the ``auth`` section to the authenticators behind it: which one judges which method."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
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
from containerssh.auth.users_document import read_users
from containerssh.auth.watched_file import WatchedFile
from containerssh.config.app import AppConfig
from containerssh.config.auth import AuthConfig, KerberosConfig, WebhookConfig
from containerssh.config.findings import Finding
from containerssh.config.merge import overlay
from containerssh.core.errors import ConfigError
from containerssh.core.handlers import AuthMethod
from containerssh.core.instance import default_state_folder
from containerssh.layers.authentication import Authenticators

if TYPE_CHECKING:
    from containerssh.auth.kerberos.authenticator import KerberosAuthenticator
    from containerssh.auth.ldap.authenticator import LDAPAuthenticator
    from containerssh.auth.remember import Memory
    from containerssh.auth.webhook import WebhookAuthenticator

# Each method imports what it needs only where it is configured: HTTP clients and the like take long to import.


async def open_authenticators(config: AppConfig, stack: AsyncExitStack) -> Authenticators:
    """
    One authenticator for each configured method; *stack* closes what is opened for them.

    Raises:
        ConfigError: what is configured cannot be used.
    """
    auth = config.auth
    opening = _Opening(auth, stack, _users_file(config, stack), await _directory(auth, stack))
    gssapi: GSSAPIAuthenticator | None = None
    key_exchange: KeyExchanger | None = None
    if auth.gssapi.method == "kerberos":
        gssapi = key_exchange = await opening.kerberos(auth.gssapi.kerberos)
    return Authenticators(
        password=await opening.password(),
        public_key=await opening.public_key(),
        interactive=await opening.interactive(),
        gssapi=gssapi,
        authorizer=await _authorizer(auth, stack),
        chains=frozenset(as_chain(text) for text in auth.authentication_methods),
        user_chains=opening.users,
        second_only=frozenset({AuthMethod.KEYBOARD_INTERACTIVE} if auth.codes_by_users_file else ()),
        worthless=frozenset({AuthMethod.PUBLIC_KEY} if auth.takes_any_key else ()),
        memory=await _memory(auth),
        key_exchange=key_exchange if auth.exchanges_by_tickets else None,
    )


@dataclass(frozen=True)
class _Opening:
    """The authenticators of one configuration, while they are being opened."""

    auth: AuthConfig
    stack: AsyncExitStack
    users: UsersFile | None
    directory: LDAPAuthenticator | None

    async def password(self) -> PasswordAuthenticator | None:
        match self.auth.password.method:
            case "webhook":
                return await self.webhook(self.auth.password.webhook)
            case "users":
                return self.users
            case "ldap":
                return self.directory
            case "kerberos":
                return await self.kerberos(self.auth.password.kerberos)
            case _:
                return None

    async def public_key(self) -> PublicKeyAuthenticator | None:
        section = self.auth.public_key
        found: PublicKeyAuthenticator | None = None
        match section.method:
            case "webhook":
                found = await self.webhook(section.webhook)
            case "users":
                found = self.users
            case "ldap":
                found = self.directory
            case "remember":
                from containerssh.auth.remember import AnyKey

                found = AnyKey()
        if not section.is_configured:
            return found
        return PublicKeys(section, found, self.users if section.method == "users" else None)

    async def interactive(self) -> InteractiveAuthenticator | None:
        section = self.auth.keyboard_interactive
        match section.method:
            case "oauth2":
                from containerssh.auth.oauth2.authenticator import open_oauth2

                return await self.stack.enter_async_context(open_oauth2(section.oauth2))
            case "users" if self.users is not None:
                from containerssh.auth.codes import open_codes

                codes = open_codes(self.users, default_state_folder(), section.codes)
                return await self.stack.enter_async_context(codes)
            case "ldap":
                return self.directory
            case "webhook":
                from containerssh.auth.interview import open_interview

                return await self.stack.enter_async_context(open_interview(section.webhook))
            case _:
                return None

    async def webhook(self, config: WebhookConfig) -> WebhookAuthenticator:
        from containerssh.auth.webhook import open_webhook

        return await self.stack.enter_async_context(open_webhook(config))

    async def kerberos(self, config: KerberosConfig) -> KerberosAuthenticator:
        from containerssh.auth.kerberos.authenticator import open_kerberos

        return await self.stack.enter_async_context(open_kerberos(config))


def users_file_findings(config: AppConfig) -> Sequence[Finding]:
    """
    What keeps a server from using the users file; nothing where none is used, or where it cannot be read at all, which
    is a finding about the configuration itself. The lines are those of the users file.
    """
    auth = config.auth
    if not auth.uses_users_file:
        return ()
    path = Path(auth.users.file)
    try:
        content = WatchedFile(path).changed()
    except ConfigError as exc:
        return () if isinstance(exc.__cause__, OSError) else [Finding("error", "", str(exc))]
    _, findings = read_users(
        content or b"", path, partial(overlay, config), auth.configured_methods, codes=auth.codes_by_users_file
    )
    return [replace(one, message=one.message.removeprefix(f"line {one.line}: ")) for one in findings]


def _users_file(config: AppConfig, stack: AsyncExitStack) -> UsersFile | None:
    auth = config.auth
    if not auth.uses_users_file:
        return None
    users = UsersFile(
        Path(auth.users.file),
        check_config=partial(overlay, config),
        methods=auth.configured_methods,
        codes=auth.codes_by_users_file,
    )
    stack.callback(users.close)
    return users


async def _directory(auth: AuthConfig, stack: AsyncExitStack) -> LDAPAuthenticator | None:
    if not auth.uses_ldap:
        return None
    from containerssh.auth.ldap.authenticator import open_ldap

    return await stack.enter_async_context(open_ldap(auth.ldap))


async def _authorizer(auth: AuthConfig, stack: AsyncExitStack) -> Authorizer | None:
    if auth.authz.method != "webhook":
        return None
    from containerssh.auth.webhook import open_authorizer

    return await stack.enter_async_context(open_authorizer(auth.authz.webhook))


async def _memory(auth: AuthConfig) -> Memory | None:
    if not auth.remember.period:
        return None
    from containerssh.auth.remember import open_memory

    return await asyncio.to_thread(open_memory, auth, default_state_folder())
