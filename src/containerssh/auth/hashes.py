"""Password hashes of the users file: argon2, bcrypt and scrypt, each in its usual text form."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass

KINDS = ("argon2id", "bcrypt", "scrypt")
"""What :func:`hash_password` can make."""

MOST_MEMORY = 256 * 1024 * 1024
"""Bytes that judging one password may take."""

_ARGON2 = re.compile(
    r"\$argon2(id|i|d)\$v=19\$m=(?P<memory>\d{1,9}),t=(?P<time>\d{1,9}),p=(?P<lanes>\d{1,9})"
    r"\$(?P<salt>[A-Za-z0-9+/]{11,86})\$(?P<hash>[A-Za-z0-9+/]{16,171})",
    re.ASCII,
)
_BCRYPT = re.compile(r"\$2[aby]\$(?P<cost>\d\d)\$[./A-Za-z0-9]{53}", re.ASCII)
_SCRYPT = re.compile(
    r"\$scrypt\$ln=(?P<log>\d{1,2}),r=(?P<size>\d{1,4}),p=(?P<lanes>\d{1,4})"
    r"\$(?P<salt>[A-Za-z0-9+/]{2,86})\$(?P<hash>[A-Za-z0-9+/]{22,171})",
    re.ASCII,
)

_BCRYPT_LONGEST = 72


@dataclass(frozen=True)
class PasswordHash:
    """A hash that was checked when the file was read."""

    text: str
    _verify: Callable[[bytes], bool]

    def __repr__(self) -> str:
        return "PasswordHash(...)"

    def verify(self, password: bytes) -> bool:
        """Whether *password* is the one; takes its time (tens of milliseconds), and never raises."""
        return self._verify(password)


def parse_hash(text: str) -> PasswordHash:
    """
    The hash that *text* holds.

    Raises:
        ValueError: it is none, of a kind that is not known, or would take too much time or memory. The text of the
            error does not repeat it.
    """
    if match := _ARGON2.fullmatch(text):
        return _argon2_hash(text, match)
    if match := _BCRYPT.fullmatch(text):
        return _bcrypt_hash(text, match)
    if match := _SCRYPT.fullmatch(text):
        return _scrypt_hash(text, match)
    raise ValueError(
        "not a password hash: argon2 ($argon2id$), bcrypt ($2b$) and scrypt ($scrypt$) are understood; "
        "make one with: containerssh hash-password"
    )


def hash_password(password: str, kind: str = "argon2id") -> str:
    """
    A hash of *password* for the users file, with a salt of its own.

    Raises:
        ValueError: *kind* is none of :data:`KINDS`; or the password is too long for bcrypt.
    """
    data = password.encode()
    match kind:
        case "argon2id":
            import argon2

            return argon2.PasswordHasher().hash(data)
        case "bcrypt":
            import bcrypt

            if len(data) > _BCRYPT_LONGEST:
                raise ValueError(f"bcrypt looks at the first {_BCRYPT_LONGEST} bytes only; use argon2id")
            return bcrypt.hashpw(data, bcrypt.gensalt(12)).decode()
        case "scrypt":
            salt = secrets.token_bytes(16)
            digest = hashlib.scrypt(data, salt=salt, n=1 << 16, r=8, p=1, maxmem=MOST_MEMORY, dklen=32)
            return f"$scrypt$ln=16,r=8,p=1${_encode(salt)}${_encode(digest)}"
        case _:
            raise ValueError(f"unknown kind of hash {kind!r}; known are {', '.join(KINDS)}")


def _argon2_hash(text: str, match: re.Match[str]) -> PasswordHash:
    # Here, since a server whose users have no such hashes starts faster without; bcrypt likewise.
    import argon2

    memory, time, lanes = int(match["memory"]), int(match["time"]), int(match["lanes"])
    if not (1 <= lanes <= 16 and 8 * lanes <= memory <= MOST_MEMORY // 1024 and 1 <= time <= 32):
        raise ValueError(f"argon2 needs p from 1 to 16, m from 8*p to {MOST_MEMORY // 1024}, t from 1 to 32")
    _decode(match["salt"]), _decode(match["hash"])
    hasher = argon2.PasswordHasher()
    wrong = (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError)

    def verify(password: bytes) -> bool:
        try:
            return hasher.verify(text, password)
        except wrong:
            return False

    return PasswordHash(text, verify)


def _bcrypt_hash(text: str, match: re.Match[str]) -> PasswordHash:
    import bcrypt

    if not 4 <= int(match["cost"]) <= 15:
        raise ValueError("bcrypt needs a cost from 4 to 15")

    def verify(password: bytes) -> bool:
        try:
            # What follows never counted, and the library refuses it.
            return bcrypt.checkpw(password[:_BCRYPT_LONGEST], text.encode())
        except ValueError:
            return False

    return PasswordHash(text, verify)


def _scrypt_hash(text: str, match: re.Match[str]) -> PasswordHash:
    log, size, lanes = int(match["log"]), int(match["size"]), int(match["lanes"])
    if not (1 <= log <= 20 and 1 <= size <= 64 and 1 <= lanes <= 16) or 128 * size << log > MOST_MEMORY // 2:
        raise ValueError("scrypt needs ln from 1 to 20, r from 1 to 64, p from 1 to 16, and at most 128 MiB")
    salt, wanted = _decode(match["salt"]), _decode(match["hash"])

    def verify(password: bytes) -> bool:
        found = hashlib.scrypt(password, salt=salt, n=1 << log, r=size, p=lanes, maxmem=MOST_MEMORY, dklen=len(wanted))
        return hmac.compare_digest(found, wanted)

    return PasswordHash(text, verify)


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode().rstrip("=")


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        raise ValueError("a part of the hash is not in base64") from None
