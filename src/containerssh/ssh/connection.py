"""One TCP connection: a task that makes all handler calls of the connection in order.

See ``docs/design.md``, "The life of a login".
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING

from asyncssh import constants

from containerssh.core.codes import GeneralCode, SSHCode
from containerssh.core.errors import AuthFailed, AuthUnavailable, ContainerSSHError, Rejected, describe
from containerssh.core.flag import Flag
from containerssh.core.gssapi import ExchangedKeys
from containerssh.core.handlers import NetworkHandler, ServerHandler
from containerssh.core.messages import Event, LogScope, log_labels
from containerssh.core.metadata import ConnectionMetadata, Login, SocketAddress
from containerssh.core.requests import from_wire
from containerssh.ssh.admission import TOO_MANY, Ticket
from containerssh.ssh.auth import DISCONNECT_CODE, Authentication, TooManyTries
from containerssh.ssh.channel import Session
from containerssh.ssh.forwarding import Forwarding
from containerssh.ssh.limits import count, limited_time
from containerssh.ssh.login import OpenLogin
from containerssh.ssh.options import ServerOptions
from containerssh.ssh.sessions import Sessions
from containerssh.ssh.user_messages import LoginFailed, message_of, user_line

if TYPE_CHECKING:
    from containerssh.ssh.adapter import AdapterConnection, AuthRequest
    from containerssh.ssh.channel_adapter import AdapterChannel
    from containerssh.ssh.registry import Registry

logger = logging.getLogger(__name__)

# How long to wait for a session in which to report a failed login, and then for the client to disconnect by itself.
_TELLING = 3.0
# How long a client may take to disconnect by itself after a stop has ended its last program.
_LEAVING = 1.0
_STOPPED = "The server is shutting down"


class Connection:
    """A TCP connection, from accept to its end; the adapter calls the methods of the first part."""

    def __init__(
        self,
        handler: ServerHandler,
        options: ServerOptions,
        registry: Registry,
        peer: SocketAddress,
        ticket: Ticket,
    ) -> None:
        self._handler = handler
        self.peer = peer
        self.ticket = ticket
        ticket.owner = self
        self.connected_once = False
        # Whether the client must not be penalised for the end of this connection.
        self._stopping = False
        self._limits_reached: set[SSHCode] = set()
        self._options = options
        self._registry = registry
        self._loop = asyncio.get_running_loop()
        self._link: AdapterConnection
        self._meta: ConnectionMetadata
        self._auth: Authentication
        self._context = contextvars.copy_context()
        self._login: asyncio.Future[OpenLogin] = self._loop.create_future()
        self._left = Flag()
        self._scope: asyncio.Timeout | None = None
        self._grace: asyncio.TimerHandle | None = None
        self._sessions = Sessions()
        self._channel_count = 0
        self._told = Flag()
        self._error: Exception | None = None
        self.authenticated = False
        self._network: NetworkHandler | None = None
        self._entered: Flag | None = None
        self.task: asyncio.Task[None]

    # -- called by the adapter -----------------------------------------------------------------------

    def connected(self, link: AdapterConnection) -> None:
        self.connected_once = True
        self._link = link
        self.forwarding = Forwarding(self, link, self._login, self._options.limits)
        self._meta = ConnectionMetadata(self.peer, secrets.token_hex(16))
        self._auth = Authentication(link, self._options.limits, self._options.banner)
        if grace := self._options.login_grace.total_seconds():
            self._grace = self._loop.call_later(grace, self._grace_is_over)
        self.task = self._loop.create_task(self._run(), name=f"connection {self._meta.connection_id}")
        self._registry.add(self)

    def lost(self, error: Exception | None) -> None:
        """The TCP connection is closed."""
        self._error = self._error or error
        self._left.set()
        self._told.set()
        if self._grace:
            self._grace.cancel()
        if self._scope is not None:
            self._scope.reschedule(self._loop.time())
            self._scope = None
        self.task.add_done_callback(self._break_cycles)

    def broken(self, error: BaseException | None) -> None:
        """An internal error occurred in the library or the adapter; the library closes the connection."""
        if error is not None and self.authenticated:
            text = f"The connection ended because of a fault in the server ({describe(error)})"
            self._context.run(logger.error, Event(GeneralCode.UNKNOWN_ERROR, text), exc_info=error)

    def log(self, level: int, event: Event) -> None:
        """Log with this connection's labels."""
        self._context.run(logger.log, level, event)

    def limit_reached(self, code: SSHCode, text: str) -> None:
        """Count a reached limit, and log it once with this connection's labels."""
        count(code)
        if code not in self._limits_reached:
            self._limits_reached.add(code)
            self.log(logging.INFO, Event(code, text))

    def auth_requested(self, request: AuthRequest) -> None:
        self._auth.requested(request)

    async def exchange_keys(self, token: bytes, digest: bytes) -> ExchangedKeys:
        """Perform a GSSAPI key exchange. Raises AuthFailed, AuthUnavailable."""
        if self._network is None:
            self._entered = Flag()
            await self._entered.wait()
        assert self._network is not None
        labels = {"method": "gssapi"}
        judging = self._network.exchange_keys(self._meta, token, digest)
        try:
            return await self._loop.create_task(judging, context=self._context)
        except AuthFailed as exc:
            self._auth.refused = True
            text = "A key exchange by a ticket failed"
            self.log(logging.INFO, Event(SSHCode.AUTH_FAILED, text, **labels, reason=describe(exc)))
            raise
        except AuthUnavailable as exc:
            self._auth.unavailable = True
            text = "Key exchanges by tickets are currently unavailable"
            self.log(logging.INFO, Event(SSHCode.AUTH_UNAVAILABLE, text, **labels, reason=describe(exc)))
            raise

    def auth_answers(self, answers: list[bytes]) -> None:
        self._auth.answered(answers)

    def global_request(self, name: bytes, *, answered: bool) -> None:
        code = SSHCode.GLOBAL_REQUEST_SUCCESSFUL if answered else SSHCode.GLOBAL_REQUEST_FAILED
        self.log(logging.DEBUG, Event(code, "Global request", RequestType=from_wire(name[:256])))

    def channel_refused(self, kind: bytes, why: str) -> None:
        code = SSHCode.NEW_CHANNEL_REJECTED
        self.log(logging.DEBUG, Event(code, f"A channel was refused: {why}", type=from_wire(kind[:256])))

    def next_channel(self) -> int:
        """The number of a new channel, for the log."""
        number = self._channel_count
        self._channel_count += 1
        return number

    def session_opened(self, channel: AdapterChannel) -> Session:
        """A session channel was requested; the session's own task confirms or refuses it."""
        number, limits = self.next_channel(), self._options.limits
        session = Session(channel, number, self._login, self._meta.connection_id, limits, self.limit_reached)
        if self._stopping:
            channel.front = session
            channel.refuse(constants.OPEN_ADMINISTRATIVELY_PROHIBITED, _STOPPED)
            session.closed_by_peer()
        session.on_told = self._told.set
        session.forwarding = self.forwarding
        if self._sessions.first is None:
            self._sessions.first = session
            session.on_interactive = self._sessions.show_notice
            channel.confirm()
        # Called outside the connection's task, so its context must be passed explicitly.
        self._sessions.start(session, self._context)
        return session

    # -- called by the server ----------------------------------------------------------------------------

    async def stop(self, grace: float) -> None:
        """Terminate programs, then disconnect, after *grace* seconds at most; returns when the connection is closed."""
        self._stopping = True
        if self._login.done() and not self._login.cancelled() and not self._login.exception():
            handler = self._login.result().handler
            with suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    for session in self._sessions:
                        session.server_stops(_STOPPED, grace)
                    # First the programs of sessions, then everything else that the login runs.
                    for terminate in [*(session.terminate for session in self._sessions), handler.terminate]:
                        await self._terminate(terminate)
                    if self._sessions:
                        await self._first_of(self._sessions.idle, self._left)
                        # Given the exit status and a DISCONNECT together, a client would report only the latter.
                        async with asyncio.timeout(_LEAVING):
                            await self._left.wait()
        if not self.task.done():
            self._link.end(_STOPPED)
            await asyncio.wait((self.task,))

    def make_room(self) -> None:
        """Disconnect the client because another is admitted in its place."""
        self._stopping = True
        self._error = ConnectionAbortedError("there are too many connections")
        self._link.end(TOO_MANY, constants.DISC_TOO_MANY_CONNECTIONS)

    def end_if_gone(self, limit: timedelta) -> None:
        """Close the connection if the client's host has not answered anything for *limit*."""
        if self._link.is_gone(limit):
            text = "The client's host does not answer any more"
            self._error = ConnectionResetError(text)
            self.limit_reached(SSHCode.LIMIT_UNREACHABLE, text)
            self._link.drop()

    async def _first_of(self, *events: Flag) -> None:
        waiting = [asyncio.create_task(event.wait()) for event in events]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()

    async def _terminate(self, terminate: Callable[[], Awaitable[None]]) -> None:
        try:
            await terminate()
        except Exception as exc:  # noqa: BLE001  the stop must go on
            self.log(
                logging.WARNING,
                Event(GeneralCode.UNKNOWN_ERROR, f"A program could not be told to end ({describe(exc)})"),
            )

    # -- the task -------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        labels = {"remoteAddr": self._meta.remote_address.host, "connectionId": self._meta.connection_id}
        with log_labels(module="ssh", **labels):
            self._context = contextvars.copy_context()
            logger.debug(Event(SSHCode.CONNECTED, "Client connected"))
            try:
                async with asyncio.timeout(None) as scope:
                    self._scope = scope
                    if self._left.is_set():
                        return
                    async with self._handler.accept(self._meta) as network:
                        self._network = network
                        if self._entered is not None:
                            self._entered.set()
                        await self._authenticate(network)
            except TimeoutError as exc:
                if not scope.expired():
                    self._fault(exc)
            except Rejected as exc:
                logger.info(exc.event())
                self._link.end(exc.user_message)
            except ContainerSSHError as exc:
                logger.error(exc.event())  # noqa: TRY400  told by its own words
                self._link.end(exc.user_message)
            except Exception as exc:  # noqa: BLE001  any fault costs this connection only; logged in there
                self._fault(exc)
            finally:
                self._scope = None
                self._link.end("Closed")
                await self._end_sessions()
                self._registry.remove(self)
                self._punish()
                if not self._login.done():
                    self._login.cancel()
                logger.debug(Event(SSHCode.DISCONNECTED, "Client disconnected"))

    def _fault(self, error: Exception) -> None:
        text = f"The connection ended because of a fault in the server ({describe(error)})"
        logger.error(Event(GeneralCode.UNKNOWN_ERROR, text), exc_info=error)
        self._link.end("Internal error")

    async def _authenticate(self, network: NetworkHandler) -> None:
        try:
            login = await self._auth.run(network, self._meta)
        except TooManyTries as exc:
            self._handshake_failed(network, exc)
            self._link.end(exc.user_message, DISCONNECT_CODE)
            return
        except asyncio.CancelledError:
            # The scope was closed: the client disconnected, or its time limit was reached.
            self._handshake_failed(network, self._error or ConnectionResetError("the client left"))
            raise
        if self._stopping or self._registry.closed:
            self._link.end(_STOPPED)
            return
        self.authenticated = True
        self._registry.limiter.logged_in(self.ticket)
        if self._grace:
            self._grace.cancel()
        with log_labels(username=login.username):
            self._context = self.forwarding.context = contextvars.copy_context()
            await self._serve(network, login)

    def _handshake_failed(self, network: NetworkHandler, error: Exception) -> None:
        logger.info(Event(SSHCode.HANDSHAKE_FAILED, "SSH handshake failed", reason=describe(error)))
        try:
            network.handshake_failed(error)
        except Exception as exc:
            text = f"A failed handshake could not be told ({describe(exc)})"
            logger.exception(Event(GeneralCode.UNKNOWN_ERROR, text))

    def _punish(self) -> None:
        """Penalise the source of a connection that ended without a login, unless the cause was on the server's side."""
        penalties = self._options.admission.penalties
        if penalties is None or self.authenticated or self._stopping or self._auth.unavailable:
            return
        if isinstance(self._error, TimeoutError):
            penalty = penalties.grace_exceeded
        else:
            penalty = penalties.auth_failed if self._auth.refused else penalties.no_auth
        if self._registry.limiter.punish(self.ticket, penalty, self._loop.time()):
            text = "The client's address has failed too often and is refused for a while"
            logger.info(Event(SSHCode.LIMIT_PENALTY, text))

    async def _serve(self, network: NetworkHandler, login: Login) -> None:
        scope = self._scope
        began = self._loop.time()
        try:
            async with network.login(login, self._sessions) as handler:
                # From here on the task waits for the client to disconnect; before, a disconnect cancelled it.
                self._scope = None
                logger.debug(Event(SSHCode.HANDSHAKE_SUCCESSFUL, "SSH handshake successful"))
                self._sessions.settled()
                self._context = self.forwarding.context = contextvars.copy_context()
                self._login.set_result(OpenLogin(handler, LogScope()))
                try:
                    if handler.longest:
                        with limited_time(began, handler.longest, warn=self._ends_soon, end=self._time_is_over):
                            await self._left.wait()
                    else:
                        await self._left.wait()
                finally:
                    await self._end_sessions()
        except Exception as exc:
            if self._login.done():
                raise
            self._scope = scope
            await self._login_failed(network, exc)

    async def _login_failed(self, network: NetworkHandler, error: Exception) -> None:
        """Report a failed login: to the user in a session, if any, and in the DISCONNECT; details go to the log."""
        reason = error.event().text if isinstance(error, ContainerSSHError) else describe(error)
        fault = None if isinstance(error, ContainerSSHError) else error
        # The log line has a general code; the manual explains the error's own code.
        details = {**error.event().labels, "cause": error.code.value} if isinstance(error, ContainerSSHError) else {}
        logger.error(
            Event(SSHCode.BACKEND_REJECTED_HANDSHAKE, f"The backend rejected the login: {reason}", **details),
            exc_info=fault,
        )
        self._handshake_failed(network, error)
        self._sessions.settled()
        self._login.set_exception(LoginFailed(error))
        self._login.exception()  # mark as retrieved
        with suppress(TimeoutError):
            async with asyncio.timeout(_TELLING):
                await self._told.wait()
                # OpenSSH disconnects by itself after its only session, unless the connection is shared.
                await self._left.wait()
        self._link.end(user_line(message_of(error), self._meta.connection_id))
        await self._end_sessions()

    async def _end_sessions(self) -> None:
        await self.forwarding.close()
        await self._sessions.end()

    def _break_cycles(self, _: asyncio.Task[None]) -> None:
        """
        Break reference cycles when both sides have finished, so that the connection's memory is freed at once rather
        than by the garbage collector, which would have to scan the objects of all connections.
        """
        del self._link, self._auth, self.forwarding
        self._sessions.first = self.ticket.owner = None

    def _ends_soon(self, remaining: float) -> None:
        self._sessions.tell(f"The time for this login is over in {remaining:.0f} seconds.")

    def _time_is_over(self) -> None:
        self.limit_reached(SSHCode.LIMIT_LOGIN_TIME, "The login may not last any longer")
        self._link.end("The time for this login is over")

    def _grace_is_over(self) -> None:
        self._error = TimeoutError("the time to log in is over")
        self.limit_reached(SSHCode.LIMIT_LOGIN_GRACE, "The client took too long to log in")
        self._link.end("Timeout before authentication", constants.DISC_BY_APPLICATION)
