"""The link to a guest agent, which carries all traffic of one login.

The agent is under the guest's control. What it sends can end its own link and nothing else: a violation of the protocol
ends the link with :class:`~containerssh.core.errors.ProtocolError`. Callers limit the time of requests by cancelling.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from containerssh.agent.codec import (
    DIRECT_SINCE,
    OLDEST,
    VERSION,
    Fields,
    Frame,
    FrameType,
    Refused,
    StartFlag,
    broken,
    pack_text,
    pack_word,
)
from containerssh.agent.forwards import Forwards
from containerssh.agent.process import AgentProcess, Program, exit_of, pack_program, start_failed
from containerssh.agent.transport import Expected, FramedTransport, Transport, lost
from containerssh.core.codes import AgentCode
from containerssh.core.errors import BackendError, ContainerSSHError, ProtocolError
from containerssh.core.flag import Flag
from containerssh.core.messages import Event
from containerssh.core.streams import CHUNK, ByteReader, ByteWriter

__all__ = ["FRAMED_ARGUMENTS", "AgentLink", "AgentProcess", "Program", "framed_link"]

logger = logging.getLogger(__name__)

FRAMED_ARGUMENTS = ("serve", "--stdio")
"""The agent's arguments for :func:`framed_link`."""

_LEFTOVERS = {"hangUp": StartFlag(0), "end": StartFlag.END_LEFTOVERS, "keep": StartFlag.KEEP_LEFTOVERS}
_MAX_PROGRAMS = 1024
_MAX_UNANSWERED = 1024
_MOST_IDS = 0xFFFFFFFF

Move = Callable[[Transport], Awaitable[Transport | None]]
"""Moves the link to another transport after the handshake; None: no move. The caller closes the old transport."""


class AgentLink:
    """
    A connection to a guest agent, after the handshake.

    It is created and closed by :func:`framed_link` or :func:`containerssh.agent.dialback.dial_back`. All methods may be
    called by any number of tasks at once; a call that is cancelled leaves nothing behind.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._last_id = 0
        self._requests: dict[int, asyncio.Future[bytes | None]] = {}
        self._unanswered: set[int] = set()
        self._programs: dict[int, AgentProcess] = {}
        self._failure: ContainerSSHError | None = None
        self._gone = Flag()
        self._closing = False
        self._tasks: list[asyncio.Task[None]] = []
        self._forwards: Forwards | None = Forwards(self)
        self.version = ""
        """The build that the agent reports; untrusted text."""

    @property
    def forwards(self) -> Forwards:
        """The agent's forwards. Raises BackendError, ProtocolError: the link is closed."""
        if self._forwards is None:
            raise self.broken()
        return self._forwards

    async def open(self, move: Move | None = None) -> None:
        """
        Perform the handshake and start. The creator of the transport calls this once, under a time limit. If *move*
        returns another transport, the handshake is repeated there.

        Raises:
            ProtocolError: the peer is no agent, or has no supported protocol version.
            BackendError: the connection ended.
        """
        newest = await self._greeting()
        if move is not None and newest >= DIRECT_SINCE and (other := await move(self._transport)) is not None:
            self._transport.close()
            self._transport = other
            newest = await self._greeting()
        self._transport.sender.failed = self._sender_failed
        chosen = min(newest, VERSION)
        self._transport.sender.post(Frame(FrameType.WELCOME, 0, chosen.to_bytes(2, "big")).encode())
        self._tasks = [asyncio.create_task(self._receive()), asyncio.create_task(self._transport.sender.run())]

    async def _greeting(self) -> int:
        """The newest protocol version that the agent supports."""
        first, *rest = await self._transport.receive()
        if first.type is not FrameType.HELLO or rest:
            raise broken("did not begin with its handshake")
        fields = Fields(first.payload)
        newest, oldest = fields.number(2), fields.number(2)
        self.version = fields.text(64)
        fields.end()
        if newest < OLDEST or oldest > VERSION or newest < oldest:
            raise broken(f"speaks the protocol's versions {oldest} to {newest}; {OLDEST} to {VERSION} are needed")
        return newest

    async def start(self, program: Program) -> AgentProcess:
        """
        Start a program; returns when it runs. Call :meth:`AgentProcess.kill` in the end.

        Raises:
            BackendError: it cannot be started (the ``user_message`` says why), or the link is broken.
        """
        self.check()
        if len(self._programs) >= _MAX_PROGRAMS:
            raise start_failed(program, "too many programs at once")
        body = pack_program(program)
        expected: list[Expected] = []
        identity = self.next_id()
        try:
            expected.append(self._transport.expect())
            if program.pty is None:
                expected.append(self._transport.expect())
            references = b"".join(stream.reference for stream in expected)
            process = AgentProcess(self, identity, has_terminal=program.pty is not None)
            self._programs[identity] = process
            flags = StartFlag.TERMINAL if program.pty is not None else StartFlag(0)
            if program.agent:
                flags |= StartFlag.AGENT
            flags |= _LEFTOVERS[program.leftovers]
            await self.ask(FrameType.START, bytes((flags,)) + references + body, identity)
            streams = [await stream.opened() for stream in expected]
        except BaseException as exc:
            for stream in expected:
                stream.abandon()
            if identity in self._programs:
                # It may be running, or be about to.
                self.release(identity)
            if isinstance(exc, Refused):
                raise start_failed(program, exc.text) from None
            if isinstance(exc, ConnectionError):
                raise self.broken() from exc
            raise
        process.connect(streams)
        return process

    async def write_file(
        self, path: str, content: bytes, *, mode: int = 0o600, owner: tuple[int, int] | None = None
    ) -> None:
        """
        Write a file in the container atomically. Missing folders are created; a symbolic link at *path* is replaced.

        Raises:
            BackendError: it could not be written.
        """
        self.check()
        if "\0" in path:
            raise _file_failed(path, "a path cannot hold a NUL")
        uid, gid = owner or (0, 0)
        expected = self._transport.expect()
        body = b"".join(
            (
                expected.reference,
                pack_text(path),
                pack_word(mode),
                b"\1" if owner else b"\0",
                pack_word(uid),
                pack_word(gid),
                len(content).to_bytes(8, "big"),
            )
        )
        try:
            asking = asyncio.create_task(self.ask(FrameType.WRITE_FILE, body))
            sending = asyncio.create_task(_send_all(expected, content))
            try:
                await asking
            finally:
                for task in (asking, sending):
                    task.cancel()
                await asyncio.gather(asking, sending, return_exceptions=True)
        except Refused as exc:
            raise _file_failed(path, exc.text) from None
        finally:
            expected.abandon()

    async def wait_closed(self) -> None:
        """Wait until the link has ended, for whatever reason."""
        await self._gone.wait()

    async def close(self) -> None:
        """End all programs and the link; safe to call twice."""
        if not self._closing:
            self._closing = True
            if self._failure is None:
                self._transport.sender.post(Frame(FrameType.SHUTDOWN, 0).encode())
                # One iteration of the loop suffices for a peer that reads; others see the connection end.
                await asyncio.sleep(0)
            self._fail(lost("the link to the guest agent was closed"))
        others = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        self._tasks.clear()
        if self._forwards is not None:
            await self._forwards.finish()
            self._forwards = None

    def break_off(self, failure: ContainerSSHError) -> None:
        """End the link at once because of *failure*, which its users receive as an error."""
        self._fail(failure)

    async def request(self, kind: FrameType, payload: bytes, doing: str) -> None:
        """
        Send a request without a result, and wait for the answer.

        Raises:
            BackendError: the agent could not do it, or the link is broken.
        """
        self.check()
        try:
            await self.ask(kind, payload)
        except Refused as exc:
            explanation = f"{doing} failed: {exc.text}"
            raise BackendError(AgentCode.REQUEST_FAILED, explanation, user_message=explanation) from None

    def release(self, identity: int) -> None:
        """Have the agent release the program, and kill it if it runs, without waiting for the answer."""
        if self._failure is None:
            self.post(FrameType.KILL, pack_word(identity))

    def expect(self) -> Expected:
        """A new stream, to be announced by a request."""
        return self._transport.expect()

    async def ask(self, kind: FrameType, payload: bytes, identity: int | None = None) -> None:
        """
        Send a request and wait for its answer. *identity* is its id, if that was assigned before.

        Raises:
            Refused: the agent answered with an error.
            BackendError, ProtocolError: the link is broken.
        """
        identity = identity or self.next_id()
        answer: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        self._requests[identity] = answer
        self._transport.sender.post(Frame(kind, identity, payload).encode())
        try:
            refusal = await answer
        except asyncio.CancelledError:
            if self._requests.pop(identity, None) is not None:
                self._leave_unanswered(identity)
            raise
        if refusal is not None:
            fields = Fields(refusal)
            number = fields.number(2)
            raise Refused(number, fields.text())

    def post(self, kind: FrameType, payload: bytes) -> None:
        """Send a request without waiting for the answer."""
        identity = self.next_id()
        self._transport.sender.post(Frame(kind, identity, payload).encode())
        self._leave_unanswered(identity)

    def _leave_unanswered(self, identity: int) -> None:
        self._unanswered.add(identity)
        if len(self._unanswered) > _MAX_UNANSWERED:
            self._fail(broken("does not answer"))

    def next_id(self) -> int:
        """The id of a new request."""
        if self._last_id == _MOST_IDS:
            self._fail(lost("the link to the guest agent has run out of numbers"))
            self.check()
        self._last_id += 1
        return self._last_id

    async def _receive(self) -> None:
        try:
            while True:
                for frame in await self._transport.receive():
                    self._handle(frame)
        except ContainerSSHError as exc:
            self._fail(exc)
        except Exception:
            logger.exception(Event(AgentCode.LINK_BROKEN, "handling the guest agent's messages failed"))
            self._fail(lost("handling the guest agent's messages failed"))

    def _handle(self, frame: Frame) -> None:
        match frame.type:
            case FrameType.OK | FrameType.ERROR:
                self._answer(frame)
            case FrameType.LISTENING:
                self.forwards.listening(frame)
                self._answer(Frame(FrameType.OK, frame.id))
            case FrameType.ACCEPTED:
                self.forwards.accepted(frame)
            case FrameType.EXITED:
                process = self._programs.pop(frame.id, None)
                if process is None or frame.id in self._requests:
                    raise broken(f"reported the end of the program {frame.id}, which does not run")
                process.ended(exit_of(frame.payload))
            case _:
                raise broken("shook hands twice")

    def _answer(self, frame: Frame) -> None:
        payload = frame.payload if frame.type is FrameType.ERROR else None
        if payload is not None:
            fields = Fields(payload)
            fields.number(2)
            fields.text()
            fields.end()
            # If it was to start a program, there is none.
            self._programs.pop(frame.id, None)
        answer = self._requests.pop(frame.id, None)
        if answer is not None:
            # The caller may just have been cancelled.
            if not answer.done():
                answer.set_result(payload)
        elif frame.id in self._unanswered:
            self._unanswered.discard(frame.id)
        else:
            raise broken(f"answered the unknown request {frame.id}")

    def check(self) -> None:
        """Raise the error of :meth:`broken`, if the link is broken."""
        if self._failure is not None:
            raise self.broken()

    def broken(self) -> ContainerSSHError:
        """A new error for each call, since a raised exception collects tracebacks."""
        return _again(self._failure or lost("the connection to the guest agent broke"))

    def _sender_failed(self, error: Exception) -> None:
        self._fail(error if isinstance(error, ContainerSSHError) else lost("writing to the guest agent failed"))

    def _fail(self, failure: ContainerSSHError) -> None:
        if self._failure is not None:
            return
        # Not the error itself, whose traceback refers to this object.
        self._failure = _again(failure)
        self._transport.close()
        self._transport.sender.close()
        for answer in self._requests.values():
            if not answer.done():
                answer.set_exception(self.broken())
        self._requests.clear()
        for process in list(self._programs.values()):
            process.ended(self.broken())
        self._programs.clear()
        self.forwards.fail()
        current = asyncio.current_task()
        for task in self._tasks:
            if task is not current:
                task.cancel()
        self._gone.set()


@asynccontextmanager
async def framed_link(reader: ByteReader, writer: ByteWriter, move: Move | None = None) -> AsyncIterator[AgentLink]:
    """
    A link through one pair of byte streams, such as an engine's attach stream (``agent serve --stdio``).

    *move* may provide another transport, see :meth:`AgentLink.open`. Up to 64 KiB of other output may precede the
    agent's preamble. Entering waits for the agent: limit the time. The caller closes the streams afterwards.

    Raises:
        ProtocolError, BackendError: no agent answered, see :meth:`AgentLink.open`.
    """
    link = AgentLink(FramedTransport(reader, writer))
    try:
        await link.open(move)
        yield link
    finally:
        await link.close()


async def _send_all(expected: Expected, content: bytes) -> None:
    stream = await expected.opened()
    for start in range(0, len(content), CHUNK):
        await stream.write(content[start : start + CHUNK])
    await stream.write_eof()


def _again(failure: ContainerSSHError) -> ContainerSSHError:
    kind = ProtocolError if isinstance(failure, ProtocolError) else BackendError
    return kind(failure.code, failure.explanation, user_message=failure.user_message)


def _file_failed(path: str, reason: str) -> BackendError:
    text = f"the file {path!r} could not be written: {reason}"
    return BackendError(AgentCode.FILE_FAILED, text, user_message="A file could not be written.")
