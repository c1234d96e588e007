"""What every authenticator offers, whoever it asks."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Protocol

from containerssh.core.gssapi import ExchangedKeys, GSSAPIExchange
from containerssh.core.handlers import Prompts, PublicKey
from containerssh.core.metadata import AuthAttempt, ConnectionMetadata, Login


class PasswordAuthenticator(Protocol):
    """Judges passwords."""

    async def authenticate_password(self, attempt: AuthAttempt, password: bytes) -> Login:
        """
        The login that *password* earns.

        Raises:
            AuthFailed: it is wrong.
            AuthUnavailable: nobody could be asked.
        """
        ...


class PublicKeyAuthenticator(Protocol):
    """Judges public keys."""

    async def authenticate_public_key(self, attempt: AuthAttempt, key: PublicKey) -> Login:
        """
        The login that *key* earns once the client has proved that it holds it. Raises as a password's.
        """
        ...


class InteractiveAuthenticator(Protocol):
    """Judges by questions and answers."""

    async def authenticate_interactive(self, attempt: AuthAttempt, prompts: Prompts, undo: AsyncExitStack) -> Login:
        """
        The login that the answers earn. Raises as a password's; cancelled when the client gives up or leaves.

        What the attempt leaves with others (a token, a file) is undone by *undo*, with a limit:
        ``undo.push_async_callback(finish, token.revoke, within=...)``. It is closed before the connection's next
        attempt, and when the login, or the connection without one, has ended.
        """
        ...


class GSSAPIAuthenticator(Protocol):
    """Judges by GSSAPI."""

    async def authenticate_gssapi(self, attempt: AuthAttempt, exchange: GSSAPIExchange, undo: AsyncExitStack) -> Login:
        """The login that the exchange earns; raises, and undoes, as an interactive one. Checks the integrity code."""
        ...


class KeyExchanger(Protocol):
    """Lets clients exchange keys by GSSAPI."""

    async def exchange_keys(self, meta: ConnectionMetadata, token: bytes, digest: bytes) -> ExchangedKeys:
        """What *token* and the hash *digest* earn; raises as a password's."""
        ...


class Authorizer(Protocol):
    """Has the last word on a login whose credentials proved right."""

    async def authorize(self, login: Login) -> Login:
        """*login*, with what is added to it; raises as a password's."""
        ...
