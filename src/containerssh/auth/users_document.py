"""What stands in a users file, and everything that is wrong with it."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from pydantic import Field, SecretStr, ValidationError

from containerssh.auth.authorized_keys import AuthorizedKey, UnusableLine, parse_authorized_key
from containerssh.auth.chains import Chain, as_chain
from containerssh.auth.hashes import PasswordHash, parse_hash
from containerssh.auth.totp import TOTP, parse_totp
from containerssh.config.auth import AuthenticationMethods
from containerssh.config.document import Document, DocumentError, parse_yaml
from containerssh.config.findings import Finding, findings_of
from containerssh.config.model import ConfigModel, Secret
from containerssh.core.errors import ConfigError
from containerssh.core.handlers import AuthMethod
from containerssh.core.metadata import Texts, Value

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
class User:
    """A user whose part of the file makes sense."""

    password: PasswordHash | None
    keys: tuple[AuthorizedKey, ...]
    key_file: Path | None
    principals: tuple[str, ...]
    config: Mapping[str, Any] = field(repr=False)
    environment: Texts
    metadata: Texts
    chains: tuple[Chain, ...]
    totp: TOTP | None

    def ways(self, others: frozenset[Chain]) -> Collection[Chain]:
        """The methods that must succeed, of which *others* are everybody's."""
        code = AuthMethod.KEYBOARD_INTERACTIVE
        if self.chains or self.totp is None:
            return self.chains or others
        return {chain if code in chain else (*chain, code) for chain in others}


@dataclass(frozen=True)
class Users:
    """All of them."""

    by_name: Mapping[str, User]
    stand_in: PasswordHash | None
    """Judged when there is no such user, so that it takes as long."""
    chains: frozenset[Chain]
    by_spelling: Mapping[str, Sequence[User]]
    """By what :func:`any_spelling` makes of their names."""

    @classmethod
    def of(cls, by_name: Mapping[str, User], stand_in: PasswordHash | None) -> Self:
        """These users."""
        alike: dict[str, list[User]] = {}
        for name, user in by_name.items():
            alike.setdefault(any_spelling(name), []).append(user)
        return cls(by_name, stand_in, frozenset(chain for user in by_name.values() for chain in user.chains), alike)


def any_spelling(name: str) -> str:
    """
    The same for all names that a directory or a KDC may take for one: whatever their case, forms and blanks, and
    characters that nobody sees (RFC 4518 section 2 has the like).
    """
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    return " ".join("".join(char for char in plain if unicodedata.category(char) != "Cf").split())


class UsersReader:
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

    def read(self, document: Document) -> Mapping[str, User]:
        """The users whose parts make sense; what does not is in :attr:`findings`."""
        self._document = document
        for key in document.tree:
            if key != "users":
                self.add((key,), "unknown key; a users file has the key users")
        users = document.tree.get("users")
        if not isinstance(users, Mapping):
            self.add(("users",), "must be a map of names to users")
            return {}
        return {name: user for name, tree in users.items() if (user := self._user(name, tree, document))}

    def _user(self, name: str, tree: object, document: Document) -> User | None:
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
        return User(
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
                self.add((*place, "environment", name), "this cannot be the name or the value of a variable")
            yield name, Value(value)


def read_users(
    content: bytes, path: Path, check_config: CheckConfig | None, methods: Collection[str], *, codes: bool
) -> tuple[Mapping[str, User], Sequence[Finding]]:
    """
    The users of the file *path*, and everything that is wrong with it: a file with findings is not to be used.

    *methods* are the names of those that are configured, *codes* says whether one-time codes are asked for.
    """
    reader = UsersReader(path, check_config, methods, codes=codes)
    users: Mapping[str, User] = {}
    try:
        users = reader.read(parse_yaml(content))
    except DocumentError as exc:
        reader.add((), exc.message, exc.position.line if exc.position else None)
    return users, reader.findings
