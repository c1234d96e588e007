"""Authentication by a directory: passwords, keyboard-interactive, and public keys stored in it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from containerssh.auth.authorized_keys import AuthorizedKey, UnusableLine, parse_authorized_key
from containerssh.auth.ldap.directory import Directory, Found, open_directory
from containerssh.auth.ldap.limits import NAME_CHARACTERS, PASSWORD_BYTES
from containerssh.auth.watched_file import tell_of_others
from containerssh.config.ldap import LDAPConfig
from containerssh.core.codes import AuthCode
from containerssh.core.errors import AuthFailed
from containerssh.core.handlers import Prompts, PublicKey
from containerssh.core.messages import Event, LabelValue
from containerssh.core.metadata import AuthAttempt, Login, Value
from containerssh.core.requests import to_wire

logger = logging.getLogger(__name__)

# Every refusal takes as long as the slowest one so far, since a directory detects an unknown user faster than a wrong
# password. Refusals above this limit are not counted: they waited for something else, such as an unreachable server.
_REFUSAL_TAKES = 0.25
_REFUSAL_TAKES_AT_MOST = 2.0


class LDAPAuthenticator:
    """Asks the directory about each attempt; created by :func:`open_ldap`."""

    def __init__(self, config: LDAPConfig, directory: Directory) -> None:
        self._config = config
        self._directory = directory
        self._refusal_takes = _REFUSAL_TAKES

    async def authenticate_password(self, attempt: AuthAttempt, password: bytes) -> Login:
        """
        Authenticate by a bind as the user's entry.

        Raises:
            AuthFailed: the password is wrong, or the user is unknown or not permitted.
            AuthUnavailable: no server of the directory could decide.
        """
        labels = _labels(attempt, "password")
        began = asyncio.get_running_loop().time()
        try:
            _check_name(attempt)
            _check_password(password)
            login = self._login(attempt, await self._directory.judge_password(attempt.username, password, labels))
        except AuthFailed as exc:
            logger.debug(Event(AuthCode.FAILED, f"The directory refuses: {exc}", **labels))
            took = asyncio.get_running_loop().time() - began
            if took <= _REFUSAL_TAKES_AT_MOST:
                self._refusal_takes = max(self._refusal_takes, took)
            await asyncio.sleep(max(0.0, self._refusal_takes - took))
            raise
        logger.debug(Event(AuthCode.SUCCESSFUL, "The directory accepts the password", **labels))
        return login

    async def authenticate_interactive(self, attempt: AuthAttempt, prompts: Prompts, undo: AsyncExitStack) -> Login:
        """Like :meth:`authenticate_password`, with the password as the answer to a prompt."""
        (answer,) = await prompts.ask("", [("Password: ", False)])
        return await self.authenticate_password(attempt, to_wire(answer))

    async def authenticate_public_key(self, attempt: AuthAttempt, key: PublicKey) -> Login:
        """
        Authenticate by a public key in the user's entry, with the restrictions of the first matching line.

        Raises:
            AuthFailed: the entry does not contain the key, or there is no such user.
            AuthUnavailable: no server of the directory could decide.
        """
        labels = _labels(attempt, "pubkey")
        try:
            _check_name(attempt)
            found = await self._directory.look_up(attempt.username, labels)
            entry = self._fitting(found, attempt, key)
            login = self._login(
                attempt, found, restrictions=replace(entry.restrictions, environment=frozenset(entry.environment))
            )
        except AuthFailed as exc:
            logger.debug(Event(AuthCode.FAILED, f"The directory refuses: {exc}", **labels))
            raise
        logger.debug(Event(AuthCode.SUCCESSFUL, "The directory holds the key", **labels))
        return login.with_values({}, {name: Value(value) for name, value in entry.environment.items()}, {})

    def _fitting(self, found: Found, attempt: AuthAttempt, key: PublicKey) -> AuthorizedKey:
        reason = "the user's entry does not hold the key"
        for entry in self._keys(found):
            if entry.key != key or entry.is_authority:
                continue
            if entry.sources and not entry.sources.allow(attempt.remote_address.host):
                reason = "the key may not be used from this address"
            elif entry.expires and datetime.now(UTC) >= entry.expires:
                reason = "the key has expired"
            else:
                return entry
        raise AuthFailed(AuthCode.FAILED, reason)

    def _keys(self, found: Found) -> Iterator[AuthorizedKey]:
        for value in found.attributes.get(self._config.public_key_attribute, ()):
            try:
                if entry := parse_authorized_key(value.decode("utf-8", "replace")):
                    yield entry
            except UnusableLine as exc:
                text = f"A value of {self._config.public_key_attribute} of {found.dn} lets nobody in: {exc.kind}"
                logger.debug(Event(AuthCode.FAILED, text))

    def _login(self, attempt: AuthAttempt, found: Found, **more: Any) -> Login:
        names, attribute = found.names, self._config.username_attribute
        if self._config.enforce_username:
            if attempt.username not in names:
                text = f"{attribute} of {found.dn} is not the name that the user logs in with"
                raise AuthFailed(AuthCode.FAILED, text)
            name = attempt.username
        elif len(names) == 1 and names[0]:
            (name,) = names
        else:
            raise AuthFailed(AuthCode.FAILED, f"{found.dn} has not exactly one {attribute}")
        metadata = {"LDAP_DN": Value(found.dn), "LDAP_GROUPS": Value("\n".join(found.groups))}
        for key, source in self._config.metadata.items():
            values = [value.decode("utf-8", "replace") for value in found.attributes.get(source, ())]
            metadata[key] = Value("\n".join(values))
        return Login.of(attempt, name, **more).with_values(metadata, {}, {})


def _check_name(attempt: AuthAttempt) -> None:
    if not attempt.username or len(attempt.username) > NAME_CHARACTERS:
        raise AuthFailed(AuthCode.FAILED, "no name that anybody can have")


def _check_password(password: bytes) -> None:
    # With an empty password, a bind succeeds without authentication (RFC 4513 section 5.1.2).
    if not password or b"\0" in password or len(password) > PASSWORD_BYTES:
        raise AuthFailed(AuthCode.FAILED, "no password that anybody can have")


def _labels(attempt: AuthAttempt, kind: str) -> dict[str, LabelValue]:
    return {"connectionId": attempt.connection_id, "username": attempt.username, "authtype": kind}


@asynccontextmanager
async def open_ldap(config: LDAPConfig) -> AsyncIterator[LDAPAuthenticator]:
    """
    An authenticator for the lifetime of the server, with a helper process that ends with the scope.

    Raises:
        ConfigError: the directory cannot be used as configured.
    """
    async with open_directory(config) as directory:
        if config.bind_password_file:
            await asyncio.to_thread(
                tell_of_others, Path(config.bind_password_file), "file with the directory's password"
            )
        yield LDAPAuthenticator(config, directory)
