"""The store of remembered keys.

It is a persistent file that all processes of a server share. Without the secret beside it, the file reveals nothing:
names are stored as HMACs, and contents are encrypted and authenticated (AES-GCM) together with their name, so they
cannot be modified, extended or moved to another user or key.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
import secrets
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from containerssh.core.codes import AuthCode
from containerssh.core.errors import ConfigError, ContainerSSHError
from containerssh.core.instance import make_private
from containerssh.core.messages import Event

logger = logging.getLogger(__name__)

MOST_ENTRIES = 10_000
"""The maximum in total; the oldest are discarded."""

MOST_OF_A_USER = 32
"""The maximum per user; the oldest are discarded."""

LARGEST_ENTRY = 64 * 1024
"""Bytes; larger contents are not stored."""

_SECRET_BYTES = 32
_NONCE_BYTES = 12
_LOCK_WAIT = 2.0
_TABLE = (
    "CREATE TABLE IF NOT EXISTS entries"
    " (name BLOB PRIMARY KEY, user BLOB NOT NULL, since REAL NOT NULL, expires REAL NOT NULL, content BLOB NOT NULL)"
    " WITHOUT ROWID"
)


class StoreUnusable(ContainerSSHError):
    """The store cannot be read or written."""


@dataclass(frozen=True)
class Subject:
    """The user, key and context that an entry is valid for."""

    username: str
    key: bytes
    """The public key (RFC 4253 section 6.6)."""
    address: str
    """The only client address that it is valid for; empty: any."""
    context: str
    """The configuration of the questions."""

    def encoded(self) -> bytes:
        """Different for different subjects."""
        fields = (
            self.username.encode("utf-8", "surrogateescape"),
            self.key,
            self.address.encode(),
            self.context.encode(),
        )
        return b"".join(len(field).to_bytes(4, "big") + field for field in fields)


@dataclass(frozen=True)
class Remembered:
    """What answered questions have added to a login."""

    username: str
    authenticated_username: str
    metadata: Mapping[str, str]
    environment: Mapping[str, str]
    fingerprint: str
    """The key's."""
    address: str
    since: float
    """When the questions were answered (seconds since 1970)."""
    expires: float


class Store:
    """The store in the folder *folder*. Every method blocks: for a thread."""

    def __init__(self, folder: Path, *, patience: float = _LOCK_WAIT) -> None:
        """*patience* is how many seconds to wait for other processes."""
        self._folder = folder
        self._patience = patience

    @property
    def _secret_file(self) -> Path:
        return self._folder / "secret"

    @property
    def _entries_file(self) -> Path:
        return self._folder / "remembered.sqlite"

    def check(self) -> None:
        """
        Check that only this user can access the folder, if it exists. It is created with the first entry.

        Raises:
            ConfigError: others can access it.
        """
        try:
            if os.path.lexists(self._folder):
                make_private(self._folder)
        except OSError as exc:
            raise ConfigError(AuthCode.CONFIG_ERROR, f"Cannot use {self._folder}: {exc}") from exc

    def find(self, subject: Subject) -> Remembered | None:
        """
        The entry of *subject*; the caller checks its times.

        Raises:
            StoreUnusable: it cannot be read.
        """
        secret = self._secret()
        if secret is None:
            return None
        name = _mac(secret, b"entry", subject.encoded())
        with self._opened() as database:
            row = database.execute("SELECT content FROM entries WHERE name = ?", (name,)).fetchone()
        found = _unseal(secret, name, row[0]) if row else None
        if row and found is None:
            text = "The entry of a remembered key was altered or is incomplete; it is ignored"
            logger.warning(Event(AuthCode.REMEMBER_FAILED, text, username=subject.username))
        return found

    def keep(self, subject: Subject, content: Remembered, *, now: float) -> bool:
        """
        Remember *content*, and forget what has expired; False if it is too large.

        Raises:
            StoreUnusable: it cannot be written.
        """
        with _unusable(self._folder):
            make_private(self._folder)
            self._make_secret()
        secret = self._secret()
        if secret is None:
            raise StoreUnusable(AuthCode.REMEMBER_FAILED, f"{self._secret_file} has vanished")
        name = _mac(secret, b"entry", subject.encoded())
        sealed = _seal(secret, name, content)
        if len(sealed) > LARGEST_ENTRY:
            return False
        user = _user(secret, subject.username)
        with self._opened() as database:
            database.execute("BEGIN IMMEDIATE")
            database.execute("DELETE FROM entries WHERE expires <= ?", (now,))
            row = (name, user, content.since, content.expires, sealed)
            database.execute("REPLACE INTO entries VALUES (?, ?, ?, ?, ?)", row)
            oldest = (
                "DELETE FROM entries WHERE name IN (SELECT name FROM entries {} ORDER BY since DESC LIMIT -1 OFFSET ?)"
            )
            database.execute(oldest.format("WHERE user = ?"), (user, MOST_OF_A_USER))
            database.execute(oldest.format(""), (MOST_ENTRIES,))
            database.execute("COMMIT")
        return True

    def forget(self, subject: Subject) -> None:
        """Forget the entries of *subject*; raises like :meth:`find`."""
        if secret := self._secret():
            with self._opened() as database:
                database.execute("DELETE FROM entries WHERE name = ?", (_mac(secret, b"entry", subject.encoded()),))

    def entries(self) -> Sequence[Remembered]:
        """Everything that can still be read, by user; raises as :meth:`find`."""
        secret = self._secret()
        if secret is None or not self._entries_file.exists():
            return []
        with self._opened() as database:
            rows = database.execute("SELECT name, content FROM entries").fetchall()
        found = (_unseal(secret, name, content) for name, content in rows)
        return sorted((entry for entry in found if entry), key=lambda entry: (entry.username, entry.since))

    def revoke(self, username: str) -> int:
        """Forget all of *username*; how many entries that was. Raises as :meth:`find`."""
        secret = self._secret()
        if secret is None or not self._entries_file.exists():
            return 0
        with self._opened() as database:
            return database.execute("DELETE FROM entries WHERE user = ?", (_user(secret, username),)).rowcount

    def revoke_all(self) -> int:
        """
        Forget everything. The secret is replaced, so that copies of the file are useless as well.

        Raises:
            StoreUnusable: it cannot be written.
        """
        with _unusable(self._folder):
            self._secret_file.unlink(missing_ok=True)
        if not self._entries_file.exists():
            return 0
        with self._opened() as database:
            return database.execute("DELETE FROM entries").rowcount

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        # For each call, since the file may be removed at any time to forget everything.
        with _unusable(self._folder):
            database = sqlite3.connect(self._entries_file, timeout=self._patience, isolation_level=None)
            with closing(database):
                database.execute("PRAGMA secure_delete = ON")
                database.execute(_TABLE)
                yield database

    def _secret(self) -> bytes | None:
        """The secret; None if there is none, so that nothing can be read."""
        with _unusable(self._folder):
            try:
                secret = self._secret_file.read_bytes()
            except FileNotFoundError:
                return None
        if len(secret) != _SECRET_BYTES:
            raise StoreUnusable(AuthCode.REMEMBER_FAILED, f"{self._secret_file} is not what was written there")
        return secret

    def _make_secret(self) -> None:
        """Raises OSError. Several processes may do this at once: one of them wins."""
        if self._secret_file.exists():
            return
        draft = self._folder / f"secret.{secrets.token_hex(8)}"
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(_SECRET_BYTES))
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileExistsError):
                os.link(draft, self._secret_file)
        finally:
            draft.unlink()


@contextmanager
def _unusable(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.Error) as exc:
        raise StoreUnusable(AuthCode.REMEMBER_FAILED, f"cannot use {folder}: {exc}") from exc


def _mac(secret: bytes, purpose: bytes, data: bytes) -> bytes:
    return hmac.digest(secret, purpose + b"\0" + data, hashlib.sha256)


def _user(secret: bytes, username: str) -> bytes:
    return _mac(secret, b"user", username.encode("utf-8", "surrogateescape"))


def _seal(secret: bytes, name: bytes, content: Remembered) -> bytes:
    nonce = os.urandom(_NONCE_BYTES)
    text = json.dumps(asdict(content)).encode()
    return nonce + AESGCM(_mac(secret, b"seal", b"")).encrypt(nonce, text, name)


def _unseal(secret: bytes, name: bytes, sealed: object) -> Remembered | None:
    """None if it was not encrypted with this secret for this name."""
    if not isinstance(sealed, bytes) or not isinstance(name, bytes) or len(sealed) <= _NONCE_BYTES:
        return None
    try:
        text = AESGCM(_mac(secret, b"seal", b"")).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], name)
        fields: dict[str, Any] = json.loads(text)
        return Remembered(**fields)
    except (InvalidTag, ValueError, TypeError):
        # The last two: another version of this program wrote it.
        return None
