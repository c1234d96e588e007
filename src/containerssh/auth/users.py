"""The users file: logins that need no other service. It is read again when it changes."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections import Counter
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from dataclasses import replace
from pathlib import Path
from typing import Any

from containerssh.auth.authorized_keys import AuthorizedKey, UnusableLine, parse_authorized_key
from containerssh.auth.certificates import authorize, certificate_of
from containerssh.auth.chains import Chain
from containerssh.auth.hashes import PasswordHash
from containerssh.auth.totp import TOTP
from containerssh.auth.users_document import CheckConfig, User, Users, any_spelling, read_users
from containerssh.auth.watched_file import WatchedFile
from containerssh.config.findings import ConfigErrors
from containerssh.core.codes import AuthCode
from containerssh.core.errors import AuthFailed, AuthUnavailable, ConfigError
from containerssh.core.handlers import AuthMethod, PublicKey
from containerssh.core.messages import Event, LabelValue
from containerssh.core.metadata import AuthAttempt, Login, Value
from containerssh.keys.certificate import Certificate

logger = logging.getLogger(__name__)

LONGEST_PASSWORD = 1024
"""Bytes; longer passwords are refused without being checked."""

MOST_WAITING = 128
"""How many passwords may wait to be checked; further ones are AuthUnavailable."""


class UsersFile:
    """Checks passwords and public keys with the users file."""

    def __init__(
        self,
        path: Path,
        *,
        check_config: CheckConfig | None = None,
        methods: Collection[str] = tuple(AuthMethod),
        codes: bool = False,
    ) -> None:
        """
        Read the file. *check_config* validates each user's configuration, *methods* are the configured methods, and
        *codes* says whether keyboard-interactive asks for the users' one-time codes.

        Raises:
            ConfigError: the file cannot be read, or has mistakes; the text names all of them.
        """
        self._path = path
        self._check_config = check_config
        self._methods = methods
        self._codes = codes
        self._lock = threading.Lock()
        self._file = WatchedFile(path)
        content = self._file.changed()
        assert content is not None
        self._users = self._parse(content)
        self._key_files: dict[Path, tuple[WatchedFile, tuple[AuthorizedKey, ...]]] = {}
        self._judges = ThreadPoolExecutor(min(4, os.cpu_count() or 1), thread_name_prefix="password")
        self._waiting = 0
        self._tell(logging.INFO, AuthCode.USERS_FILE_LOADED, f"Users file {path} with {len(self._users.by_name)} users")

    async def authenticate_password(self, attempt: AuthAttempt, password: bytes) -> Login:
        """
        The login of the user with this name and password.

        Raises:
            AuthFailed: there is none.
            AuthUnavailable: too many passwords are waiting to be checked.
        """
        users = await self._now()
        user = users.by_name.get(attempt.username)
        judge = (user.password if user else None) or users.stand_in
        right = judge is not None and len(password) <= LONGEST_PASSWORD and await self._judge(judge, password)
        return self._login_by_password(attempt, user, right=right)

    async def suppose_password(self, attempt: AuthAttempt) -> Login:
        """
        The login that the right password would result in, for ``config explain``.

        Raises:
            AuthFailed: this user has none.
        """
        user = (await self._now()).by_name.get(attempt.username)
        return self._login_by_password(attempt, user, right=True)

    async def authenticate_public_key(self, attempt: AuthAttempt, key: PublicKey) -> Login:
        """
        The login with *key* under this name, with the restrictions of the first matching line; for a certificate, of
        the first line with its authority's key.

        Raises:
            AuthFailed: no line matches.
        """
        user = (await self._now()).by_name.get(attempt.username)
        keys = await self._keys_of(user) if user else ()
        reason = "no such user" if user is None else "the key is not listed"
        if user is not None and (certificate := certificate_of(key)):
            return self._login_by_certificate(attempt, user, certificate, keys)
        for entry in keys:
            if entry.is_authority or entry.key != key:
                continue
            reason = entry.refusal(attempt.remote_address.host)
            if not reason and user is not None:
                return self._login(attempt, "pubkey", user, entry)
        raise self._failed(attempt, "pubkey", reason)

    async def authenticate_certificate(
        self, attempt: AuthAttempt, certificate: Certificate, entries: Collection[AuthorizedKey]
    ) -> Login:
        """
        The login with a certificate of a trusted authority under this name, with the restrictions of the first matching
        entry of *entries*.

        Raises:
            AuthFailed: none matches, or there is no such user.
        """
        user = (await self._now()).by_name.get(attempt.username)
        if user is None:
            raise self._failed(attempt, "pubkey", "no such user")
        return self._login_by_certificate(attempt, user, certificate, entries)

    async def principals_of(self, username: str) -> tuple[str, ...]:
        """This user's principals in the file; none for an unknown user."""
        user = (await self._now()).by_name.get(username)
        return user.principals if user else ()

    async def keys_of(self, username: str) -> Collection[AuthorizedKey]:
        """This user's keys, in the order in which they are checked; none for an unknown user."""
        user = (await self._now()).by_name.get(username)
        return await self._keys_of(user) if user else ()

    @property
    def chains(self) -> Collection[Chain]:
        """The lists of methods that must succeed in sequence, of all users together."""
        return self._users.chains

    async def chains_of(self, username: str, others: frozenset[Chain]) -> Collection[Chain]:
        """
        The lists of this user, or *others* if the user has none or is unknown. A user with a secret for one-time codes
        is always asked for a code. If an unknown name is another spelling of a known user's, that user's lists apply:
        other authenticators may treat both as the same name.
        """
        users = await self._now()
        user = users.by_name.get(username)
        if user is not None:
            return user.ways(others)
        found: Collection[Chain] = others
        for number, alike in enumerate(users.by_spelling.get(any_spelling(username), ())):
            found = alike.ways(others) if not number else set(found) & set(alike.ways(others))
        return found

    async def code_counts(self, given: str, name: str) -> bool:
        """False if both have secrets for codes, and these differ."""
        secret = await self.code_of(name)
        return secret is None or secret == await self.code_of(given)

    async def code_of(self, username: str) -> TOTP | None:
        """This user's secret for one-time codes; None without one, and for an unknown user."""
        user = (await self._now()).by_name.get(username)
        return user.totp if user else None

    def close(self) -> None:
        """Release everything; there are no further requests."""
        self._judges.shutdown(wait=False)

    async def _judge(self, judge: PasswordHash, password: bytes) -> bool:
        if self._waiting >= MOST_WAITING:
            raise AuthUnavailable(AuthCode.BACKEND_ERROR, "too many passwords are waiting to be judged")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._judges, judge.verify, password)
        finally:
            self._waiting -= 1

    def _login_by_password(self, attempt: AuthAttempt, user: User | None, *, right: bool) -> Login:
        if user is None or user.password is None or not right:
            missing = "no such user" if user is None else "the user has no password" if user.password is None else ""
            raise self._failed(attempt, "password", missing or "wrong password")
        return self._login(attempt, "password", user, None)

    def _login_by_certificate(
        self, attempt: AuthAttempt, user: User, certificate: Certificate, entries: Collection[AuthorizedKey]
    ) -> Login:
        try:
            entry, restrictions = authorize(attempt, certificate, entries)
        except AuthFailed as exc:
            raise self._failed(attempt, "pubkey", exc.explanation) from exc
        return self._login(attempt, "pubkey", user, replace(entry, restrictions=restrictions))

    def _login(self, attempt: AuthAttempt, kind: str, user: User, entry: AuthorizedKey | None) -> Login:
        labels = _labels(attempt, kind)
        if entry is not None:
            labels |= {"place": entry.place, "fingerprint": entry.key.fingerprint}
        logger.debug(Event(AuthCode.SUCCESSFUL, "Found in the users file", **labels))
        more: dict[str, Any] = {"config_overlay": user.config}
        environment = dict(user.environment)
        if entry is not None:
            more["restrictions"] = replace(entry.restrictions, environment=frozenset(entry.environment))
            environment.update((name, Value(value)) for name, value in entry.environment.items())
        return Login.of(attempt, attempt.username, **more).with_values(user.metadata, environment, {})

    def _failed(self, attempt: AuthAttempt, kind: str, reason: str) -> AuthFailed:
        text = f"Not in the users file: {reason}"
        logger.debug(Event(AuthCode.FAILED, text, **_labels(attempt, kind)))
        return AuthFailed(AuthCode.FAILED, reason)

    async def _now(self) -> Users:
        """Like :meth:`_current`; in a thread, which costs more than the check itself, if reading may block."""
        if self._lock.acquire(blocking=False):
            try:
                if self._file.unchanged():
                    return self._users
            finally:
                self._lock.release()
        return await asyncio.to_thread(self._current)

    def _current(self) -> Users:
        """The current content of the file, or the last valid content."""
        with self._lock:
            try:
                if (content := self._file.changed()) is not None:
                    self._users = self._parse(content)
                    text = f"Users file {self._path} read again: {len(self._users.by_name)} users"
                    self._tell(logging.INFO, AuthCode.USERS_FILE_LOADED, text)
            except ConfigError as exc:
                text = f"The previous content stays in force. {exc}"
                self._tell(logging.ERROR, AuthCode.USERS_FILE_FAILED, text)
            return self._users

    async def _keys_of(self, user: User) -> tuple[AuthorizedKey, ...]:
        if user.key_file is None:
            return user.keys
        if self._lock.acquire(blocking=False):
            try:
                file, keys = self._key_files.get(user.key_file) or (None, ())
                if file is not None and file.unchanged():
                    return user.keys + keys
            finally:
                self._lock.release()
        return user.keys + await asyncio.to_thread(self._read_keys, user.key_file)

    def _read_keys(self, path: Path) -> tuple[AuthorizedKey, ...]:
        """The usable keys of a key file. The user may own it, so a mistake in it must not affect other users."""
        with self._lock:
            file, keys = self._key_files.get(path) or (WatchedFile(path), ())
            try:
                if (content := file.changed()) is not None:
                    keys = tuple(self._usable_keys(path, content))
            except ConfigError as exc:
                self._tell(logging.WARNING, AuthCode.USERS_FILE_FAILED, str(exc))
                keys = ()
            self._key_files[path] = (file, keys)
            return keys

    def _usable_keys(self, path: Path, content: bytes) -> Iterator[AuthorizedKey]:
        for number, line in enumerate(content.decode("utf-8", "replace").split("\n"), 1):
            try:
                if entry := parse_authorized_key(line):
                    yield replace(entry, place=f"line {number} of {path}")
            except UnusableLine as exc:
                # Not its text: the user may own the file and replace it by a link to one that only the server can read.
                text = f"Line {number} of {path} lets nobody in: {exc.kind}"
                self._tell(logging.WARNING, AuthCode.USERS_FILE_FAILED, text)

    def _tell(self, level: int, code: AuthCode, text: str) -> None:
        # Outside the log scope of the login that noticed the change.
        Context().run(logger.log, level, Event(code, text, file=str(self._path)))

    def _parse(self, content: bytes) -> Users:
        if loose := self._file.writable_by_others:
            self._tell(logging.WARNING, AuthCode.USERS_FILE_PERMISSIONS, f"{self._path} can be written by {loose}")
        users, findings = read_users(content, self._path, self._check_config, self._methods, codes=self._codes)
        if findings:
            raise ConfigErrors(AuthCode.CONFIG_ERROR, f"Invalid users file {self._path}", findings)
        # A hash with the parameters of most users.
        hashes = [user.password for user in users.values() if user.password]
        kinds = Counter(_cost(judge) for judge in hashes)
        usual = kinds.most_common(1)[0][0] if kinds else None
        stand_in = next((judge for judge in hashes if _cost(judge) == usual), None)
        return Users.of(users, stand_in)


def _labels(attempt: AuthAttempt, kind: str) -> dict[str, LabelValue]:
    return {"connectionId": attempt.connection_id, "username": attempt.username, "authtype": kind}


def _cost(judge: PasswordHash) -> str:
    """The kind of hash and its parameters, on which the duration of a check depends."""
    kind, _, rest = judge.text[1:].partition("$")
    return f"{kind}${rest.partition('$')[0]}" if not kind.startswith("argon2") else f"{kind}${rest.rsplit('$', 2)[0]}"
