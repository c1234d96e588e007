"""A backend for tests of the SSH front: sessions run programs of this machine, with pipes or a terminal."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import signal
import struct
import termios
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from containerssh.core.codes import AuthCode, DockerCode
from containerssh.core.errors import AuthFailed, BackendError, Rejected
from containerssh.core.handlers import (
    AuthMethod,
    ConnectionHandler,
    NetworkHandler,
    Notices,
    Prompts,
    PublicKey,
    ServerHandler,
    SessionChannel,
    SessionHandler,
)
from containerssh.core.metadata import AuthAttempt, ConnectionMetadata, Login
from containerssh.core.requests import ExitSignal, PtyRequest, WindowSize, to_wire
from containerssh.core.streams import CHUNK, ByteWriter


@dataclass
class LocalBackend(ServerHandler):
    """
    Lets everybody in who shows the right password or one of the keys.

    The hooks are called by the handlers in their own tasks, so that a test can make any step slow or let it fail.
    """

    password: bytes = b"secret"
    keys: set[str] = field(default_factory=set)
    """``type base64`` of the keys that may log in."""
    methods: frozenset[AuthMethod] = frozenset({AuthMethod.PASSWORD, AuthMethod.PUBLIC_KEY})
    subsystems: dict[str, str] = field(default_factory=dict)
    shell: str = "/bin/sh"
    on_accept: Callable[[ConnectionMetadata], Awaitable[None]] | None = None
    on_auth: Callable[[AuthAttempt, object], Awaitable[None]] | None = None
    """Log in with the password or the key."""
    on_login: Callable[[Login, Notices], Awaitable[None]] | None = None
    on_session: Callable[[SessionChannel], Awaitable[None]] | None = None
    on_start: Callable[[str], Awaitable[None]] | None = None
    on_interactive: Callable[[AuthAttempt, Prompts], Awaitable[Login]] | None = None

    asked: list[tuple[str, object]] = field(default_factory=list)
    """All questions to the authenticator: user name, and password or key."""
    logins: list[Login] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)
    open_scopes: int = 0
    """Connections, logins and sessions whose scope is entered."""

    @asynccontextmanager
    async def accept(self, meta: ConnectionMetadata) -> AsyncIterator[NetworkHandler]:
        if self.on_accept:
            await self.on_accept(meta)
        self.open_scopes += 1
        try:
            yield LocalNetwork(self)
        finally:
            self.open_scopes -= 1


@dataclass
class LocalNetwork(NetworkHandler):
    backend: LocalBackend

    @property
    def auth_methods(self) -> frozenset[AuthMethod]:
        return self.backend.methods

    async def authenticate_password(self, attempt: AuthAttempt, password: bytes) -> Login:
        self.backend.asked.append((attempt.username, password))
        if self.backend.on_auth:
            await self.backend.on_auth(attempt, password)
        if password != self.backend.password:
            raise AuthFailed(AuthCode.FAILED, "wrong password")
        return Login.of(attempt, attempt.username)

    async def authenticate_public_key(self, attempt: AuthAttempt, key: PublicKey) -> Login:
        self.backend.asked.append((attempt.username, key))
        if self.backend.on_auth:
            await self.backend.on_auth(attempt, key)
        if key.authorized_key not in self.backend.keys:
            raise AuthFailed(AuthCode.FAILED, "unknown key")
        return Login.of(attempt, key.fingerprint)

    async def authenticate_interactive(self, attempt: AuthAttempt, prompts: Prompts) -> Login:
        assert self.backend.on_interactive is not None
        return await self.backend.on_interactive(attempt, prompts)

    def handshake_failed(self, error: Exception) -> None:
        self.backend.failures.append(error)

    @asynccontextmanager
    async def login(self, login: Login, notices: Notices) -> AsyncIterator[ConnectionHandler]:
        if self.backend.on_login:
            await self.backend.on_login(login, notices)
        self.backend.logins.append(login)
        self.backend.open_scopes += 1
        try:
            yield LocalConnection(self.backend)
        finally:
            self.backend.open_scopes -= 1


@dataclass
class LocalConnection(ConnectionHandler):
    backend: LocalBackend

    @asynccontextmanager
    async def session(self, channel: SessionChannel) -> AsyncIterator[SessionHandler]:
        if self.backend.on_session:
            await self.backend.on_session(channel)
        session = LocalSession(self.backend, channel)
        self.backend.open_scopes += 1
        try:
            yield session
        finally:
            self.backend.open_scopes -= 1
            await session.kill()


class LocalSession(SessionHandler):
    def __init__(self, backend: LocalBackend, channel: SessionChannel) -> None:
        self._backend = backend
        self._channel = channel
        self._env: dict[str, str] = {}
        self._pty: PtyRequest | None = None
        self._terminal: int | None = None
        self._program: asyncio.subprocess.Process | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def set_env(self, name: str, value: str) -> None:
        self._backend.requests.append(f"env {name}={value}")
        self._env[name] = value

    async def request_pty(self, request: PtyRequest) -> None:
        self._backend.requests.append(f"pty {request.term} {request.size.columns}x{request.size.rows}")
        self._pty = request

    async def run_shell(self) -> None:
        await self._start("shell", [self._backend.shell])

    async def run_command(self, command: str) -> None:
        await self._start(f"exec {command}", ["/bin/sh", "-c", command])

    async def run_subsystem(self, name: str) -> None:
        if name not in self._backend.subsystems:
            raise Rejected(DockerCode.SUBSYSTEM_NOT_SUPPORTED, "unknown subsystem", user_message="No such subsystem.")
        await self._start(f"subsystem {name}", ["/bin/sh", "-c", self._backend.subsystems[name]])

    async def resize(self, size: WindowSize) -> None:
        self._backend.requests.append(f"resize {size.columns}x{size.rows}")
        if self._terminal is not None:
            _set_size(self._terminal, size)
        elif self._pty is not None:
            self._pty = PtyRequest(self._pty.term, size, self._pty.modes)

    async def send_signal(self, name: str) -> None:
        self._backend.requests.append(f"signal {name}")
        self._signal(getattr(signal, f"SIG{name}"))

    async def send_break(self, milliseconds: int) -> None:
        self._backend.requests.append(f"break {milliseconds}")

    async def terminate(self) -> None:
        self._backend.requests.append("terminate")
        self._signal(signal.SIGTERM)

    async def kill(self) -> None:
        """End what is left of the program, and the pumps."""
        self._signal(signal.SIGKILL)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._program is not None:
            # asyncio tells of a program's end only after that of its pipes.
            for pipe in (self._program.stdout, self._program.stderr):
                while pipe is not None and await pipe.read(CHUNK):
                    pass
            await self._program.wait()
        if self._terminal is not None:
            os.close(self._terminal)

    def _signal(self, number: int) -> None:
        if self._program is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._program.pid, number)

    async def _start(self, what: str, argv: Sequence[str]) -> None:
        self._backend.requests.append(what)
        if self._backend.on_start:
            await self._backend.on_start(what)
        env = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
        wire_env = {to_wire(name): to_wire(value) for name, value in {**env, **self._env}.items()}
        pipe = asyncio.subprocess.PIPE
        wire_argv = [to_wire(word) for word in argv]
        try:
            if self._pty is None:
                self._program = await asyncio.create_subprocess_exec(
                    *wire_argv, stdin=pipe, stdout=pipe, stderr=pipe, env=wire_env, start_new_session=True, limit=CHUNK
                )
                self._tasks.append(asyncio.create_task(self._run_with_pipes()))
            else:
                self._terminal, inner = pty.openpty()
                _set_size(self._terminal, self._pty.size)
                try:
                    self._program = await asyncio.create_subprocess_exec(
                        *wire_argv,
                        stdin=inner,
                        stdout=inner,
                        stderr=inner,
                        env={**wire_env, b"TERM": to_wire(self._pty.term)},
                        start_new_session=True,
                        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
                    )
                finally:
                    os.close(inner)
                self._tasks.append(asyncio.create_task(self._run_with_terminal(self._terminal)))
        except OSError as exc:
            raise BackendError(
                DockerCode.EXEC_CREATE_FAILED, "the program cannot be started", user_message="No such program."
            ) from exc

    async def _run_with_pipes(self) -> None:
        program = self._program
        assert program is not None
        assert program.stdin is not None
        assert program.stdout is not None
        assert program.stderr is not None
        feed = asyncio.create_task(self._feed(program.stdin))
        self._tasks.append(feed)
        try:
            await asyncio.gather(
                _copy(program.stdout, self._channel.stdout), _copy(program.stderr, self._channel.stderr)
            )
        except ConnectionError:
            return
        await self._tell_end()

    async def _feed(self, stdin: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await self._channel.stdin.read():
                stdin.write(data)
                await stdin.drain()
        stdin.close()

    async def _run_with_terminal(self, terminal: int) -> None:
        loop = asyncio.get_running_loop()
        writer = asyncio.create_task(self._feed_terminal(terminal))
        self._tasks.append(writer)
        with suppress(OSError):  # EIO: nobody has the terminal open any more
            while data := await loop.run_in_executor(None, os.read, terminal, CHUNK):
                await self._channel.stdout.write(data)
        with suppress(ConnectionError):
            await self._channel.stdout.write_eof()
        await self._tell_end()

    async def _feed_terminal(self, terminal: int) -> None:
        loop = asyncio.get_running_loop()
        with suppress(ConnectionError):
            while data := await self._channel.stdin.read():
                await loop.run_in_executor(None, os.write, terminal, data)
            await loop.run_in_executor(None, os.write, terminal, b"\x04")

    async def _tell_end(self) -> None:
        assert self._program is not None
        status = await self._program.wait()
        if status < 0:
            await self._channel.exit_signal(ExitSignal(signal.Signals(-status).name.removeprefix("SIG")))
        else:
            await self._channel.exit_status(status)


async def _copy(source: asyncio.StreamReader, target: ByteWriter) -> None:
    while data := await source.read(CHUNK):
        await target.write(data)
    await target.write_eof()


def _set_size(terminal: int, size: WindowSize) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", size.rows, size.columns, size.width, size.height))


def read_public_key(path: Path) -> str:
    """``type base64`` of the public key beside the private key *path*."""
    return " ".join(Path(f"{path}.pub").read_text().split()[:2])
