"""
Direct connections of agents over the network: one listener for all logins of a process, and mutually pinned TLS.

An agent first sends a *ticket* in clear text: random bytes that it received over its login's link, valid for one
connection. Unknown clients have none, and cause no cryptographic operations. Then follows TLS 1.3. The agent verifies
the gateway by the hash of its certificate; the gateway verifies the agent by a certificate created for this login.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import socket
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial

from containerssh.agent.codec import TICKET_NAME_SIZE, TICKET_SIZE, pack_bytes, pack_text, pack_word
from containerssh.agent.identity import Identity, server_context
from containerssh.agent.strangers import Strangers, listening_socket
from containerssh.agent.tls import AgentTLS
from containerssh.core.flag import Flag
from containerssh.core.streams import CHUNK, ByteStream
from containerssh.core.wire import watch_peer

_HANDSHAKE_LIMIT = 5.0
_CLOSE_LIMIT = 1.0
_HELD = 512 * 1024
"""Buffered bytes of an agent at which receiving is paused."""


class DirectListener:
    """The listener for agents; created by :func:`direct_listener`."""

    def __init__(self, listener: socket.socket) -> None:
        self._strangers = Strangers(listener, self._welcome)
        self._identity = Identity.new()
        self._pin = hashlib.sha256(self._identity.certificate).digest()
        self._invitations: dict[bytes, Invitation] = {}

    @property
    def port(self) -> int:
        """The TCP port that it listens on."""
        return self._strangers.port

    @property
    def is_waiting(self) -> bool:
        """Whether any invited agent has not connected yet."""
        return self._strangers.wanted

    @asynccontextmanager
    async def invite(self, host: str) -> AsyncIterator[Invitation]:
        """
        Invite one agent, which is to connect to *host*. At the end, its connection is closed, or refused if it comes
        later.
        """
        agent = Identity.new()
        ticket = secrets.token_bytes(TICKET_SIZE)
        told = b"".join(
            (
                pack_text(host),
                self.port.to_bytes(2, "big"),
                ticket,
                self._pin,
                pack_bytes(agent.certificate),
                pack_bytes(agent.key),
            )
        )
        name = ticket[:TICKET_NAME_SIZE]
        invitation = Invitation(server_context(self._identity, agent), ticket, agent, told, partial(self._forget, name))
        self._invitations[name] = invitation
        self._strangers.wanted = True
        try:
            yield invitation
        finally:
            await invitation.withdraw()

    def close(self) -> None:
        """Stop listening. Accepted connections belong to their invitations."""
        self._strangers.close()

    def _welcome(self, ticket: bytes, connection: socket.socket) -> None:
        # One half is looked up, the other compared in constant time.
        name = ticket[:TICKET_NAME_SIZE]
        invitation = self._invitations.get(name)
        if invitation is None or not hmac.compare_digest(invitation.ticket, ticket):
            connection.close()
            return
        self._forget(name)
        invitation.greet(connection)

    def _forget(self, name: bytes) -> None:
        self._invitations.pop(name, None)
        self._strangers.wanted = bool(self._invitations)


class Invitation:
    """The credentials of one login's agent, and its connection when it comes."""

    def __init__(
        self, context: ssl.SSLContext, ticket: bytes, agent: Identity, told: bytes, forget: Callable[[], None]
    ) -> None:
        self._forget = forget
        self.ticket = ticket
        self.identity = agent
        """The certificate that the agent has to present."""
        self._told = told
        self._context = context
        self._arrived: asyncio.Future[DirectStream] = asyncio.get_running_loop().create_future()
        self._greeting: asyncio.Task[None] | None = None
        self._begun = False

    def request(self, within: timedelta) -> bytes:
        """The payload of a DIRECT; the agent must connect within *within*."""
        return pack_word(max(1, int(within / timedelta(milliseconds=1)))) + self._told

    async def arrived(self) -> DirectStream:
        """
        The agent's connection.

        Raises:
            ConnectionError: a client with its ticket failed the TLS handshake. The ticket is used up.
        """
        return await asyncio.shield(self._arrived)

    def greet(self, connection: socket.socket) -> None:
        """Take over *connection*, which has presented the ticket."""
        self._greeting = asyncio.create_task(self._greet(connection))
        # A task that is cancelled before its first step would leave it open; later, a transport owns it.
        self._greeting.add_done_callback(lambda _: None if self._begun else connection.close())

    async def _greet(self, connection: socket.socket) -> None:
        self._begun = True
        wire = AgentTLS(self._context)
        try:
            watch_peer(connection)
            await asyncio.get_running_loop().connect_accepted_socket(lambda: wire, connection)
            await wire.handshake(_HANDSHAKE_LIMIT)
        except OSError as exc:
            wire.abort()
            self._fail(str(exc))
            return
        except asyncio.CancelledError:
            wire.abort()
            raise
        if self._arrived.done():
            wire.abort()
        elif wire.peer_certificate != self.identity.certificate:
            wire.abort()
            self._fail("it showed another certificate")
        else:
            self._arrived.set_result(DirectStream(wire))

    def _fail(self, why: str) -> None:
        if not self._arrived.done():
            self._arrived.set_exception(ConnectionResetError(f"no TLS with the agent: {why}"))
            # There may be no caller to receive it.
            self._arrived.exception()

    async def withdraw(self) -> None:
        """Close the agent's connection, if any, and accept none from now on; safe to call twice."""
        self._forget()
        if self._greeting is not None:
            self._greeting.cancel()
            await asyncio.gather(self._greeting, return_exceptions=True)
        if not self._arrived.done():
            self._arrived.cancel()
        elif not self._arrived.cancelled() and self._arrived.exception() is None:
            await self._arrived.result().close()


class DirectStream(ByteStream):
    """An agent's connection. Both directions end together, since a link has no half close."""

    def __init__(self, wire: AgentTLS) -> None:
        self._wire = wire
        self._received: deque[bytes] = deque()
        self._held = 0
        self._paused = False
        self._news = Flag()
        self._ended = False
        self._failure: Exception | None = None
        wire.pass_on(self._take, self._lost)

    async def read(self) -> bytes:
        while not self._received:
            if self._failure is not None:
                raise ConnectionResetError(str(self._failure) or "the connection broke")
            if self._ended:
                return b""
            self._news.clear()
            await self._news.wait()
        data = self._received.popleft()
        self._held -= len(data)
        if self._paused and self._held <= _HELD // 2:
            self._paused = False
            self._wire.resume()
        return data

    async def write(self, data: bytes) -> None:
        self._wire.write(data)
        await self._wire.drain()

    async def write_eof(self) -> None:
        """Does nothing; streams within the link have ends of their own."""

    async def close(self) -> None:
        """Close; sends what was written before, if the agent reads it soon."""
        await self._wire.close(_CLOSE_LIMIT)

    def _take(self, data: bytes) -> None:
        for start in range(0, len(data), CHUNK):
            self._received.append(data[start : start + CHUNK])
        self._held += len(data)
        if self._held > _HELD and not self._paused:
            self._paused = True
            self._wire.pause()
        self._news.set()

    def _lost(self, error: Exception | None) -> None:
        self._ended, self._failure = True, error
        self._news.set()


@asynccontextmanager
async def direct_listener(host: str, ports: Iterable[int]) -> AsyncIterator[DirectListener]:
    """
    Listen on the numeric address *host*, at the first of *ports* that is free (0: any).

    Raises:
        OSError: no port is free, or the machine does not have the address.
    """
    listener = DirectListener(listening_socket(host, ports))
    try:
        yield listener
    finally:
        listener.close()
