"""Forwarding through the agent that an image brings (``agent.md`` section 3).

The protocol of upstream's agent lacks features, for which this module compensates as far as possible:

* A helper dials one address after another without a time limit; if one is busy for too long, another helper is started.
* A helper confirms a listener before it binds the address, and exits if that fails; it is therefore watched briefly.
* A helper does not report a port selected by the system, so the port is selected here.
* A helper joins address and port without brackets; they are added here for IPv6.
* A helper cannot check the addresses that a name resolves to; where the rules require that, names are refused.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from containerssh.agent.codec import broken
from containerssh.agent.process import Program
from containerssh.agent.upstream_addresses import permitted, proper_host, proper_path
from containerssh.agent.upstream_connection import Connection
from containerssh.agent.upstream_helper import MAX_CONNECTIONS, Announced, Helper, HelperProcess
from containerssh.agent.upstream_packets import NewConnection, Purpose, Setup
from containerssh.core.codes import AgentCode, GeneralCode
from containerssh.core.errors import BackendError, ContainerSSHError, Rejected, describe
from containerssh.core.flag import Flag
from containerssh.core.forwarding import AddressRules, address_of
from containerssh.core.handlers import Incoming, Listener, SessionChannel
from containerssh.core.messages import Event
from containerssh.core.requests import Origin, X11Request
from containerssh.core.streams import ByteStream, join
from containerssh.core.tasks import time_limit
from containerssh.core.text import printable

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Patience:
    """Time limits in seconds."""

    start: float = 20.0
    """For a helper to confirm its set-up."""
    connect: float = 30.0
    """For a connection to be made, including the start of a helper."""
    dialling: float = 1.0
    """After which another helper is started for the next connection while one is still dialling."""
    settling: float = 0.4
    """How long a listening helper is watched: one that cannot listen exits within this time."""
    silence: float = 5.0
    """The time without data after the client's EOF until the connection is closed."""
    silence_back: float = 0.2
    """The same for a connection from the container, where usually the client passes on a server's EOF."""


_HELPERS = 8
"""The maximum of helpers that dial at the same time."""
_LISTENERS = 32
_PORTS = range(32768, 61000)
_PORT_TRIES = 3
_DISPLAY = 10
"""The only display number that upstream's agent supports."""

StartProgram = Callable[[Program], Awaitable[HelperProcess]]


class UpstreamForwards:
    """The forwards of one login. Created by :func:`upstream_forwards`."""

    def __init__(self, start: StartProgram, agent: str, patience: Patience) -> None:
        self._start = start
        self._patience = patience
        self._agent = agent
        self._dialling = asyncio.Lock()
        self._helpers: set[Helper] = set()
        self._disposing: set[Helper] = set()
        self._dialers: list[Helper] = []
        self._freed = Flag()
        self._listeners: set[UpstreamListener] = set()
        self._showing = asyncio.Lock()
        self._display: tuple[X11Request, UpstreamListener, Mapping[str, str]] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def connect_tcp(self, host: str, port: int, addresses: AddressRules) -> ByteStream:
        """
        Connect to *host* and *port*; the caller closes the stream.

        Raises:
            Rejected: *addresses* do not permit it, or would require resolving a name.
            BackendError: the connection failed.
        """
        return await self._connect(NewConnection("tcp", permitted(host, addresses), port), f"{host} port {port}")

    async def connect_unix(self, path: str) -> ByteStream:
        """Connect to the unix socket *path*; otherwise like :meth:`connect_tcp`."""
        return await self._connect(NewConnection("unix", proper_path(path)), path)

    async def listen_tcp(self, host: str, port: int, incoming: Incoming) -> UpstreamListener:
        """
        Listen on *host* (RFC 4254 section 7.1) and *port*. The caller closes the listener, which ends with the login.

        Raises:
            BackendError: the helper cannot listen there, or does not respond.
        """
        where = {"": "", "*": "", "localhost": "127.0.0.1"}.get(host)
        bound = proper_host(host) if where is None else where
        if port:
            return await self._listen(_listen_setup(bound, port), incoming, f"{host or '*'} port {port}")
        for attempt in range(_PORT_TRIES):
            chosen = secrets.choice(_PORTS)
            try:
                return await self._listen(_listen_setup(bound, chosen), incoming, f"{host or '*'}, any port")
            except _CannotListen:
                if attempt == _PORT_TRIES - 1:
                    raise
        raise AssertionError

    async def listen_unix(self, path: str, incoming: Incoming) -> UpstreamListener:
        """Listen on a unix socket; otherwise like :meth:`listen_tcp`."""
        return await self._listen(Setup(Purpose.LISTEN, proper_path(path), protocol="unix"), incoming, path)

    async def display(self, request: X11Request, channel: SessionChannel) -> Mapping[str, str]:
        """
        The variables for programs that use the client's display. A login has a single display, which exists until the
        login ends, or until its connection does if it is for a single connection.

        Raises:
            BackendError: the image has no ``xauth``, or the network is shared and already has a display.
            Rejected: the login already has another display.
        """
        async with self._showing:
            shown = self._display
            if shown is not None and not shown[1].is_over:
                if shown[0] != request or request.single_connection:
                    text = "the image's agent can forward one display only"
                    raise Rejected(AgentCode.LISTEN_FAILED, text, user_message=text)
                return shown[2]
            variables = {
                "DISPLAY": f"localhost:{_DISPLAY}.{request.screen}",
                # A file in the container with an unpredictable name.
                "XAUTHORITY": f"/tmp/.containerssh-{secrets.token_hex(8)}",  # noqa: S108  not our /tmp
            }
            setup = Setup(
                Purpose.X11,
                protocol="tcp",
                screen=str(request.screen),
                single=request.single_connection,
                auth_protocol=request.protocol,
                auth_cookie=request.cookie,
            )
            env = {"XAUTHORITY": variables["XAUTHORITY"]}
            listener = await self._listen(setup, channel.open_x11, "a display", env)
            self._display = request, listener, variables
            return variables

    async def close(self) -> None:
        """Close all forwards, when the login and its container end."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(helper.release() for helper in self._helpers), return_exceptions=True)

    def dispose(self, helper: Helper) -> None:
        """Stop *helper* in the background."""
        if helper not in self._disposing:
            self._disposing.add(helper)
            self._spawn(self._stop(helper))

    def carry(self, connection: Connection, incoming: Incoming, origin: Origin) -> None:
        """Serve an announced connection until it ends."""
        self._spawn(_carry(connection, incoming, origin))

    def forget(self, listener: UpstreamListener) -> None:
        """Remove a listener that has ended."""
        self._listeners.discard(listener)

    # -- dialling -----------------------------------------------------------------------------------------

    async def _connect(self, target: NewConnection, what: str) -> ByteStream:
        async with time_limit(timedelta(seconds=self._patience.connect), lambda: _silent(f"connecting to {what}")):
            async with self._dialling:
                helper = await self._free_dialer()
                connection = helper.dial(target)
            try:
                taken = await asyncio.shield(connection.answered)
            except asyncio.CancelledError:
                helper.abandon(connection)
                raise
        if not taken:
            text = f"connecting to {printable(what)} failed in the container"
            raise BackendError(AgentCode.CONNECT_FAILED, text, user_message="Connection failed in the container.")
        return connection

    async def _free_dialer(self) -> Helper:
        """A helper that is not dialling; raises BackendError."""
        impatient = False
        while True:
            self._freed.clear()
            for helper in self._dialers:
                if helper.pending is None and helper.count < MAX_CONNECTIONS:
                    return helper
            if (impatient or not self._dialers) and len(self._dialers) < _HELPERS:
                return await self._another_dialer()
            try:
                async with asyncio.timeout(self._patience.dialling):
                    await self._freed.wait()
            except TimeoutError:
                impatient = True

    async def _another_dialer(self) -> Helper:
        helper = await self._helper(Setup(Purpose.DIAL))
        if helper.ended.is_set():
            self.dispose(helper)
            text = f"the image's agent ended when it was to connect: {helper.words}"
            raise BackendError(AgentCode.CONNECT_FAILED, text, user_message="The container's agent does not forward.")
        helper.changed = partial(self._dialer_changed, helper)
        self._dialers.append(helper)
        return helper

    def _dialer_changed(self, helper: Helper) -> None:
        self._freed.set()
        if helper.ended.is_set() and helper in self._dialers:
            self._dialers.remove(helper)
            self.dispose(helper)

    # -- listening ----------------------------------------------------------------------------------------

    async def _listen(
        self, setup: Setup, incoming: Incoming, what: str, env: Mapping[str, str] | None = None
    ) -> UpstreamListener:
        if len(self._listeners) >= _LISTENERS:
            text = "too many listeners for the image's agent"
            raise Rejected(AgentCode.LISTEN_FAILED, text, user_message="Too many listeners.")
        listener = UpstreamListener(self, incoming, setup.port)
        self._listeners.add(listener)
        try:
            helper = await self._helper(setup, listener.announced, env)
            listener.begin(helper)
            await _watch(helper, what, self._patience.settling)
        except BaseException:
            await listener.close()
            raise
        return listener

    async def _helper(
        self, setup: Setup, announced: Announced | None = None, env: Mapping[str, str] | None = None
    ) -> Helper:
        async with time_limit(timedelta(seconds=self._patience.start), lambda: _silent("starting the image's agent")):
            process = await self._start(Program((self._agent, "forward-server"), env or {}))
            silence = self._patience.silence if announced is None else self._patience.silence_back
            helper = Helper(process, announced, silence=silence)
            self._helpers.add(helper)
            try:
                await helper.open(setup)
            except BaseException:
                self.dispose(helper)
                raise
        return helper

    async def _stop(self, helper: Helper) -> None:
        # Registered first: the login may end before the task starts.
        await helper.stop()
        self._helpers.discard(helper)
        self._disposing.discard(helper)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class UpstreamListener(Listener):
    """A listening helper."""

    def __init__(self, forwards: UpstreamForwards, incoming: Incoming, port: int) -> None:
        self.port = port
        self._forwards = forwards
        self._incoming = incoming
        self._helper: Helper | None = None
        self._closed = False

    @property
    def is_over(self) -> bool:
        """Whether the listener has ended."""
        return self._closed or self._helper is None or self._helper.ended.is_set()

    def begin(self, helper: Helper) -> None:
        """Begin: *helper* has confirmed that it listens."""
        self._helper = helper
        helper.changed = self._changed
        self._changed()

    def announced(self, connection: Connection, details: NewConnection) -> None:
        """Process a connection that the helper has accepted; raises ProtocolError."""
        origin = Origin()
        if details.protocol != "unix":
            origin = Origin(details.origin_host, details.origin_port)
            if address_of(origin.host) is None:
                raise broken("accepted a connection from something that is not an address")
        self._forwards.carry(connection, self._incoming, origin)

    async def close(self) -> None:
        self._closed = True
        self._forwards.forget(self)
        if self._helper is not None:
            self._helper.end_announcing()
            self._changed()

    def _changed(self) -> None:
        helper = self._helper
        if helper is not None and (helper.ended.is_set() or (self._closed and not helper.count)):
            self._forwards.forget(self)
            self._forwards.dispose(helper)


class _CannotListen(BackendError):
    """The helper exited instead of listening."""


@asynccontextmanager
async def upstream_forwards(
    start: StartProgram, agent: str, patience: Patience = Patience()
) -> AsyncIterator[UpstreamForwards]:
    """
    The scope of a login's forwards. *start* starts programs in its container; *agent* is the path of the image's agent.
    """
    forwards = UpstreamForwards(start, agent, patience)
    try:
        yield forwards
    finally:
        await forwards.close()


async def _watch(helper: Helper, what: str, within: float) -> None:
    """Wait until *helper* presumably listens; raises _CannotListen."""
    with suppress(TimeoutError):
        async with asyncio.timeout(within):
            await helper.ended.wait()
    if helper.ended.is_set():
        text = f"listening on {printable(what)} failed in the container: {helper.words}"
        raise _CannotListen(AgentCode.LISTEN_FAILED, text, user_message="Listening failed in the container.")


async def _carry(connection: Connection, incoming: Incoming, origin: Origin) -> None:
    try:
        try:
            client = await incoming(origin)
        except BaseException:
            connection.helper.refuse(connection)
            raise
        try:
            if connection.helper.accept(connection):
                await join(client, connection)
        finally:
            await connection.close()
            await client.close()
    except (ContainerSSHError, ConnectionError) as exc:
        logger.debug(Event(AgentCode.ACCEPT_FAILED, f"A connection was not forwarded ({describe(exc)})"))
    except Exception as exc:
        text = f"Forwarding a connection failed because of a fault in the server ({describe(exc)})"
        logger.exception(Event(GeneralCode.UNKNOWN_ERROR, text))


def _listen_setup(host: str, port: int) -> Setup:
    return Setup(Purpose.LISTEN, host, port, "tcp")


def _silent(what: str) -> BackendError:
    text = f"{printable(what)}: the container did not answer in time"
    return BackendError(AgentCode.REQUEST_FAILED, text, user_message="The container did not answer in time.")
