"""Logins judged by a directory: passwords, answers, and keys that it keeps."""

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

# A refusal is told no sooner than the longest one so far took: a directory finds out sooner that there is no such user
# than that a password is wrong. What took longer than this waited for something else, a server that is away.
_REFUSAL_TAKES = 0.25
_REFUSAL_TAKES_AT_MOST = 2.0


class LDAPAuthenticator:
    """Asks the directory about each attempt; made by :func:`open_ldap`."""

    def __init__(self, config: LDAPConfig, directory: Directory) -> None:
        self._config = config
        self._directory = directory
        self._refusal_takes = _REFUSAL_TAKES

    async def authenticate_password(self, attempt: AuthAttempt, password: bytes) -> Login:
        """
        The login of the user whose entry the password opens.

        Raises:
            AuthFailed: there is none, or it is not wanted here.
            AuthUnavailable: no server of the directory could tell.
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
        """The same with the password as an answer."""
        (answer,) = await prompts.ask("", [("Password: ", False)])
        return await self.authenticate_password(attempt, to_wire(answer))

    async def authenticate_public_key(self, attempt: AuthAttempt, key: PublicKey) -> Login:
        """
        The login that *key* earns, if the user's entry holds it, with the restrictions of the first line that fits.

        Raises:
            AuthFailed: it does not, or there is no such user.
            AuthUnavailable: no server of the directory could tell.
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
    # Without a password a bind succeeds, as nobody's (RFC 4513 section 5.1.2).
    if not password or b"\0" in password or len(password) > PASSWORD_BYTES:
        raise AuthFailed(AuthCode.FAILED, "no password that anybody can have")


def _labels(attempt: AuthAttempt, kind: str) -> dict[str, LabelValue]:
    return {"connectionId": attempt.connection_id, "username": attempt.username, "authtype": kind}


@asynccontextmanager
async def open_ldap(config: LDAPConfig) -> AsyncIterator[LDAPAuthenticator]:
    """
    An authenticator for the server's life, with a helper process that ends with it.

    Raises:
        ConfigError: the directory cannot be used as it is configured.
    """
    async with open_directory(config) as directory:
        if config.bind_password_file:
            await asyncio.to_thread(
                tell_of_others, Path(config.bind_password_file), "file with the directory's password"
            )
        yield LDAPAuthenticator(config, directory)
