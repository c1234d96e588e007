"""What every authenticator offers, whoever it asks."""

from __future__ import annotations

from typing import Protocol

from containerssh.core.handlers import PublicKey
from containerssh.core.metadata import AuthAttempt, Login


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
