"""The messages of a GSSAPI authentication (RFC 4462 section 3); the authenticator interprets the tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from asyncssh.packet import SSHPacket, String

from containerssh.core.codes import SSHCode
from containerssh.core.errors import AuthFailed
from containerssh.core.gssapi import GSSAPIExchange, IntegrityProof
from containerssh.ssh.requests import Fields

RESPONSE = 60
TOKEN = 61
EXCHANGE_COMPLETE = 63
ERROR_TOKEN = 65
MIC = 66

_MECHANISMS = 16
_MECHANISM_BYTES = 128
# An Active Directory ticket can have 48 KiB.
_FIELD_BYTES = 64 * 1024
# A client that expects no further token sends its MIC right after its own token.
_AHEAD = 2


class Link(Protocol):
    """Sends messages, and passes incoming ones to ``received``."""

    @property
    def session_id(self) -> bytes: ...

    @property
    def ticket_context(self) -> object | None: ...

    def auth_gssapi(self, exchange: Exchange) -> None: ...

    def auth_message(self, kind: int, field: bytes) -> None: ...


@dataclass(frozen=True)
class _Message:
    kind: int
    field: bytes


class Exchange(GSSAPIExchange):
    """The exchange of one request: *head* is the request up to the method's name, *payload* what follows."""

    def __init__(self, link: Link, head: bytes, payload: bytes) -> None:
        """Raises ProtocolError or AuthFailed if the list of mechanisms is malformed or too long."""
        self._link = link
        self._message = String(link.session_id) + head
        self._mechanisms = read_mechanisms(payload)
        self._arrived: asyncio.Queue[_Message] = asyncio.Queue(_AHEAD)
        link.auth_gssapi(self)

    # -- from the adapter ---------------------------------------------------------------------------

    def received(self, kind: int, packet: SSHPacket) -> bool:
        """Process a message of the client; False if its type is not one that clients send."""
        if kind == EXCHANGE_COMPLETE:
            field = b""
        elif kind in (TOKEN, ERROR_TOKEN, MIC):
            field = packet.get_string()
        else:
            return False
        packet.check_end()
        # Messages beyond the capacity are dropped: the client sends them out of turn, and the attempt fails anyway.
        with suppress(asyncio.QueueFull):
            self._arrived.put_nowait(_Message(kind, field))
        return True

    # -- for the authenticator ------------------------------------------------------------------------

    @property
    def mechanisms(self) -> Sequence[bytes]:
        return self._mechanisms

    async def choose(self, mechanism: bytes) -> bytes:
        return await self._exchange(RESPONSE, mechanism, TOKEN)

    async def answer(self, token: bytes) -> bytes:
        return await self._exchange(TOKEN, token, TOKEN)

    async def finish(self, token: bytes = b"") -> IntegrityProof:
        return IntegrityProof(self._message, await self._exchange(TOKEN, token, MIC))

    def tell_error(self, token: bytes) -> None:
        self._link.auth_message(ERROR_TOKEN, token)

    async def _exchange(self, kind: int, field: bytes, wanted: int) -> bytes:
        """
        Send a message, unless the token is empty; return the field of the client's answer, which must be of type
        *wanted*.
        """
        if field:
            self._link.auth_message(kind, field)
        message = await self._arrived.get()
        if message.kind == ERROR_TOKEN:
            raise AuthFailed(SSHCode.AUTH_FAILED, "the client's GSSAPI library refused our token")
        if message.kind == EXCHANGE_COMPLETE:
            raise AuthFailed(SSHCode.AUTH_FAILED, "the client ended the exchange without an integrity code")
        if message.kind != wanted:
            raise AuthFailed(SSHCode.AUTH_FAILED, "the client sent a GSSAPI message out of order")
        if len(message.field) > _FIELD_BYTES:
            raise AuthFailed(SSHCode.AUTH_FAILED, "the client's GSSAPI message is too long")
        return message.field


class Continued(GSSAPIExchange):
    """A request of a client that has exchanged keys by GSSAPI (``gssapi-keyex``, section 4)."""

    def __init__(self, link: Link, head: bytes, payload: bytes) -> None:
        """
        Raises:
            ProtocolError: the payload is malformed.
            AuthFailed: the keys of this connection were not exchanged by GSSAPI.
        """
        fields = Fields(payload)
        code = fields.string()
        fields.end()
        if link.ticket_context is None:
            raise AuthFailed(SSHCode.AUTH_FAILED, "keys were not exchanged by a ticket")
        if len(code) > _FIELD_BYTES:
            raise AuthFailed(SSHCode.AUTH_FAILED, "the client's GSSAPI message is too long")
        self._context = link.ticket_context
        self._proof = IntegrityProof(String(link.session_id) + head, code)

    @property
    def exchanged(self) -> object:
        return self._context

    @property
    def mechanisms(self) -> Sequence[bytes]:
        return ()

    async def choose(self, mechanism: bytes) -> bytes:
        raise _settled()

    async def answer(self, token: bytes) -> bytes:
        raise _settled()

    async def finish(self, token: bytes = b"") -> IntegrityProof:
        return self._proof

    def tell_error(self, token: bytes) -> None:
        """Does nothing: the method has no error tokens."""


def _settled() -> AuthFailed:
    return AuthFailed(SSHCode.AUTH_FAILED, "the context is complete since the exchange of keys")


def read_mechanisms(payload: bytes) -> Sequence[bytes]:
    """
    The object identifiers of a request (RFC 4462 section 3.2).

    Raises:
        ProtocolError: the payload is malformed.
        AuthFailed: there are too many identifiers, or one is too long.
    """
    fields = Fields(payload)
    count = fields.uint32()
    if count > _MECHANISMS:
        raise AuthFailed(SSHCode.AUTH_FAILED, "too many GSSAPI mechanisms")
    mechanisms = tuple(fields.string() for _ in range(count))
    fields.end()
    if any(len(mechanism) > _MECHANISM_BYTES for mechanism in mechanisms):
        raise AuthFailed(SSHCode.AUTH_FAILED, "the name of a GSSAPI mechanism is too long")
    return mechanisms
