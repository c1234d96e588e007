"""Trusted certificate authorities for users, and the mapping of principals to users."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextvars import Context
from dataclasses import replace
from pathlib import Path

from containerssh.auth.authorized_keys import AuthorizedKey, UnusableLine, parse_principal
from containerssh.auth.watched_file import WatchedFile
from containerssh.auth.watched_value import WatchedValue
from containerssh.config.certificates import ANYBODY, CertificatesConfig, is_key_text
from containerssh.core.codes import AuthCode
from containerssh.core.errors import ConfigError
from containerssh.core.handlers import PublicKey
from containerssh.core.messages import Event
from containerssh.core.metadata import Restrictions
from containerssh.keys.certificate import parse_authorities
from containerssh.keys.public import check_public_key

logger = logging.getLogger(__name__)

MOST_LINES = 10_000
"""The maximum size of a file of principals."""


class Authorities:
    """The section ``auth.publicKey.certificates``."""

    def __init__(self, config: CertificatesConfig) -> None:
        """
        Read the authorities' keys.

        Raises:
            ValueError: a key is invalid; :meth:`CertificatesConfig.problems` reports it first.
        """
        self._config = config
        texts = "\n".join(source for source in config.trusted_user_ca_keys if is_key_text(source))
        self._fixed = parse_authorities(texts) if texts else frozenset()
        self._files = [
            WatchedValue(Path(source), "authorities' keys", _parse_authorities)
            for source in config.trusted_user_ca_keys
            if not is_key_text(source)
        ]
        for file in self._files:
            file.read()
        # Files of principals that other users can write to.
        self._told: set[Path] = set()
        self._rights = Restrictions(touch_required=not config.allow_no_touch)

    async def trust(self, authority: bytes) -> bool:
        """Whether this wire encoding is the key of a trusted authority."""
        if authority in self._fixed:
            return True
        for file in self._files:
            if authority in (await file.current() or ()):
                return True
        return False

    async def entries(self, authority: bytes, username: str) -> Sequence[AuthorizedKey]:
        """Which certificates of *authority* this user may use, as ``cert-authority`` lines."""
        entry = self.entry(authority, (username,))
        if self._config.authorized_principals_file:
            path = _path(self._config.authorized_principals_file, username)
            return await asyncio.to_thread(self._in_file, path, entry) if path else ()
        listed = self._config.authorized_principals
        principals = listed.get(username, listed.get(ANYBODY)) if username != ANYBODY else ()
        if principals is None:
            return (entry,)
        return (replace(entry, principals=tuple(name.replace("%u", username) for name in principals)),)

    def entry(self, authority: bytes, principals: tuple[str, ...]) -> AuthorizedKey:
        """A line for the certificates of *authority* with one of *principals*."""
        key = PublicKey(check_public_key(authority), authority)
        return AuthorizedKey(key, restrictions=self._rights, is_authority=True, principals=principals)

    def _in_file(self, path: Path, entry: AuthorizedKey) -> tuple[AuthorizedKey, ...]:
        file = WatchedFile(path)
        try:
            content = file.changed() or b""
        except ConfigError as exc:
            # A user without a file has no principals; that is no error.
            if not isinstance(exc.__cause__, FileNotFoundError):
                _tell(path, f"{exc}; nobody has the principals in it")
            return ()
        if file.writable_by_others:
            self._tell_once(path, f"{path} can be written by {file.writable_by_others}")
        return tuple(self._usable(path, content, entry))

    def _tell_once(self, path: Path, text: str) -> None:
        if path not in self._told and len(self._told) < MOST_LINES:
            self._told.add(path)
            Context().run(logger.warning, Event(AuthCode.FILE_PERMISSIONS, text, file=str(path)))

    def _usable(self, path: Path, content: bytes, entry: AuthorizedKey) -> Iterator[AuthorizedKey]:
        for number, line in enumerate(content.decode("utf-8", "replace").split("\n")[:MOST_LINES], 1):
            try:
                if found := parse_principal(line, entry):
                    yield found
            except UnusableLine as exc:
                _tell(path, f"Line {number} of {path} lets nobody in: {exc.kind}")


def _parse_authorities(content: bytes) -> frozenset[bytes]:
    return parse_authorities(content.decode("utf-8"))


def _path(pattern: str, username: str) -> Path | None:
    """The path of the user's file; None for a name that could lead to another folder or another user's file."""
    if "/" in username or "\0" in username or username in (".", ".."):
        return None
    return Path("%".join(piece.replace("%u", username) for piece in pattern.split("%%")))


def _tell(path: Path, text: str) -> None:
    Context().run(logger.warning, Event(AuthCode.KEY_LIST_FAILED, text, file=str(path)))
