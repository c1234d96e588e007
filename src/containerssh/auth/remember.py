"""Keys that replace keyboard-interactive authentication for a period (``auth.remember``)."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from containerssh.auth.certificates import certificate_of
from containerssh.auth.remembered import Remembered, Store, StoreUnusable, Subject
from containerssh.config.auth import AuthConfig
from containerssh.config.remember import RememberConfig
from containerssh.core.codes import AuthCode
from containerssh.core.errors import AuthFailed, describe
from containerssh.core.handlers import PublicKey
from containerssh.core.messages import Event
from containerssh.core.metadata import AuthAttempt, Login, Restrictions, Texts, Value

logger = logging.getLogger(__name__)

_CLOCKS_DIFFER = 60.0
"""Seconds by which the clock may have been set back."""


class Memory:
    """Remembers the result of answered questions for the key that was used on the same connection."""

    def __init__(
        self, config: RememberConfig, store: Store, context: str, *, clock: Callable[[], float] = time.time
    ) -> None:
        """*context* identifies the configuration of the questions; entries are valid for the same one only."""
        self._config = config
        self._store = store
        self._context = context
        self._clock = clock

    async def recall(self, login: Login, key: PublicKey) -> Login | None:
        """The remembered result of the questions for *login*; None if they have to be asked. Never raises."""
        try:
            found = await asyncio.to_thread(self._store.find, self._subject(login, key))
        except StoreUnusable as exc:
            _tell(exc)
            return None
        if found is None or not self._holds(found):
            return None
        since = datetime.fromtimestamp(found.since, UTC).isoformat(timespec="seconds")
        text = f"The remembered key replaces the questions that were answered at {since}"
        logger.info(Event(AuthCode.REMEMBERED, text, username=login.username, fingerprint=key.fingerprint))
        metadata = {name: Value(value) for name, value in found.metadata.items()}
        environment = {name: Value(value) for name, value in found.environment.items()}
        attempt = AuthAttempt(login.remote_address, login.connection_id, username=login.username)
        earned = Login.of(attempt, found.authenticated_username)
        return earned.with_values({**metadata, "REMEMBERED_SINCE": Value(since)}, environment, {})

    async def keep(self, before: Login, login: Login, key: PublicKey) -> None:
        """
        Remember what the questions have added to *login*, compared with *before*, after the login was authorized.
        Sensitive values and files are not stored. Never raises.
        """
        if login.restrictions != Restrictions() or login.config_overlay:
            # A remembered login without them would have more rights.
            return
        now = self._clock()
        content = Remembered(
            username=login.username,
            authenticated_username=login.authenticated_username,
            metadata=_gained(before.metadata, login.metadata),
            environment=_gained(before.environment, login.environment),
            fingerprint=key.fingerprint,
            address=login.remote_address.host if self._config.bind_address else "",
            since=now,
            expires=now + self._config.period.total_seconds(),
        )
        try:
            kept = await asyncio.to_thread(self._store.keep, self._subject(login, key), content, now=now)
        except StoreUnusable as exc:
            _tell(exc)
            return
        if not kept:
            text = "What the questions have earned is too large to be remembered"
            logger.warning(Event(AuthCode.REMEMBER_FAILED, text, username=login.username))

    async def forget(self, login: Login, key: PublicKey) -> None:
        """Forget the key, so that the questions are asked again. Never raises."""
        try:
            await asyncio.to_thread(self._store.forget, self._subject(login, key))
        except StoreUnusable as exc:
            _tell(exc)

    def _holds(self, found: Remembered) -> bool:
        now = self._clock()
        ends = min(found.expires, found.since + self._config.period.total_seconds())
        return found.since - _CLOCKS_DIFFER <= now < ends

    def _subject(self, login: Login, key: PublicKey) -> Subject:
        # Certificates are renewed often, but their keys are not; the new certificate has been checked itself.
        certificate = certificate_of(key)
        address = login.remote_address.host if self._config.bind_address else ""
        return Subject(login.username, certificate.key if certificate else key.blob, address, self._context)


class AnyKey:
    """Accepts any key as the first method; questions must follow, whose result is remembered for the key."""

    async def authenticate_public_key(self, attempt: AuthAttempt, key: PublicKey) -> Login:
        """
        A login without an authenticated name.

        Raises:
            AuthFailed: it is a certificate, which no authority has been trusted for.
        """
        if certificate_of(key):
            raise AuthFailed(AuthCode.FAILED, "certificates are for trusted authorities to judge")
        return Login.of(attempt, "")


def open_memory(auth: AuthConfig, state: Path) -> Memory:
    """
    The store in the folder *state*, shared by all its processes. Blocks.

    Raises:
        ConfigError: others can access the folder in it.
    """
    store = Store(state / "remembered")
    store.check()
    asked = auth.model_dump(mode="json", by_alias=True, include={"keyboard_interactive", "ldap", "users"})
    context = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
    return Memory(auth.remember, store, context)


def _gained(before: Texts, after: Texts) -> dict[str, str]:
    return {name: value.value for name, value in after.items() if not value.sensitive and before.get(name) != value}


def _tell(error: StoreUnusable) -> None:
    text = f"Remembered keys are not available, all users are asked their questions: {describe(error)}"
    logger.error(Event(AuthCode.REMEMBER_FAILED, text))
