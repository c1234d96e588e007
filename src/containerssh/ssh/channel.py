"""One session channel: its requests, its streams and its end."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from asyncssh import constants
from asyncssh.packet import String, UInt32

from containerssh.core.codes import SecurityCode, SSHCode
from containerssh.core.errors import BackendError, ContainerSSHError, ProtocolError, Rejected, describe
from containerssh.core.flag import Flag
from containerssh.core.handlers import SessionChannel, SessionHandler
from containerssh.core.messages import Event, log_labels
from containerssh.core.requests import SIGNALS, ExitSignal, Origin, from_wire, to_wire
from containerssh.core.streams import ByteStream
from containerssh.ssh.channel_adapter import AdapterChannel
from containerssh.ssh.login import OpenLogin, joined
from containerssh.ssh.options import Limits
from containerssh.ssh.request_queue import Request, RequestQueue
from containerssh.ssh.session_requests import SessionRequests, exit_signal_fields, exit_status_fields
from containerssh.ssh.streams import ChannelReader, ChannelWriter
from containerssh.ssh.user_messages import LoginFailed, message_of, terminal_line, user_line

if TYPE_CHECKING:
    from containerssh.ssh.forwarding import Forwarding

logger = logging.getLogger(__name__)

_STARTS = frozenset({b"shell", b"exec", b"subsystem"})
_AGENT = b"auth-agent-req@openssh.com"
_NOT_STARTED = 127
_BROKEN = 255
# A program's exit usually follows the end of its output at once. Sending both together prevents that a client
# leaves in between.
_EOF_DELAY = 0.1
# OpenSSH's client exits at once when a start fails; this delay lets it display earlier output.
_READ_FIRST = 0.1
# How long a client with a full window may take to read the error message.
_TELLING = 2.0


class Session(SessionChannel):
    """The front's side of a session channel. :meth:`run` is its task; the adapter calls the first methods."""

    stdin: ChannelReader
    stdout: ChannelWriter
    stderr: ChannelWriter

    def __init__(
        self,
        channel: AdapterChannel,
        number: int,
        login: asyncio.Future[OpenLogin],
        connection_id: str,
        limits: Limits,
        limit_reached: Callable[[SSHCode, str], None],
    ) -> None:
        self._channel = channel
        self._number = number
        self._login = login
        self._connection_id = connection_id
        self._queue = RequestQueue(limits)
        self._limit_reached = limit_reached
        self._requests = SessionRequests(limits, limit_reached)
        self._wake = Flag()
        self._closed = False
        self._context = contextvars.copy_context()
        self._scope: asyncio.Timeout | None = None
        self._handler: SessionHandler | None = None
        self._starting = False
        self._started = False
        self._stopping = False
        self._outputs_open = 2
        self._ending = False
        self._exited = Flag()
        self._eof_timer: asyncio.TimerHandle | None = None
        self.forwarding: Forwarding | None = None
        """Opens channels towards the client; set by the creator of the session."""
        self.on_interactive: Callable[[], None] | None = None
        self.on_told: Callable[[], None] | None = None
        self.interactive = False
        self._asked_pty = False
        self._no_agent = ""
        self.stdin = ChannelReader(channel)
        self.stdout = ChannelWriter(channel, self._output_ended, stderr=False)
        self.stderr = ChannelWriter(channel, self._output_ended, stderr=True)

    # -- called by the adapter ------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether a program runs whose exit has not been reported."""
        return self._started and not self._ending

    def requested(self, name: bytes, want_reply: bool, payload: bytes) -> None:
        """A channel request arrived; it is answered after those before it."""
        # Requests that arrive after the server's CLOSE are not answered.
        if self._closed or self._ending or self._channel.closed:
            return
        if not self._queue.put(Request(name, want_reply, payload)):
            self._limit_reached(SSHCode.LIMIT_QUEUED_REQUESTS, "The client queues too many requests on one channel")
            self._channel.cut()
            return
        self._wake.set()
        self._asked_pty = self._asked_pty or name == b"pty-req"
        if self._asked_pty and name in (b"shell", b"exec") and not self.interactive:
            self.interactive = True
            if self.on_interactive:
                self.on_interactive()

    def data_received(self, data: bytes) -> None:
        self.stdin.feed(data)

    def eof_received(self) -> None:
        self.stdin.feed_eof()

    def resume_writing(self) -> None:
        self.stdout.resume()
        self.stderr.resume()

    def finished(self) -> None:
        """Everything was sent, CLOSE included."""
        self._exited.set()
        self._close()

    def closed_by_peer(self) -> None:
        """The channel was closed, by the client or with the connection; cancels a pending handler call."""
        self._exited.set()
        self._close()
        if self._scope is not None:
            self._scope.reschedule(asyncio.get_running_loop().time())
            self._scope = None

    def log(self, level: int, event: Event, error: BaseException | None = None) -> None:
        """Log with this session's labels, from any context."""
        self._context.run(logger.log, level, event, exc_info=error)

    def notice(self, text: str) -> None:
        """Show one line to the user, if the channel still accepts output."""
        with suppress(BrokenPipeError):
            self._channel.put(terminal_line(text), stderr=True)

    def _close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._eof_timer:
            self._eof_timer.cancel()
        self.stdin.fail()
        self.stdout.fail()
        self.stderr.fail()
        self._wake.set()

    # -- SessionChannel ----------------------------------------------------------------------------------

    async def exit_status(self, status: int) -> None:
        await self._exit(exit_status_fields(status), Event(SSHCode.EXIT, "Program exited", exitCode=status))

    async def exit_signal(self, signal: ExitSignal) -> None:
        name = signal.name if signal.name in SIGNALS or "@" in signal.name else f"{signal.name}@containerssh.io"
        fields = exit_signal_fields(name, signal.core_dumped, signal.message)
        await self._exit(fields, Event(SSHCode.EXIT_SIGNAL, "Program ended by a signal", signal=signal.name))

    async def open_x11(self, origin: Origin) -> ByteStream:
        return await self._open("x11", "x11", String(to_wire(origin.host)) + UInt32(origin.port))

    async def open_agent(self) -> ByteStream:
        return await self._open("agent", "auth-agent@openssh.com", b"")

    async def _open(self, what: str, kind: str, fields: bytes) -> ByteStream:
        if what not in self._requests.asked or self.forwarding is None:
            raise Rejected(SSHCode.NEW_CHANNEL_REJECTED, f"the client has not asked for channels of type {kind}")
        return await self.forwarding.open(kind, fields)

    async def _exit(self, request: tuple[bytes, bytes], event: Event) -> None:
        await self.stdout.started()
        if self._ending:
            return
        if self._closed:
            logger.debug(
                Event(SSHCode.EXIT_CODE_FAILED, "The client was gone before the end of its program could be reported")
            )
            return
        self._ending = True
        logger.debug(event)
        self._finish(request)
        await self._exited.wait()

    async def fail(self, error: Exception) -> None:
        fault = None if isinstance(error, ContainerSSHError) else error
        event = (
            error.event()
            if isinstance(error, ContainerSSHError)
            else Event(SSHCode.CHANNEL_REQUEST_FAILED, f"The session failed ({describe(error)})")
        )
        logger.error(event, exc_info=fault)
        await self.stdout.started()
        if not self._ending and not self._closed:
            self._ending = True
            self._tell(error)
            self._finish(exit_status_fields(_BROKEN))
            await self._exited.wait()

    def _finish(self, request: tuple[bytes, bytes]) -> None:
        if self._eof_timer:
            self._eof_timer.cancel()
        self._channel.finish(*request)

    def _output_ended(self) -> None:
        self._outputs_open -= 1
        if self._outputs_open == 0 or (self._requests.pty and self.stdout.ended):
            self._eof_timer = asyncio.get_running_loop().call_later(_EOF_DELAY, self._channel.end_output)

    def _tell(self, error: Exception) -> None:
        with suppress(BrokenPipeError):
            line = user_line(message_of(error), self._connection_id)
            self._channel.put(terminal_line(line) if self._asked_pty else f"{line}\n".encode(), stderr=True)

    # -- the task ----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve the session until its end. Never raises because of errors of peers or handlers."""
        with log_labels(channelId=self._number):
            self._context = contextvars.copy_context()
            try:
                async with asyncio.timeout(None) as scope:
                    self._scope = scope
                    try:
                        if not self._closed:
                            await self._run()
                    finally:
                        self._scope = None
            except TimeoutError:
                if not self._closed:
                    await self._refuse(BackendError(SSHCode.CHANNEL_REQUEST_FAILED, "the session timed out"))
            except Exception as exc:  # noqa: BLE001  any fault costs this channel only; logged in there
                await self._refuse(exc)
            finally:
                self._channel.cut()
                self._close()

    async def _run(self) -> None:
        try:
            connection = await joined(self._login)
            self._context = contextvars.copy_context()
        except LoginFailed as exc:
            await self._tell_failed_login(exc.error)
            return
        async with connection.session(self) as handler:
            self._handler = handler
            self._channel.confirm()
            logger.debug(Event(SSHCode.NEW_CHANNEL, "Session channel opened", type="session"))
            while (request := await self._next()) is not None:
                await self._handle(handler, *request)
            self._handler = None

    def server_stops(self, why: str, grace: float) -> None:
        """Tell the user of an interactive session that the server stops; close a channel without a program."""
        self._stopping = True
        if self.running and self.interactive and grace:
            self.notice(f"\r\ncontainerssh: {why}. This session ends within {grace:g} seconds.")
        elif not self._started and not self._starting and not self._ending:
            self._channel.cut()
            self.closed_by_peer()

    async def terminate(self) -> None:
        """The server is stopping: terminate the program, if one runs."""
        if self._handler is not None:
            await self._handler.terminate()

    async def _next(self) -> Request | None:
        while not self._closed:
            if (request := self._queue.take()) is not None:
                return request
            self._wake.clear()
            # The handler is not running here, so returning suffices...
            scope, self._scope = self._scope, None
            await self._wake.wait()
            self._scope = scope
        # ... and its clean-up is not cancelled either.
        self._scope = None
        return None

    async def _refuse(self, error: Exception) -> None:
        """The session's scope failed: refuse the channel if it is still unconfirmed, otherwise tell the user."""
        if isinstance(error, Rejected):
            logger.debug(error.event())
        elif isinstance(error, ContainerSSHError):
            logger.error(error.event())
        else:
            text = f"The session ended because of a fault in the server ({describe(error)})"
            logger.error(Event(SSHCode.CHANNEL_REQUEST_FAILED, text), exc_info=error)
        if self._closed:
            return
        code = constants.OPEN_CONNECT_FAILED
        if isinstance(error, Rejected):
            full = error.code is SecurityCode.MAX_SESSIONS
            code = constants.OPEN_RESOURCE_SHORTAGE if full else constants.OPEN_ADMINISTRATIVELY_PROHIBITED
        logger.debug(Event(SSHCode.NEW_CHANNEL_REJECTED, "The session was refused"))
        self._channel.refuse(code, message_of(error))
        if not self._closed:
            self._ending = True
            self._tell(error)
            self._finish(exit_status_fields(_BROKEN))
            await self._wait_until_told()

    async def _wait_until_told(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_TELLING):
                await self._exited.wait()

    async def _tell_failed_login(self, error: Exception) -> None:
        """Answer requests until the one that starts a program, which receives the error message."""
        self._channel.confirm()
        while (request := await self._next()) is not None:
            name, want_reply, _ = request
            start = name in _STARTS
            if want_reply and not start:
                self._channel.reply(name in (b"env", b"pty-req"))
            if start:
                self._tell(error)
                if want_reply:
                    self._channel.reply(True)
                self._ending = True
                self._finish(exit_status_fields(_BROKEN))
                if self.on_told:
                    self.on_told()
                await self._wait_until_told()
                return

    # -- requests -----------------------------------------------------------------------------------------

    async def _handle(self, handler: SessionHandler, name: bytes, want_reply: bool, payload: bytes) -> None:
        label = from_wire(name[:256])
        logger.debug(Event(SSHCode.CHANNEL_REQUEST, "Channel request", RequestType=label))
        error: Exception | None = None
        self._starting = name in _STARTS
        if self._starting and self.forwarding is not None:
            await self.forwarding.settled()
        try:
            await self._requests.perform(handler, name, payload, started=self._started)
        except (Rejected, ProtocolError) as exc:
            logger.debug(exc.event())
            error = exc
        except ContainerSSHError as exc:
            logger.error(exc.event())  # noqa: TRY400  told by its own words
            error = exc
        except Exception as exc:
            text = f"A request failed because of a fault in the server ({describe(exc)})"
            logger.exception(Event(SSHCode.CHANNEL_REQUEST_FAILED, text, RequestType=label))
            error = exc
        if error is None:
            logger.debug(Event(SSHCode.CHANNEL_REQUEST_SUCCESSFUL, "Channel request successful", RequestType=label))
        else:
            reason = describe(error)
            logger.debug(
                Event(SSHCode.CHANNEL_REQUEST_FAILED, "Channel request failed", RequestType=label, reason=reason)
            )
            if name == _AGENT and not want_reply:
                self._no_agent = message_of(error)
        if name in _STARTS and not self._started:
            await self._answer_start(name, want_reply, error)
            if self.running and self._stopping:
                await handler.terminate()
        elif want_reply:
            self._channel.reply(error is None)

    async def _answer_start(self, name: bytes, want_reply: bool, error: Exception | None) -> None:
        if error is None:
            self._started = True
            if self._no_agent and self.interactive:
                # OpenSSH's client wants no reply to its request for an ssh-agent, so it cannot say this itself.
                self.notice(f"containerssh: {self._no_agent}")
        elif name == b"subsystem" or isinstance(error, Rejected | ProtocolError):
            if not isinstance(error, ProtocolError):
                self._tell(error)
                await asyncio.sleep(_READ_FIRST)
        else:
            # On a failure reply, OpenSSH's client would print a generic message and exit with 255 without the reason.
            self._tell(error)
            if want_reply:
                self._channel.reply(True)
            self._ending = True
            status = _NOT_STARTED if isinstance(error, BackendError) else _BROKEN
            self._finish(exit_status_fields(status))
            return
        if want_reply:
            self._channel.reply(error is None)
        if error is None:
            self.stdout.start()
            self.stderr.start()
