"""Kerberos authentication: by ticket (RFC 4462), and by a password that the KDC verifies."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from containerssh.auth.kerberos.helper import Attempt, Helper, decode, encode, open_helper
from containerssh.auth.kerberos.limits import TOKEN
from containerssh.auth.watched_file import tell_of_others
from containerssh.config.auth import KerberosConfig
from containerssh.core.codes import AuthCode
from containerssh.core.errors import AuthFailed
from containerssh.core.gssapi import ExchangedKeys, GSSAPIExchange
from containerssh.core.messages import Event
from containerssh.core.metadata import AuthAttempt, ConnectionMetadata, Login, Value

logger = logging.getLogger(__name__)

KERBEROS = bytes.fromhex("06092a864886f712010202")
"""1.2.840.113554.1.2.2 in DER: the only mechanism. SPNEGO must not be used with SSH (RFC 4462 section 7.3)."""

_PRINCIPAL = re.compile(r"(?P<name>[^@\\\0-\x20\x7f]{1,256})@(?P<realm>[^@/\\\0-\x20\x7f]{1,256})")
_ROUNDS = 8
_PASSWORD_BYTES = 1024
_PATIENCE = 30.0
# A KDC detects an unknown user faster than a wrong password; both refusals take at least this long.
_REFUSAL_TAKES = 0.25


@dataclass(frozen=True)
class _Context:
    """The result of a GSSAPI key exchange."""

    principal: str
    tickets: bytes = field(repr=False)
    exported: str = field(repr=False)
    """The exported security context, which contains its keys."""


class KerberosAuthenticator:
    """Verifies tickets and passwords; created by :func:`open_kerberos`."""

    def __init__(self, config: KerberosConfig, helper: Helper) -> None:
        self._config = config
        self._helper = helper

    async def authenticate_gssapi(self, attempt: AuthAttempt, exchange: GSSAPIExchange, undo: AsyncExitStack) -> Login:
        """
        Authenticate the principal of the client's ticket.

        Raises:
            AuthFailed: the ticket is refused, or the client gives up.
            AuthUnavailable: the libraries or the keytab failed.
        """
        if exchange.exchanged is not None:
            return await self._by_exchanged_keys(attempt, exchange, exchange.exchanged)
        if KERBEROS not in exchange.mechanisms:
            raise AuthFailed(AuthCode.FAILED, "the client does not offer Kerberos")
        token = await exchange.choose(KERBEROS)
        async with self._helper.attempt() as child:
            try:
                async with asyncio.timeout(_PATIENCE):
                    answer = await self._judge(child, exchange, token, attempt.remote_address.host)
            except TimeoutError:
                raise AuthFailed(AuthCode.FAILED, "the client took too long") from None
        return self._login(attempt, answer.get("principal"), decode(answer, "tickets"))

    async def _judge(self, child: Attempt, exchange: GSSAPIExchange, token: bytes, address: str) -> dict[str, object]:
        for _ in range(_ROUNDS):
            if len(token) > TOKEN:
                raise AuthFailed(AuthCode.FAILED, "the client's token is too long")
            answer = await child.ask(do="accept", token=encode(token), address=address)
            if answer.get("failed"):
                exchange.tell_error(decode(answer, "token"))
                await child.result()
            elif answer.get("complete"):
                proof = await exchange.finish(decode(answer, "token"))
                return dict(await child.ask(message=encode(proof.message), code=encode(proof.code[:TOKEN])))
            else:
                token = await exchange.answer(decode(answer, "token"))
        raise AuthFailed(AuthCode.FAILED, "the exchange of tokens does not end")

    async def exchange_keys(self, meta: ConnectionMetadata, token: bytes, digest: bytes) -> ExchangedKeys:
        """
        Perform the server's part of a GSSAPI key exchange.

        Raises:
            AuthFailed: the ticket is refused.
            AuthUnavailable: the libraries or the keytab failed.
        """
        if not token or len(token) > TOKEN:
            raise AuthFailed(AuthCode.FAILED, "the client's token is missing, or too long")
        async with self._helper.attempt() as child:
            order = {"token": encode(token), "digest": encode(digest), "address": meta.remote_address.host}
            answer = await child.ask(do="exchange", **order)
            owner = await child.result()
        context = _Context(str(owner.get("principal")), decode(owner, "tickets"), str(answer.get("context", "")))
        return ExchangedKeys(decode(answer, "token"), decode(answer, "code"), context)

    async def _by_exchanged_keys(self, attempt: AuthAttempt, exchange: GSSAPIExchange, context: object) -> Login:
        if not isinstance(context, _Context):
            raise AuthFailed(AuthCode.FAILED, "keys were exchanged by somebody else's ticket")
        proof = await exchange.finish()
        async with self._helper.attempt() as child:
            order = {"context": context.exported, "message": encode(proof.message), "code": encode(proof.code[:TOKEN])}
            answer = await child.ask(do="verify", **order)
        if answer.get("principal") != context.principal:
            raise AuthFailed(AuthCode.FAILED, "the context is another principal's")
        return self._login(attempt, context.principal, context.tickets)

    async def authenticate_password(self, attempt: AuthAttempt, password: bytes) -> Login:
        """
        Authenticate the principal of the user's name in the default realm.

        Raises:
            AuthFailed: the KDC refuses the password or the account.
            AuthUnavailable: the KDC did not respond, or could not prove its identity.
        """
        earliest = asyncio.get_running_loop().time() + _REFUSAL_TAKES
        try:
            return await self._judge_password(attempt, password)
        except AuthFailed:
            await asyncio.sleep(max(0.0, earliest - asyncio.get_running_loop().time()))
            raise

    async def _judge_password(self, attempt: AuthAttempt, password: bytes) -> Login:
        # The library would truncate at a NUL, and prompt on a terminal for an empty password.
        if not password or b"\0" in password or len(password) > _PASSWORD_BYTES:
            raise AuthFailed(AuthCode.FAILED, "no password that a principal can have")
        if not _PRINCIPAL.fullmatch(f"{attempt.username}@{self._helper.realm}"):
            raise AuthFailed(AuthCode.FAILED, "no name that a principal of the default realm can have")
        async with self._helper.attempt() as child:
            answer = await child.ask(do="password", user=attempt.username, password=encode(password))
        return self._login(attempt, answer.get("principal"), decode(answer, "tickets"))

    def _login(self, attempt: AuthAttempt, principal: object, tickets: bytes) -> Login:
        match = _PRINCIPAL.fullmatch(principal) if isinstance(principal, str) else None
        if match is None or match["name"].startswith("WELLKNOWN/"):
            raise AuthFailed(AuthCode.FAILED, "the principal has a name that cannot be used")
        assert isinstance(principal, str)
        # The same name in another realm is a different user.
        name = match["name"] if match["realm"] == self._helper.realm else principal
        if self._config.enforce_username and name != attempt.username:
            text = f"the principal {principal} may not log in as {attempt.username}"
            raise AuthFailed(AuthCode.KERBEROS_VERIFY_ERROR, text)
        metadata = {"KERBEROS_PRINCIPAL": Value(principal), "KERBEROS_REALM": Value(match["realm"])}
        login = Login.of(attempt, name)
        if not tickets:
            return login.with_values(metadata, {}, {})
        path = self._config.credential_cache_path
        return login.with_values(
            metadata, {"KRB5CCNAME": Value(f"FILE:{path}")}, {path: Value(tickets, sensitive=True)}
        )


@asynccontextmanager
async def open_kerberos(config: KerberosConfig) -> AsyncIterator[KerberosAuthenticator]:
    """
    An authenticator for the lifetime of the server, with a helper process that ends with the scope.

    Raises:
        ConfigError: the keytab, the libraries or the realm cannot be used.
    """
    acceptor = {"any": "", "host": f"host/{socket.gethostname()}"}.get(config.acceptor, config.acceptor)
    async with open_helper(config, acceptor) as helper:
        known = {owner if "@" in acceptor else owner.rpartition("@")[0] for owner in helper.owners}
        if acceptor and acceptor not in known:
            text = f"the keytab {config.keytab} has no key of the acceptor {acceptor}: every ticket will be refused"
            logger.warning(Event(AuthCode.CONFIG_ERROR, text))
        await asyncio.to_thread(tell_of_others, Path(config.keytab), "keytab")
        yield KerberosAuthenticator(config, helper)
