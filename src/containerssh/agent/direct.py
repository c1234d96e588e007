"""
The agent dials back over the network: one listener for all logins of a process, TLS in both directions pinned.

An agent says a *ticket* first, in clear: random bytes that only its own login's link has brought it, good for one
connection. A stranger has none, and costs no cryptography. Then comes TLS 1.3: the agent knows the gateway by the hash
of its certificate, the gateway knows the agent by a certificate that was made for this login alone.
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
from containerssh.core.flag import Flag
from containerssh.core.streams import CHUNK, ByteStream
from containerssh.core.wire import Wire, watch_peer

_HANDSHAKE_LIMIT = 5.0
_CLOSE_LIMIT = 1.0
_HELD = 512 * 1024
"""Bytes from an agent that are held before nothing more is received."""


class DirectListener:
    """Where agents dial; made by :func:`direct_listener`."""

    def __init__(self, listener: socket.socket) -> None:
        self._strangers = Strangers(listener, self._welcome)
        self._identity = Identity.new()
        self._pin = hashlib.sha256(self._identity.certificate).digest()
        self._invitations: dict[bytes, Invitation] = {}

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._strangers.port

    @property
    def is_waiting(self) -> bool:
        """Whether any of those who were invited is yet to come."""
        return self._strangers.wanted

    @asynccontextmanager
    async def invite(self, host: str) -> AsyncIterator[Invitation]:
        """
        Let one agent connect, which sees us as *host*. At the end its connection is closed, or refused if it comes.
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
        """Stop listening. Connections that were taken in are their invitations'."""
        self._strangers.close()

    def _welcome(self, ticket: bytes, connection: socket.socket) -> None:
        # Half of it is looked up, half of it compared without telling by the time how much of it was right.
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
    """What one login's agent is told, and its connection when it comes."""

    def __init__(
        self, context: ssl.SSLContext, ticket: bytes, agent: Identity, told: bytes, forget: Callable[[], None]
    ) -> None:
        self._forget = forget
        self.ticket = ticket
        self.identity = agent
        """What the agent has to show."""
        self._told = told
        self._context = context
        self._arrived: asyncio.Future[DirectStream] = asyncio.get_running_loop().create_future()
        self._greeting: asyncio.Task[None] | None = None
        self._begun = False

    def request(self, within: timedelta) -> bytes:
        """A DIRECT's payload; the agent is to be connected *within*."""
        return pack_word(max(1, int(within / timedelta(milliseconds=1)))) + self._told

    async def arrived(self) -> DirectStream:
        """
        The agent's connection.

        Raises:
            ConnectionError: who came with its ticket could not prove to be it. Nobody else can come.
        """
        return await asyncio.shield(self._arrived)

    def greet(self, connection: socket.socket) -> None:
        """*connection*, ours from now on, has shown the ticket."""
        self._greeting = asyncio.create_task(self._greet(connection))
        # A task that is cancelled before its first step would leave it open; after that it is a transport's.
        self._greeting.add_done_callback(lambda _: None if self._begun else connection.close())

    async def _greet(self, connection: socket.socket) -> None:
        self._begun = True
        wire = Wire()
        try:
            watch_peer(connection)
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: wire, connection, ssl=self._context, ssl_handshake_timeout=_HANDSHAKE_LIMIT
            )
        except OSError as exc:
            connection.close()
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
            # Perhaps nobody asks.
            self._arrived.exception()

    async def withdraw(self) -> None:
        """Close the connection if the agent has come, and let nobody in any more; safe to call twice."""
        self._forget()
        if self._greeting is not None:
            self._greeting.cancel()
            await asyncio.gather(self._greeting, return_exceptions=True)
        if not self._arrived.done():
            self._arrived.cancel()
        elif not self._arrived.cancelled() and self._arrived.exception() is None:
            await self._arrived.result().close()


class DirectStream(ByteStream):
    """An agent's connection. It ends in both directions at once: the link knows no other way."""

    def __init__(self, wire: Wire) -> None:
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
        """There is no such thing here; streams within the link have ends of their own."""

    async def close(self) -> None:
        """What was written is sent before, if the agent takes it soon."""
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
        OSError: none is, or the address is not ours.
    """
    listener = DirectListener(listening_socket(host, ports))
    try:
        yield listener
    finally:
        listener.close()
