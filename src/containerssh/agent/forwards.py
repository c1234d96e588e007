"""Connections to and from the container's network, through the agent.

A malicious agent can only end its own link. It can announce a limited number of connections, of requested listeners
only, and each reaches the client through :data:`~containerssh.core.handlers.Incoming`.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING

from containerssh.agent.codec import (
    MAX_PENDING,
    Fields,
    Frame,
    FrameType,
    Refused,
    broken,
    pack_text,
    pack_texts,
    pack_word,
)
from containerssh.core.codes import AgentCode, GeneralCode, SecurityCode
from containerssh.core.errors import BackendError, ContainerSSHError, Rejected, describe
from containerssh.core.forwarding import AddressRules, Network, address_of
from containerssh.core.handlers import Incoming, Listener
from containerssh.core.messages import Event
from containerssh.core.requests import Origin, X11Request
from containerssh.core.streams import ByteStream, join
from containerssh.core.tasks import time_limit
from containerssh.core.text import printable

if TYPE_CHECKING:
    from containerssh.agent.link import AgentLink

logger = logging.getLogger(__name__)

_VARIABLES = frozenset({"SSH_AUTH_SOCK", "DISPLAY", "XAUTHORITY"})
_MAX_VARIABLE = 512
_MAX_HOST = 64
_MAX_REASON = 200
# The time for an answer, in addition to the time for connecting.
_ANSWER = timedelta(seconds=15)


class AgentListener(Listener):
    """A listening socket in the container."""

    environment: Mapping[str, str]
    """Variables for programs that use it."""

    def __init__(self, forwards: Forwards, identity: int, incoming: Incoming) -> None:
        self.identity = identity
        self.incoming = incoming
        self.opened = False
        self.closing = False
        self._forwards = forwards

    async def close(self) -> None:
        await self._forwards.unlisten(self)


class Forwards:
    """The forwards of one link; :attr:`containerssh.agent.link.AgentLink.forwards`."""

    def __init__(self, link: AgentLink) -> None:
        self._link = link
        self._listeners: dict[int, AgentListener] = {}
        self._pending: set[tuple[int, int]] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def connect_tcp(self, host: str, port: int, addresses: AddressRules, within: timedelta) -> ByteStream:
        """
        A connection to *host*, an address or a name that the container resolves; the caller closes it.

        Raises:
            Rejected: *addresses* permit none that it resolves to.
            BackendError: it cannot be made; the ``user_message`` says why.
        """
        limited = addresses.allowed is not None
        body = b"".join(
            (
                pack_text(host),
                port.to_bytes(2, "big"),
                b"\1" if limited else b"\0",
                _pack_networks(addresses.allowed or ()),
                _pack_networks(addresses.denied),
            )
        )
        return await self._connect(FrameType.CONNECT_TCP, body, within, f"{host} port {port}")

    async def connect_unix(self, path: str, within: timedelta) -> ByteStream:
        """A connection to the socket *path*; otherwise like :meth:`connect_tcp`."""
        return await self._connect(FrameType.CONNECT_UNIX, pack_text(path), within, path)

    async def listen_tcp(self, host: str, port: int, incoming: Incoming) -> AgentListener:
        """
        Listen on *host* (RFC 4254 section 7.1) and *port*, 0 for any free one. The caller closes the listener; the end
        of the link closes it as well.

        Raises:
            BackendError: it is in use, or the container has no such address.
        """
        body = pack_text(host) + port.to_bytes(2, "big")
        return await self._listen(FrameType.LISTEN_TCP, body, incoming, f"{host or '*'} port {port}")

    async def listen_unix(self, path: str, incoming: Incoming) -> AgentListener:
        """Listen on a unix socket that only the container's user can connect to; otherwise like :meth:`listen_tcp`."""
        return await self._listen(FrameType.LISTEN_UNIX, pack_text(path), incoming, path)

    async def listen_agent(self, incoming: Incoming) -> AgentListener:
        """A socket for an ssh-agent, in a private folder; otherwise like :meth:`listen_tcp`."""
        return await self._listen(FrameType.LISTEN_AGENT, b"", incoming, "the ssh-agent's socket")

    async def listen_x11(self, request: X11Request, incoming: Incoming) -> AgentListener:
        """An X11 display, with its cookie in an Xauthority file; otherwise like :meth:`listen_tcp`."""
        body = b"".join(
            (
                pack_text(request.protocol),
                pack_text(request.cookie),
                pack_word(request.screen),
                b"\1" if request.single_connection else b"\0",
            )
        )
        return await self._listen(FrameType.LISTEN_X11, body, incoming, "a display")

    async def unlisten(self, listener: AgentListener) -> None:
        """Close the listener; pending connections are dropped."""
        if listener.closing:
            return
        self._begin_closing(listener)
        with suppress(ContainerSSHError):
            async with time_limit(_ANSWER, lambda: _silent("closing a listener")):
                await self._link.request(FrameType.UNLISTEN, pack_word(listener.identity), "closing a listener")
            self._listeners.pop(listener.identity, None)

    def listening(self, frame: Frame) -> None:
        """Process a LISTENING; raises ProtocolError."""
        listener = self._listeners.get(frame.id)
        if listener is None or listener.opened:
            raise broken(f"listens for the unknown request {frame.id}")
        fields = Fields(frame.payload)
        port = fields.number(2)
        count = fields.number(4)
        if count > len(_VARIABLES):
            raise broken("sent too many variables")
        variables = dict(_variable(fields.text(_MAX_VARIABLE)) for _ in range(count))
        fields.end()
        listener.port, listener.environment, listener.opened = port, variables, True

    def accepted(self, frame: Frame) -> None:
        """Process an ACCEPTED; raises ProtocolError."""
        listener = self._listeners.get(frame.id)
        if listener is None or not listener.opened:
            raise broken(f"accepted a connection for the unknown listener {frame.id}")
        fields = Fields(frame.payload)
        number, host, port = fields.number(4), fields.text(_MAX_HOST), fields.number(2)
        fields.end()
        if host and address_of(host) is None:
            raise broken("accepted a connection from something that is not an address")
        if listener.closing:
            return
        key = (frame.id, number)
        if key in self._pending or len(self._pending) >= MAX_PENDING:
            raise broken("announced a connection twice, or too many of them")
        self._pending.add(key)
        task = asyncio.create_task(self._carry(listener, number, Origin(host, port)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def fail(self) -> None:
        """The link broke."""
        for task in self._tasks:
            task.cancel()

    async def finish(self) -> None:
        """Wait until all tasks have ended, after :meth:`fail`."""
        await asyncio.gather(*self._tasks, return_exceptions=True)
        # Whom they tell of connections lives as long as they do, and leads to whoever closes the link.
        self._listeners.clear()

    async def _connect(self, kind: FrameType, body: bytes, within: timedelta, what: str) -> ByteStream:
        milliseconds = max(1, int(within.total_seconds() * 1000))
        try:
            async with time_limit(within + _ANSWER, lambda: _silent(f"connecting to {what}")):
                return await self._open(kind, b"", pack_word(milliseconds) + body)
        except Refused as exc:
            reason = exc.text[:_MAX_REASON]
            text = f"connecting to {printable(what)} failed: {reason}"
            if exc.number == errno.EPERM:
                raise Rejected(SecurityCode.FORWARDING_REJECTED, text, user_message=reason) from None
            raise BackendError(AgentCode.CONNECT_FAILED, text, user_message=reason) from None

    async def _open(self, kind: FrameType, before: bytes, after: bytes) -> ByteStream:
        """Send a request that names a stream, and return the stream once it is open."""
        self._link.check()
        expected = self._link.expect()
        try:
            await self._link.ask(kind, before + expected.reference + after)
            return await expected.opened()
        except BaseException as exc:
            expected.abandon()
            if isinstance(exc, ConnectionError):
                raise self._link.broken() from exc
            raise

    async def _listen(self, kind: FrameType, body: bytes, incoming: Incoming, what: str) -> AgentListener:
        self._link.check()
        listener = AgentListener(self, self._link.next_id(), incoming)
        self._listeners[listener.identity] = listener
        try:
            async with time_limit(_ANSWER, lambda: _silent(f"listening on {what}")):
                await self._link.ask(kind, body, listener.identity)
        except Refused as exc:
            self._listeners.pop(listener.identity, None)
            reason = exc.text[:_MAX_REASON]
            text = f"listening on {printable(what)} failed: {reason}"
            raise BackendError(AgentCode.LISTEN_FAILED, text, user_message=reason) from None
        except BaseException:
            # The agent may be listening already, or soon.
            self._begin_closing(listener)
            with suppress(ContainerSSHError):
                self._link.check()
                self._link.post(FrameType.UNLISTEN, pack_word(listener.identity))
            raise
        if not listener.opened:
            self._link.break_off(broken("answered a listening request without a port"))
            raise self._link.broken()
        return listener

    def _begin_closing(self, listener: AgentListener) -> None:
        listener.closing = True
        # Before the request is sent: the agent no longer counts them from then on.
        self._pending = {key for key in self._pending if key[0] != listener.identity}

    async def _carry(self, listener: AgentListener, number: int, origin: Origin) -> None:
        """Serve one accepted connection until its end."""
        place = pack_word(listener.identity) + pack_word(number)
        try:
            try:
                client = await listener.incoming(origin)
            except (ContainerSSHError, ConnectionError) as exc:
                logger.debug(Event(AgentCode.ACCEPT_FAILED, f"A connection was not forwarded ({describe(exc)})"))
                if self._settle(listener, number):
                    self._link.post(FrameType.DECLINE, place)
                return
            try:
                self._settle(listener, number)
                async with time_limit(_ANSWER, lambda: _silent("attaching a connection")):
                    stream = await self._open(FrameType.ACCEPT, place, b"")
                try:
                    await join(client, stream)
                finally:
                    await stream.close()
            finally:
                await client.close()
        except (ContainerSSHError, ConnectionError, Refused) as exc:
            logger.debug(Event(AgentCode.ACCEPT_FAILED, f"A connection was not forwarded ({describe(exc)})"))
        except Exception as exc:
            text = f"Forwarding a connection failed because of a fault in the server ({describe(exc)})"
            logger.exception(Event(GeneralCode.UNKNOWN_ERROR, text))

    def _settle(self, listener: AgentListener, number: int) -> bool:
        """Remove a pending connection; returns whether it was pending."""
        key = (listener.identity, number)
        if key not in self._pending:
            return False
        self._pending.discard(key)
        return True


def _pack_networks(networks: Iterable[Network]) -> bytes:
    return pack_texts(str(network) for network in networks)


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or name not in _VARIABLES or not value.isprintable():
        raise broken("sent a variable that was not asked for")
    return name, value


def _silent(what: str) -> BackendError:
    text = f"{printable(what)}: the container did not answer in time"
    return BackendError(AgentCode.REQUEST_FAILED, text, user_message="The container did not answer in time.")
