"""The forwards of one connection: channels opened by either side, listeners, and the order of replies to global
requests.

A channel is confirmed only when its target is connected, as in OpenSSH. Replies to global requests carry no numbers, so
they are sent in the order of the requests (RFC 4254 section 4): a slow request delays those behind it, and nothing
else.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from asyncssh import ChannelOpenError, constants
from asyncssh.packet import String, UInt32

from containerssh.core.codes import GeneralCode, SSHCode
from containerssh.core.errors import BackendError, ContainerSSHError, ProtocolError, Rejected, describe
from containerssh.core.handlers import ConnectionHandler, Incoming, Listener
from containerssh.core.messages import Event, log_labels
from containerssh.core.requests import Origin, from_wire, to_wire
from containerssh.core.streams import ByteStream, join
from containerssh.ssh import requests
from containerssh.ssh.channel_adapter import AdapterChannel
from containerssh.ssh.forward_channel import ForwardChannel
from containerssh.ssh.login import OpenLogin, joined
from containerssh.ssh.options import Limits
from containerssh.ssh.user_messages import LoginFailed

if TYPE_CHECKING:
    from containerssh.ssh.adapter import AdapterConnection
    from containerssh.ssh.connection import Connection

logger = logging.getLogger(__name__)

_TCP = b"direct-tcpip"
_UNIX = b"direct-streamlocal@openssh.com"
_GLOBAL = frozenset(
    {
        b"tcpip-forward",
        b"cancel-tcpip-forward",
        b"streamlocal-forward@openssh.com",
        b"cancel-streamlocal-forward@openssh.com",
    }
)

Connect = Callable[[ConnectionHandler], Awaitable[ByteStream]]


class Forwarding:
    """The forwards of one connection; :meth:`close` ends them."""

    def __init__(
        self, front: Connection, link: AdapterConnection, login: asyncio.Future[OpenLogin], limits: Limits
    ) -> None:
        self._front = front
        self._link = link
        self._login = login
        self._limits = limits
        self._tasks: set[asyncio.Task[None]] = set()
        self._open: set[ForwardChannel] = set()
        self._waiting = 0
        self._listeners: dict[tuple[bytes, int], Listener] = {}
        self._requests: list[tuple[bytes, bool, bytes]] = []
        self._requests_size = 0
        self._answering = False
        self._settling: list[asyncio.Future[None]] = []
        self._closed = False
        self.context = contextvars.copy_context()
        """The context of log labels; the front sets it after the login."""

    async def close(self) -> None:
        """End all forwards, when the connection or its container ends."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks))
        for channel in list(self._open):
            channel.channel.cut()
        self._listeners.clear()

    # -- channels that the client opens ---------------------------------------------------------------------

    def channel_requested(self, kind: bytes, payload: bytes, number: int, window: int, packet_size: int) -> None:
        """The client opens a channel other than a session; *payload* is what follows the general fields."""
        if kind not in (_TCP, _UNIX):
            self._refuse(kind, number, constants.OPEN_UNKNOWN_CHANNEL_TYPE, "Unknown channel type")
            return
        try:
            connect, target = _target(kind, payload)
        except ProtocolError as exc:
            self._refuse(kind, number, constants.OPEN_CONNECT_FAILED, exc.explanation)
            return
        if self._is_full or self._waiting >= self._limits.pending_forwards or self._closed:
            text = "Too many forwarded connections are open"
            self._front.limit_reached(SSHCode.LIMIT_FORWARDS, text)
            self._refuse(kind, number, constants.OPEN_RESOURCE_SHORTAGE, "Too many forwarded connections.")
            return
        forward = self._made(self._link.forward_channel(number, window, packet_size))
        self._waiting += 1
        self._run(self._connect(forward, kind, target, connect))

    async def _connect(self, forward: ForwardChannel, kind: bytes, target: str, connect: Connect) -> None:
        channel = forward.channel
        with log_labels(channelId=self._front.next_channel()):
            stream = None
            try:
                try:
                    stream = await connect(await self._handler())
                finally:
                    self._waiting -= 1
                channel.confirm()
                text = "Forwarding a connection to the container"
                logger.debug(Event(SSHCode.NEW_CHANNEL, text, type=from_wire(kind), target=target))
                await join(forward, stream)
            except Exception as exc:  # noqa: BLE001  any fault costs this channel only; logged in there
                code, reason = self._explain(exc, "Forwarding a connection failed")
                text = "A forwarded connection was refused"
                logger.debug(Event(SSHCode.NEW_CHANNEL_REJECTED, text, type=from_wire(kind), target=target))
                channel.refuse(code, reason)
            finally:
                await forward.close()
                if stream is not None:
                    await stream.close()

    def _explain(self, error: Exception, doing: str) -> tuple[int, str]:
        """The code and the text of a refusal (RFC 4254 section 5.1); logs *error*."""
        if isinstance(error, Rejected):
            logger.debug(error.event())
            return constants.OPEN_ADMINISTRATIVELY_PROHIBITED, error.user_message
        if isinstance(error, ContainerSSHError):
            # An unreachable target is an error of the client, not of the server.
            logger.debug(error.event())
            return constants.OPEN_CONNECT_FAILED, error.user_message
        text = f"{doing} because of a fault in the server ({describe(error)})"
        logger.error(Event(SSHCode.CHANNEL_REQUEST_FAILED, text), exc_info=error)
        return constants.OPEN_CONNECT_FAILED, ContainerSSHError.default_user_message

    def _refuse(self, kind: bytes, number: int, code: int, reason: str) -> None:
        known = kind in (_TCP, _UNIX)
        event = SSHCode.NEW_CHANNEL_REJECTED if known else SSHCode.UNSUPPORTED_CHANNEL_TYPE
        self._front.log(logging.DEBUG, Event(event, f"A channel was refused: {reason}", type=from_wire(kind[:256])))
        self._link.refuse_channel(number, code, reason)

    # -- channels that we open ------------------------------------------------------------------------------

    async def open(self, kind: str, fields: bytes) -> ByteStream:
        """
        Open a channel towards the client; the caller closes the stream.

        Raises:
            Rejected: the client refuses, or too many channels are open.
            ConnectionError: the connection has ended.
        """
        if self._closed:
            raise ConnectionResetError("the connection has ended")
        if self._is_full:
            text = "Too many forwarded connections are open"
            self._front.limit_reached(SSHCode.LIMIT_FORWARDS, text)
            raise Rejected(SSHCode.LIMIT_FORWARDS, text)
        try:
            forward = self._made(self._link.forward_channel())
            try:
                await forward.channel.open(kind.encode(), fields)
            except asyncio.CancelledError:
                # The channel counts until the client has answered: only then is its number free again.
                forward.channel.cut()
                raise
        except ChannelOpenError as exc:
            if self._closed or forward.left.is_set():
                raise ConnectionResetError("the connection has ended") from exc
            text = f"the client refused a channel of type {kind}: {from_wire(exc.reason.encode())[:200]!r}"
            raise Rejected(SSHCode.NEW_CHANNEL_REJECTED, text) from exc
        logger.debug(Event(SSHCode.NEW_CHANNEL, "Forwarding a connection to the client", type=kind))
        return forward

    def _made(self, channel: AdapterChannel) -> ForwardChannel:
        forward = ForwardChannel(channel, self._open.discard)
        channel.front = forward
        self._open.add(forward)
        return forward

    @property
    def _is_full(self) -> bool:
        return len(self._open) >= self._limits.forwards

    # -- global requests ---------------------------------------------------------------------------------------

    def global_requested(self, name: bytes, want_reply: bool, payload: bytes) -> None:
        """A global request arrived; it is answered after those before it."""
        if self._closed:
            return
        if not self._answering and name not in _GLOBAL:
            self._answer(name, want_reply, self._link.answer_to(name, payload))
            return
        size = len(name) + len(payload)
        if (
            len(self._requests) >= self._limits.queued_requests
            or self._requests_size + size > self._limits.queued_bytes
        ):
            text = "The client queues too many requests"
            self._front.limit_reached(SSHCode.LIMIT_GLOBAL_REQUESTS, text)
            self._link.end(text)
            return
        self._requests.append((name, want_reply, payload))
        self._requests_size += size
        if not self._answering:
            self._answering = True
            self._run(self._answer_all())

    async def _answer_all(self) -> None:
        try:
            while self._requests:
                name, want_reply, payload = self._requests.pop(0)
                self._requests_size -= len(name) + len(payload)
                if name in _GLOBAL:
                    answer = await self._perform(name, payload)
                else:
                    answer = self._link.answer_to(name, payload)
                self._answer(name, want_reply, answer)
        finally:
            self._answering = False
            for waiter in self._settling:
                if not waiter.done():
                    waiter.set_result(None)
            self._settling.clear()

    async def settled(self) -> None:
        """
        Wait until all global requests so far are answered. A program that the client starts then finds the forwards it
        has requested before; users rely on this because OpenSSH's server processes requests one after another.
        """
        if self._answering:
            waiter = asyncio.get_running_loop().create_future()
            self._settling.append(waiter)
            await waiter

    def _answer(self, name: bytes, want_reply: bool, answer: bytes | None) -> None:
        if want_reply:
            self._link.answer_request(answer)
        if name != b"keepalive@openssh.com":
            self._front.global_request(name, answered=answer is not None)

    async def _perform(self, name: bytes, payload: bytes) -> bytes | None:
        try:
            address, port = requests.parse_listen(payload, has_port=name.endswith(b"tcpip-forward"))
            if name.startswith(b"cancel-"):
                return await self._unlisten(name, address, port)
            return await self._listen(name, address, port)
        except (Rejected, ProtocolError, BackendError) as exc:
            logger.debug(exc.event())
        except Exception as exc:
            text = f"A request failed because of a fault in the server ({describe(exc)})"
            logger.exception(Event(GeneralCode.UNKNOWN_ERROR, text))
        return None

    async def _listen(self, name: bytes, address: bytes, port: int) -> bytes:
        # Distinguishes a path from a host of the same name; real ports are never negative.
        is_unix = name.startswith(b"streamlocal")
        key = (address, -1 if is_unix else port)
        if key in self._listeners and key[1]:
            raise Rejected(SSHCode.GLOBAL_REQUEST_FAILED, "the client listens there already")
        if len(self._listeners) >= self._limits.listeners:
            text = "Too many listeners are open"
            self._front.limit_reached(SSHCode.LIMIT_LISTENERS, text)
            raise Rejected(SSHCode.LIMIT_LISTENERS, text)
        handler = await self._handler()
        if is_unix:
            incoming = self._incoming("forwarded-streamlocal@openssh.com", lambda _: String(address) + String(""))
            self._listeners[key] = await handler.listen_unix(from_wire(address), incoming)
            return b""
        real = port

        def fields(origin: Origin) -> bytes:
            return String(address) + UInt32(real) + String(to_wire(origin.host)) + UInt32(origin.port)

        listener = await handler.listen_tcp(from_wire(address), port, self._incoming("forwarded-tcpip", fields))
        real = listener.port
        self._listeners[address, real] = listener
        return b"" if port else UInt32(real)

    def _incoming(self, kind: str, fields: Callable[[Origin], bytes]) -> Incoming:
        async def incoming(origin: Origin) -> ByteStream:
            return await self.open(kind, fields(origin))

        return incoming

    async def _unlisten(self, name: bytes, address: bytes, port: int) -> bytes:
        listener = self._listeners.pop((address, -1 if b"streamlocal" in name else port), None)
        if listener is None:
            raise Rejected(SSHCode.GLOBAL_REQUEST_FAILED, "the client does not listen there")
        await listener.close()
        return b""

    # -- the task's surroundings ----------------------------------------------------------------------------

    async def _handler(self) -> ConnectionHandler:
        """The login's handler; raises BackendError if there is none."""
        try:
            return await joined(self._login)
        except LoginFailed as exc:
            message = exc.error.user_message if isinstance(exc.error, ContainerSSHError) else None
            raise BackendError(SSHCode.NEW_CHANNEL_REJECTED, "the login has failed", user_message=message) from None

    def _run(self, work: Awaitable[None]) -> None:
        async def run() -> None:
            await work

        task = self.context.run(asyncio.get_running_loop().create_task, run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _target(kind: bytes, payload: bytes) -> tuple[Connect, str]:
    """The connect function for the requested target, and the target's name for the log; raises ProtocolError."""
    if kind == _UNIX:
        path = requests.parse_direct_unix(payload)
        return (lambda handler: handler.connect_unix(path)), path
    host, port = requests.parse_direct_tcp(payload)
    return (lambda handler: handler.connect_tcp(host, port)), f"{host}:{port}"
