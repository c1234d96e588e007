"""Checks of public keys and certificates that apply to every method, and certificates of trusted authorities."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from containerssh.auth.authenticator import PublicKeyAuthenticator
from containerssh.auth.authorities import Authorities
from containerssh.auth.certificates import authorize, certificate_of, check_conditions, critical
from containerssh.auth.chains import both
from containerssh.auth.users import UsersFile
from containerssh.auth.watched_value import WatchedValue
from containerssh.config.auth import PublicKeyAuthConfig
from containerssh.core.codes import AuthCode
from containerssh.core.errors import AuthFailed, AuthUnavailable
from containerssh.core.handlers import PublicKey
from containerssh.core.messages import Event
from containerssh.core.metadata import AuthAttempt, Login, Restrictions, Value
from containerssh.keys.certificate import Certificate
from containerssh.keys.public import fingerprint
from containerssh.keys.revoked import Revoked

logger = logging.getLogger(__name__)


class PublicKeys:
    """
    Refuses revoked keys, checks certificates of trusted authorities, and passes the rest to another authenticator.
    """

    def __init__(
        self, config: PublicKeyAuthConfig, others: PublicKeyAuthenticator | None, users: UsersFile | None = None
    ) -> None:
        """*others* checks what no trusted authority has signed. With *users*, only these users can log in."""
        self._others = others
        self._users = users
        self._rules = config.security_keys
        self._authorities = Authorities(config.certificates)
        self._revoked: WatchedValue[Revoked] | None = None
        if config.revoked_keys:
            self._revoked = WatchedValue(Path(config.revoked_keys), "revoked keys", Revoked.parse)
            self._revoked.read()

    async def authenticate_public_key(self, attempt: AuthAttempt, key: PublicKey) -> Login:
        """
        The login with *key*, once the client has proved that it holds the private key.

        Raises:
            AuthFailed: it is revoked or not accepted.
            AuthUnavailable: the revocation list or the authenticator is not available.
        """
        certificate = certificate_of(key)
        await self._check_revoked(key, certificate)
        if certificate is None:
            login = await self._by_others(attempt, key, "the key is not listed anywhere")
        else:
            login = await self._by_certificate(attempt, key, certificate)
        return replace(login, restrictions=self._with_rules(login.restrictions))

    async def _check_revoked(self, key: PublicKey, certificate: Certificate | None) -> None:
        if self._revoked is None:
            return
        revoked = await self._revoked.current()
        if revoked is None:
            raise AuthUnavailable(AuthCode.KEY_LIST_FAILED, "nobody can tell which keys are revoked")
        plain = certificate.key if certificate else key.blob
        if reason := revoked.why(plain, certificate):
            logger.info(Event(AuthCode.KEY_REVOKED, f"A login was refused: {reason}", fingerprint=fingerprint(plain)))
            raise AuthFailed(AuthCode.KEY_REVOKED, reason)

    async def _by_certificate(self, attempt: AuthAttempt, key: PublicKey, certificate: Certificate) -> Login:
        if not await self._authorities.trust(certificate.authority):
            check_conditions(certificate, attempt)
            login = await self._by_others(attempt, key, "the certificate's authority is not trusted")
            return replace(login, restrictions=both(login.restrictions, critical(certificate)))
        try:
            return await self._by_authority(attempt, certificate)
        except AuthFailed:
            if self._users is None:
                raise
            # A line of the user's own may contain the same authority with other principals.
            try:
                return await self._users.authenticate_public_key(attempt, key)
            except AuthFailed:
                pass
            raise

    async def _by_authority(self, attempt: AuthAttempt, certificate: Certificate) -> Login:
        entries = await self._authorities.entries(certificate.authority, attempt.username)
        if own := await self._users.principals_of(attempt.username) if self._users else ():
            entries = (self._authorities.entry(certificate.authority, own),)
        if not entries:
            raise AuthFailed(AuthCode.FAILED, "the user has no principals")
        if self._users is not None:
            login = await self._users.authenticate_certificate(attempt, certificate, entries)
        else:
            entry, rights = authorize(attempt, certificate, entries)
            login = Login.of(
                attempt, attempt.username, restrictions=replace(rights, environment=frozenset(entry.environment))
            ).with_values({}, {name: Value(value) for name, value in entry.environment.items()}, {})
        told = {
            "SSH_CERTIFICATE_KEY_ID": Value(certificate.name),
            "SSH_CERTIFICATE_SERIAL": Value(str(certificate.serial)),
            "SSH_CERTIFICATE_AUTHORITY": Value(fingerprint(certificate.authority)),
        }
        return login.with_values(told, {}, {})

    async def _by_others(self, attempt: AuthAttempt, key: PublicKey, otherwise: str) -> Login:
        if self._others is None:
            raise AuthFailed(AuthCode.FAILED, otherwise)
        return await self._others.authenticate_public_key(attempt, key)

    def _with_rules(self, rights: Restrictions) -> Restrictions:
        return replace(
            rights,
            touch_required=rights.touch_required or self._rules.touch_required,
            verify_required=rights.verify_required or self._rules.verify_required,
        )
