"""The users file: logins that need no other service. It is read again when it changes."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import Field, SecretStr, ValidationError

from containerssh.auth.authorized_keys import AuthorizedKey, UnusableLine, parse_authorized_key
from containerssh.auth.certificates import authorize, certificate_of
from containerssh.auth.chains import Chain, as_chain
from containerssh.auth.hashes import PasswordHash, parse_hash
from containerssh.auth.totp import TOTP, parse_totp
from containerssh.auth.watched_file import WatchedFile
from containerssh.config.auth import AuthenticationMethods
from containerssh.config.document import Document, DocumentError, parse_yaml
from containerssh.config.findings import ConfigErrors, Finding, findings_of
from containerssh.config.model import ConfigModel, Secret
from containerssh.core.codes import AuthCode
from containerssh.core.errors import AuthFailed, AuthUnavailable, ConfigError
from containerssh.core.handlers import AuthMethod, PublicKey
from containerssh.core.messages import Event, LabelValue
from containerssh.core.metadata import AuthAttempt, Login, Texts, Value
from containerssh.keys.certificate import Certificate

logger = logging.getLogger(__name__)

LONGEST_PASSWORD = 1024
"""Bytes; longer ones are wrong without being looked at."""

MOST_WAITING = 128
"""Passwords that may wait to be judged; who comes after them is told that nobody can judge."""

CheckConfig = Callable[[Mapping[str, Any]], object]
"""Raises ConfigError: a user's part of the configuration cannot be used."""


class UserConfig(ConfigModel):
    """A user."""

    password: Secret = SecretStr("")
    """A hash of the password, as `containerssh hash-password` makes it; without one no password is right."""

    authorized_keys: tuple[str, ...] = ()
    """Keys that may log in, as in OpenSSH's authorized_keys file."""

    authorized_keys_file: str = ""
    """A file with more of them; a relative name starts at the users file's folder."""

    principals: tuple[str, ...] = ()
    """Of which a certificate must name one, if an authority of `auth.publicKey.certificates` has signed it, instead of
    what is said there."""

    config: dict[str, Any] = Field(default_factory=dict)
    """What the configuration of this user's logins says differently."""

    environment: dict[str, str] = Field(default_factory=dict)
    """Variables for the user's programs."""

    totp: Secret = SecretStr("")
    """The secret of the user's one-time codes, in base32 or as `otpauth://totp/...`; they are then asked for."""

    metadata: dict[str, str] = Field(default_factory=dict)
    """What is passed on to the config server."""

    authentication_methods: AuthenticationMethods = ()
    """Which methods must succeed one after another, instead of what `auth.authenticationMethods` says."""


@dataclass(frozen=True)
class _User:
    password: PasswordHash | None
    keys: tuple[AuthorizedKey, ...]
    key_file: Path | None
    principals: tuple[str, ...]
    config: Mapping[str, Any] = field(repr=False)
    environment: Texts
    metadata: Texts
    chains: tuple[Chain, ...]
    totp: TOTP | None


@dataclass(frozen=True)
class _Users:
    by_name: Mapping[str, _User]
    stand_in: PasswordHash | None
    """Judged when there is no such user, so that it takes as long."""
    chains: frozenset[Chain]


class UsersFile:
    """Judges passwords and public keys by the users file."""

    def __init__(
        self,
        path: Path,
        *,
        check_config: CheckConfig | None = None,
        methods: Collection[str] = tuple(AuthMethod),
        codes: bool = False,
    ) -> None:
        """
        Read the file; *check_config* judges each user's part of the configuration, *methods* are those that somebody
        judges, and *codes* says whether keyboard-interactive asks for the users' one-time codes.

        Raises:
            ConfigError: it cannot be read, or something in it cannot be used; the text names all of it.
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
            AuthUnavailable: too many passwords are waiting to be judged.
        """
        users = await self._now()
        user = users.by_name.get(attempt.username)
        judge = (user.password if user else None) or users.stand_in
        right = judge is not None and len(password) <= LONGEST_PASSWORD and await self._judge(judge, password)
        return self._login_by_password(attempt, user, right=right)

    async def suppose_password(self, attempt: AuthAttempt) -> Login:
        """
        The login that the right password would earn; no client gets here.

        Raises:
            AuthFailed: this user has none.
        """
        user = (await self._now()).by_name.get(attempt.username)
        return self._login_by_password(attempt, user, right=True)

    async def authenticate_public_key(self, attempt: AuthAttempt, key: PublicKey) -> Login:
        """
        The login that *key* earns under this name, with the restrictions of the first line that fits; for a certificate
        one with the key of its authority.

        Raises:
            AuthFailed: no line fits.
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
        The login that a certificate of a trusted authority earns under this name, with the restrictions of the first of
        *entries* that fits.

        Raises:
            AuthFailed: none fits, or there is no such user.
        """
        user = (await self._now()).by_name.get(attempt.username)
        if user is None:
            raise self._failed(attempt, "pubkey", "no such user")
        return self._login_by_certificate(attempt, user, certificate, entries)

    async def principals_of(self, username: str) -> tuple[str, ...]:
        """The principals that the file gives this user; none of one who does not exist."""
        user = (await self._now()).by_name.get(username)
        return user.principals if user else ()

    async def keys_of(self, username: str) -> Collection[AuthorizedKey]:
        """The keys of this user, in the order in which they are looked at; none of one who does not exist."""
        user = (await self._now()).by_name.get(username)
        return await self._keys_of(user) if user else ()

    @property
    def chains(self) -> Collection[Chain]:
        """The methods that must succeed one after another, of all users together."""
        return self._users.chains

    async def chains_of(self, username: str, others: frozenset[Chain]) -> Collection[Chain]:
        """
        Those of this user; *others* for one who has none of their own, or does not exist. Who has a secret for one-time
        codes is asked for one in any case.
        """
        user = (await self._now()).by_name.get(username)
        if user is None or user.chains:
            return user.chains if user else others
        code = AuthMethod.KEYBOARD_INTERACTIVE
        return {chain if code in chain else (*chain, code) for chain in others} if user.totp else others

    async def code_of(self, username: str) -> TOTP | None:
        """What this user's one-time codes are computed from; None for one who has none, or does not exist."""
        user = (await self._now()).by_name.get(username)
        return user.totp if user else None

    def close(self) -> None:
        """Nobody asks any more."""
        self._judges.shutdown(wait=False)

    async def _judge(self, judge: PasswordHash, password: bytes) -> bool:
        if self._waiting >= MOST_WAITING:
            raise AuthUnavailable(AuthCode.BACKEND_ERROR, "too many passwords are waiting to be judged")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._judges, judge.verify, password)
        finally:
            self._waiting -= 1

    def _login_by_password(self, attempt: AuthAttempt, user: _User | None, *, right: bool) -> Login:
        if user is None or user.password is None or not right:
            missing = "no such user" if user is None else "the user has no password" if user.password is None else ""
            raise self._failed(attempt, "password", missing or "wrong password")
        return self._login(attempt, "password", user, None)

    def _login_by_certificate(
        self, attempt: AuthAttempt, user: _User, certificate: Certificate, entries: Collection[AuthorizedKey]
    ) -> Login:
        try:
            entry, restrictions = authorize(attempt, certificate, entries)
        except AuthFailed as exc:
            raise self._failed(attempt, "pubkey", exc.explanation) from exc
        return self._login(attempt, "pubkey", user, replace(entry, restrictions=restrictions))

    def _login(self, attempt: AuthAttempt, kind: str, user: _User, entry: AuthorizedKey | None) -> Login:
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

    async def _now(self) -> _Users:
        """As :meth:`_current`; in a thread, which costs more than a look, where there may be something to wait for."""
        if self._lock.acquire(blocking=False):
            try:
                if self._file.unchanged():
                    return self._users
            finally:
                self._lock.release()
        return await asyncio.to_thread(self._current)

    def _current(self) -> _Users:
        """What the file says now; what it said before if it cannot be used now."""
        with self._lock:
            try:
                if (content := self._file.changed()) is not None:
                    self._users = self._parse(content)
                    text = f"Users file {self._path} read again: {len(self._users.by_name)} users"
                    self._tell(logging.INFO, AuthCode.USERS_FILE_LOADED, text)
            except ConfigError as exc:
                text = f"What was read before stays in force. {exc}"
                self._tell(logging.ERROR, AuthCode.USERS_FILE_FAILED, text)
            return self._users

    async def _keys_of(self, user: _User) -> tuple[AuthorizedKey, ...]:
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
        """The usable keys of a key file. Its owner may be the user: a mistake in it must cost nobody else."""
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
        for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), 1):
            try:
                if entry := parse_authorized_key(line):
                    yield replace(entry, place=f"line {number} of {path}")
            except UnusableLine as exc:
                # Not its text: the file may be its user's, and a link to one that only we may read.
                text = f"Line {number} of {path} lets nobody in: {exc.kind}"
                self._tell(logging.WARNING, AuthCode.USERS_FILE_FAILED, text)

    def _tell(self, level: int, code: AuthCode, text: str) -> None:
        # Outside the scope of the login that happened to notice.
        Context().run(logger.log, level, Event(code, text, file=str(self._path)))

    def _parse(self, content: bytes) -> _Users:
        if loose := self._file.writable_by_others:
            self._tell(logging.WARNING, AuthCode.USERS_FILE_PERMISSIONS, f"{self._path} can be written by {loose}")
        reader = _Reader(self._path, self._check_config, self._methods, codes=self._codes)
        try:
            users = reader.read(parse_yaml(content))
        except DocumentError as exc:
            reader.add((), exc.message, exc.position.line if exc.position else None)
        if reader.findings:
            raise ConfigErrors(AuthCode.CONFIG_ERROR, f"Invalid users file {self._path}", reader.findings)
        # A hash that costs as much as those of most users.
        hashes = [user.password for user in users.values() if user.password]
        kinds = Counter(_cost(judge) for judge in hashes)
        usual = kinds.most_common(1)[0][0] if kinds else None
        stand_in = next((judge for judge in hashes if _cost(judge) == usual), None)
        return _Users(users, stand_in, frozenset(chain for user in users.values() for chain in user.chains))


class _Reader:
    """Makes users of a document and collects everything that is wrong with it."""

    def __init__(self, path: Path, check_config: CheckConfig | None, methods: Collection[str], *, codes: bool) -> None:
        self.findings: list[Finding] = []
        self._codes = codes
        self._methods = methods
        self._folder = path.absolute().parent
        self._check_config = check_config
        self._document: Document | None = None

    def add(self, place: tuple[str, ...], message: str, line: int | None = None) -> None:
        """Something is wrong at *place*."""
        for length in range(len(place), 0, -1):
            if line is None and self._document and (position := self._document.positions.get(place[:length])):
                line = position.line
        text = f"line {line}: {message}" if line else message
        self.findings.append(Finding("error", ".".join(place), text, line))

    def read(self, document: Document) -> Mapping[str, _User]:
        self._document = document
        for key in document.tree:
            if key != "users":
                self.add((key,), "unknown key; a users file has the key users")
        users = document.tree.get("users")
        if not isinstance(users, Mapping):
            self.add(("users",), "must be a map of names to users")
            return {}
        return {name: user for name, tree in users.items() if (user := self._user(name, tree, document))}

    def _user(self, name: str, tree: object, document: Document) -> _User | None:
        place = ("users", name)
        try:
            config = UserConfig.model_validate({} if tree is None else tree, context=document.spelling)
        except ValidationError as exc:
            for finding in findings_of(exc, UserConfig, ".".join(place)):
                inner = tuple(finding.path.removeprefix(".".join(place)).strip(".").split("."))
                suggestion = f"; {finding.suggestion}" if finding.suggestion.startswith("did you mean") else ""
                self.add((*place, *filter(None, inner)), finding.message + suggestion)
            return None
        if not name:
            self.add(place, "a user needs a name")
        if self._check_config and config.config:
            try:
                self._check_config(config.config)
            except ConfigError as exc:
                self.add((*place, "config"), str(exc))
        return _User(
            self._password(place, config.password.get_secret_value()),
            tuple(self._keys(place, config.authorized_keys)),
            self._folder / config.authorized_keys_file if config.authorized_keys_file else None,
            config.principals,
            config.config,
            dict(self._environment(place, config.environment)),
            {name: Value(value) for name, value in config.metadata.items()},
            tuple(self._chains(place, config.authentication_methods)),
            self._totp(place, config.totp.get_secret_value()),
        )

    def _password(self, place: tuple[str, ...], text: str) -> PasswordHash | None:
        if not text:
            return None
        try:
            return parse_hash(text)
        except ValueError as exc:
            self.add((*place, "password"), str(exc))
            return None

    def _keys(self, place: tuple[str, ...], lines: tuple[str, ...]) -> Iterator[AuthorizedKey]:
        for number, line in enumerate(lines):
            try:
                if entry := parse_authorized_key(line):
                    yield replace(entry, place=".".join((*place, "authorizedKeys", str(number))))
            except UnusableLine as exc:
                self.add((*place, "authorizedKeys", str(number)), str(exc))

    def _totp(self, place: tuple[str, ...], text: str) -> TOTP | None:
        if not text:
            return None
        if not self._codes:
            self.add((*place, "totp"), "nobody asks for the code: set auth.keyboardInteractive.method to users")
        try:
            return parse_totp(text)
        except ValueError as exc:
            self.add((*place, "totp"), str(exc))
            return None

    def _chains(self, place: tuple[str, ...], texts: tuple[str, ...]) -> Iterator[Chain]:
        for number, text in enumerate(texts):
            chain = as_chain(text)
            if unknown := [method for method in chain if method not in self._methods]:
                self.add((*place, "authenticationMethods", str(number)), f"nobody judges {', '.join(unknown)}")
            if self._codes and chain[0] == AuthMethod.KEYBOARD_INTERACTIVE:
                problem = "a one-time code is a second factor, it cannot come first"
                self.add((*place, "authenticationMethods", str(number)), problem)
            yield chain

    def _environment(self, place: tuple[str, ...], variables: Mapping[str, str]) -> Iterator[tuple[str, Value[str]]]:
        for name, value in variables.items():
            if not name or "=" in name or "\0" in name + value:
                self.add((*place, "environment", name), "no variable can be called so, or hold that")
            yield name, Value(value)


def _labels(attempt: AuthAttempt, kind: str) -> dict[str, LabelValue]:
    return {"connectionId": attempt.connection_id, "username": attempt.username, "authtype": kind}


def _cost(judge: PasswordHash) -> str:
    """What the time to judge depends on: the kind of hash and its parameters."""
    kind, _, rest = judge.text[1:].partition("$")
    return f"{kind}${rest.partition('$')[0]}" if not kind.startswith("argon2") else f"{kind}${rest.rsplit('$', 2)[0]}"
