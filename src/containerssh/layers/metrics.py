"""Counts connections, handshakes and authentications (``observability.md`` section 6.2)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from containerssh.core import metrics
from containerssh.core.counters import counters
from containerssh.core.errors import AuthFailed
from containerssh.core.gssapi import ExchangedKeys, GSSAPIExchange
from containerssh.core.handlers import (
    AuthMethod,
    ConnectionHandler,
    NetworkHandler,
    Notices,
    PartialSuccess,
    Prompts,
    PublicKey,
)
from containerssh.core.layer import NetworkLayer, ServerLayer
from containerssh.core.metadata import AuthAttempt, ConnectionMetadata, Login

_TYPES = {AuthMethod.PUBLIC_KEY: "pubkey", AuthMethod.GSSAPI: "gssapi"}
"""Methods whose label is not their name."""


@dataclass(eq=False)
class MetricsServer(ServerLayer):
    country_of: Callable[[str], str]
    """The country of an IP address, two capital letters (ISO 3166-1)."""
    authorizes: bool
    """Whether logins need authorization after authentication."""

    @asynccontextmanager
    async def accept(self, meta: ConnectionMetadata) -> AsyncIterator[NetworkHandler]:
        country = self.country_of(meta.remote_address.host)
        async with self.inner.accept(meta) as inner:
            counters.add(metrics.CONNECTIONS, country=country)
            counters.add(metrics.CURRENT_CONNECTIONS, country=country)
            try:
                yield MetricsNetwork(inner, country, self.authorizes)
            finally:
                counters.add(metrics.CURRENT_CONNECTIONS, -1, country=country)


@dataclass(eq=False)
class MetricsNetwork(NetworkLayer):
    country: str
    authorizes: bool

    async def authenticate_password(self, attempt: AuthAttempt, password: bytes) -> Login:
        with self._counting_no("password"):
            return await super().authenticate_password(attempt, password)

    async def authenticate_public_key(self, attempt: AuthAttempt, key: PublicKey) -> Login:
        with self._counting_no("pubkey"):
            return await super().authenticate_public_key(attempt, key)

    async def authenticate_interactive(self, attempt: AuthAttempt, prompts: Prompts) -> Login:
        with self._counting_no("keyboard-interactive"):
            return await super().authenticate_interactive(attempt, prompts)

    async def authenticate_gssapi(self, attempt: AuthAttempt, exchange: GSSAPIExchange) -> Login:
        with self._counting_no("gssapi"):
            return await super().authenticate_gssapi(attempt, exchange)

    async def exchange_keys(self, meta: ConnectionMetadata, token: bytes, digest: bytes) -> ExchangedKeys:
        with self._counting_no("gssapi"):
            return await super().exchange_keys(meta, token, digest)

    async def authenticated(
        self, login: Login, method: AuthMethod, before: PartialSuccess | None, key: PublicKey | None = None
    ) -> Login | PartialSuccess:
        # Only now: an accepted public key still had to be proved by a signature.
        counters.add(metrics.AUTH_SUCCESS, authtype=_TYPES.get(method, method), country=self.country)
        if not self.authorizes:
            return await super().authenticated(login, method, before, key)
        with self._counting_no("authorization"):
            answer = await super().authenticated(login, method, before, key)
        if isinstance(answer, Login):
            counters.add(metrics.AUTH_SUCCESS, authtype="authorization", country=self.country)
        return answer

    @contextmanager
    def _counting_no(self, kind: str) -> Iterator[None]:
        try:
            yield
        except AuthFailed:
            counters.add(metrics.AUTH_FAILURES, authtype=kind, country=self.country)
            raise

    def handshake_failed(self, error: Exception) -> None:
        counters.add(metrics.FAILED_HANDSHAKES, country=self.country)
        super().handshake_failed(error)

    @asynccontextmanager
    async def login(self, login: Login, notices: Notices) -> AsyncIterator[ConnectionHandler]:
        async with super().login(login, notices) as handler:
            counters.add(metrics.HANDSHAKES, country=self.country)
            yield handler
