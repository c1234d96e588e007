"""Dial-back: a folder for each container with the agent's binary and a listening unix socket.

The folder is bind-mounted read-only at :data:`MOUNT_POINT`, so any program in the container can connect, not only the
agent. The first connection becomes the link; others need a token that was sent through it. A connection is accepted
only while one is expected. A container that makes many others ends its own link.
"""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from containerssh.agent.binaries import agent_binary
from containerssh.agent.codec import STREAM_PREAMBLE, TOKEN_SIZE, Frame, FrameType, broken
from containerssh.agent.link import AgentLink
from containerssh.agent.sockets import GuestListener
from containerssh.agent.streams import SocketStream
from containerssh.agent.transport import Expected, Transport, lost
from containerssh.core.errors import ProtocolError
from containerssh.core.flag import Flag
from containerssh.core.streams import ByteStream

MOUNT_POINT = "/.containerssh"

_BACKLOG = 512
_MAX_STRANGERS = 64
_MAX_GIVEN_UP = 1024
# The pause between attempts to accept while the system refuses.
_ACCEPT_PAUSE = 0.1
_PASSING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ECONNABORTED})
_MAX_UNIDENTIFIED = 16
_IDENTIFY_LIMIT = 5.0


class DialBack:
    """The host's side of one container; created by :func:`dial_back`."""

    command: tuple[str, ...] = (f"{MOUNT_POINT}/agent", "serve", "--socket", f"{MOUNT_POINT}/socket")
    """What to run inside the container."""

    def __init__(self, folder: Path, listener: socket.socket) -> None:
        self.folder = folder
        self._listener = listener
        self._link: AgentLink | None = None
        self._transport: _SocketTransport | None = None

    async def accept(self) -> AgentLink:
        """
        The link, once the agent has connected. Call this once, under a time limit. Leaving the scope closes the link.

        Raises:
            ProtocolError: the peer is no agent, or has no supported protocol version.
        """
        assert self._transport is None
        connection = await _accept(self._listener)
        self._transport = _SocketTransport(self._listener, SocketStream(connection))
        self._link = AgentLink(self._transport)
        self._transport.flooded = self._link.break_off
        await self._link.open()
        return self._link

    async def close(self) -> None:
        """End the link and stop listening."""
        if self._link is not None:
            await self._link.close()
        if self._transport is not None:
            await self._transport.finish()
        self._listener.close()


@asynccontextmanager
async def dial_back(
    parent: Path, architecture: str, *, owner: tuple[int, int] | None = None
) -> AsyncIterator[DialBack]:
    """
    Create a folder for one container below *parent*, which only this user may access (0700). It is removed at the end.

    With *owner*, the folder and the socket belong to that user and group, for containers whose root is another user.

    Raises:
        BackendError: there is no agent for *architecture* (:func:`~containerssh.agent.binaries.agent_binary`).
        OSError: the folder cannot be created.
    """
    binary = await asyncio.to_thread(_shared_agent, parent, architecture)
    folder = Path(tempfile.mkdtemp(prefix="link-", dir=parent))
    try:
        os.link(binary, folder / "agent")
        listener = _listen(folder)
        try:
            if owner is not None:
                os.chown(folder, *owner)
                os.chown(folder / "socket", *owner)
            dialled = DialBack(folder, listener)
            try:
                yield dialled
            finally:
                await dialled.close()
        finally:
            listener.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _shared_agent(parent: Path, architecture: str) -> Path:
    """One copy below *parent* for all containers, since a hard link cannot cross file systems."""
    source = agent_binary(architecture)
    found = source.stat()
    shared = parent / f"{source.name}-{found.st_size:x}-{found.st_mtime_ns:x}"
    if not shared.exists():
        descriptor, name = tempfile.mkstemp(prefix=".agent-", dir=parent)
        unfinished = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as target, source.open("rb") as content:
                shutil.copyfileobj(content, target)
                os.fchmod(target.fileno(), 0o755)
            # Never replace it: creating a link to a file that is just being replaced fails.
            with suppress(FileExistsError):
                os.link(unfinished, shared)
        finally:
            unfinished.unlink(missing_ok=True)
    return shared


def _listen(folder: Path) -> socket.socket:
    folder.chmod(0o755)
    listener = GuestListener()
    try:
        listener.setblocking(False)
        # By descriptor: a socket's path is limited to 107 bytes, and the folder's path may be longer.
        descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            listener.bind(f"/proc/self/fd/{descriptor}/socket")
        finally:
            os.close(descriptor)
        (folder / "socket").chmod(0o666)
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


class _SocketTransport(Transport):
    """One connection for control frames, and one for each stream."""

    def __init__(self, listener: socket.socket, control: SocketStream) -> None:
        super().__init__(control, control, noise=0)
        self._control = control
        self._listener = listener
        self._expected: dict[bytes, _SocketExpected] = {}
        # Abandoned streams that the agent may still open.
        self._given_up: dict[bytes, None] = {}
        self._open: set[SocketStream] = set()
        self._wanted = Flag()
        self._strangers = 0
        self._unidentified = asyncio.Semaphore(_MAX_UNIDENTIFIED)
        self.flooded: Callable[[ProtocolError], None] = _ignore
        self._closed = False
        # The task that accepts, and those that identify new connections.
        self._tasks = {asyncio.create_task(self._accept())}

    def expect(self) -> Expected:
        if self._closed:
            raise lost("the link to the guest agent is gone")
        token = secrets.token_bytes(TOKEN_SIZE)
        expected = _SocketExpected(self, token)
        self._expected[token] = expected
        self._wanted.set()
        return expected

    def give_up(self, token: bytes) -> None:
        """The stream is no longer wanted, but its connection may still come."""
        if token in self._expected:
            self._given_up[token] = None
            if len(self._given_up) > _MAX_GIVEN_UP:
                del self._given_up[next(iter(self._given_up))]
        self._forget(token)

    def _forget(self, token: bytes) -> None:
        self._expected.pop(token, None)
        if not self._expected:
            self._wanted.clear()

    def close(self) -> None:
        self._closed = True
        for task in self._tasks:
            task.cancel()
        for expected in list(self._expected.values()):
            expected.fail()
        self._expected.clear()
        for stream in list(self._open):
            stream.abort()
        self._control.abort()

    async def finish(self) -> None:
        """Wait until all tasks have ended, after :meth:`close`."""
        self.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        self.flooded = _ignore

    def _deliver(self, frame: Frame) -> bool:
        if frame.type >= FrameType.DATA:
            raise broken("sent a stream's message where streams have connections of their own")
        return False

    def closed(self, stream: SocketStream) -> None:
        """A stream was closed."""
        self._open.discard(stream)

    async def _accept(self) -> None:
        while True:
            await self._wanted.wait()
            await self._unidentified.acquire()
            connection = await _accept(self._listener)
            stream = _StreamSocket(self, connection)
            # Now, since a task that is cancelled before its first step would not close it.
            self._open.add(stream)
            task = asyncio.create_task(self._identify(stream))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _identify(self, stream: _StreamSocket) -> None:
        expected = None
        known = False
        try:
            with suppress(OSError):
                token = await _read_token(stream)
                if token is not None and (expected := self._expected.get(token)) is not None:
                    self._forget(token)
                    expected.found(stream)
                elif token in self._given_up:
                    del self._given_up[token]
                    known = True
        finally:
            self._unidentified.release()
            if expected is None:
                stream.abort()
        if expected is None and not known:
            self._strangers += 1
            if self._strangers > _MAX_STRANGERS:
                self.flooded(broken("is not the only program that connects: too many connections without a token"))


class _StreamSocket(SocketStream):
    """A stream's connection, which notifies the transport when it is closed."""

    def __init__(self, transport: _SocketTransport, connection: socket.socket) -> None:
        super().__init__(connection)
        self._transport = transport

    def at_hand(self, limit: int) -> bytes:
        """Read without waiting; raises OSError."""
        return self._receive(limit) or b""

    def abort(self) -> None:
        super().abort()
        self._transport.closed(self)


class _SocketExpected(Expected):
    def __init__(self, transport: _SocketTransport, token: bytes) -> None:
        self._transport = transport
        self._token = token
        self._arrived: asyncio.Future[_StreamSocket] = asyncio.get_running_loop().create_future()
        # The agent opens connections in any order, so the id is not used.
        self.reference = bytes(4) + token

    async def opened(self) -> ByteStream:
        return await asyncio.shield(self._arrived)

    def found(self, stream: _StreamSocket) -> None:
        """The connection with this token has arrived."""
        self._arrived.set_result(stream)

    def fail(self) -> None:
        """The link broke."""
        if not self._arrived.done():
            self._arrived.set_exception(ConnectionResetError("the link to the guest agent broke"))
            # There may be no caller yet to receive it.
            self._arrived.exception()

    def abandon(self) -> None:
        self._transport.give_up(self._token)
        if not self._arrived.done():
            self._arrived.cancel()
        elif not self._arrived.cancelled() and self._arrived.exception() is None:
            self._arrived.result().abort()


def _ignore(error: ProtocolError) -> None:
    """The callback until a link uses the transport."""


async def _accept(listener: socket.socket) -> socket.socket:
    """
    The next connection. Unlike the loop's own call, this loses none when it is cancelled, and waits while there are no
    descriptors. Callers limit the time.
    """
    loop = asyncio.get_running_loop()
    while True:
        try:
            return listener.accept()[0]
        except BlockingIOError:
            pass
        except OSError as exc:
            if exc.errno not in _PASSING:
                raise
            await asyncio.sleep(_ACCEPT_PAUSE)
            continue
        ready = loop.create_future()
        loop.add_reader(listener, _set, ready)
        try:
            await ready
        finally:
            loop.remove_reader(listener)


def _set(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


async def _read_token(stream: _StreamSocket) -> bytes | None:
    """The stream's token; None if the connection is no agent's stream or does not send it in time."""
    wanted = len(STREAM_PREAMBLE) + TOKEN_SIZE
    data = b""
    try:
        async with asyncio.timeout(_IDENTIFY_LIMIT):
            while len(data) < wanted:
                more = await stream.read(wanted - len(data))
                if not more:
                    return None
                data += more
    except TimeoutError:
        # The event loop may have been blocked, and the data may have arrived meanwhile.
        data += stream.at_hand(wanted - len(data))
        if len(data) < wanted:
            return None
    return data[len(STREAM_PREAMBLE) :] if data.startswith(STREAM_PREAMBLE) else None
