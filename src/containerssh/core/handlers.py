"""The contracts between the SSH front, the layers and the backends. Read this file first.

A login is three nested scopes: a TCP connection, an authenticated connection, a session channel. Each is an async
context manager, entered and left by one and the same task of the SSH front. Requests go inwards through the handlers;
bytes go outwards through the :class:`SessionChannel` that the innermost handler was given.

A method that refuses raises: :class:`~containerssh.core.errors.Rejected` by policy,
:class:`~containerssh.core.errors.BackendError` when the container fails. The front answers the request with a failure,
logs the error once and shows its ``user_message`` where the protocol has a place for it. Any other exception is a fault
of ours: it costs that channel, or that connection, and nobody else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum

from containerssh.core.codes import SSHCode
from containerssh.core.errors import AuthFailed, Rejected
from containerssh.core.files import FileEvent, SFTPRules
from containerssh.core.forwarding import ANY_ADDRESS, AddressRules
from containerssh.core.metadata import AuthAttempt, ConnectionMetadata, Login
from containerssh.core.requests import ExitSignal, Origin, PtyRequest, WindowSize, X11Request
from containerssh.core.streams import ByteReader, ByteStream, ByteWriter


class AuthMethod(StrEnum):
    """Authentication methods by their SSH names (RFC 4252, 4256, 4462)."""

    PASSWORD = "password"  # noqa: S105  the name of the method
    PUBLIC_KEY = "publickey"
    KEYBOARD_INTERACTIVE = "keyboard-interactive"
    GSSAPI = "gssapi-with-mic"


@dataclass(frozen=True)
class PublicKey:
    """A key, or a certificate, that a client shows."""

    algorithm: str
    """The key's own type, ``ssh-ed25519`` or ``ssh-ed25519-cert-v01@openssh.com``."""
    blob: bytes
    """The wire encoding (RFC 4253 section 6.6)."""

    @property
    def authorized_key(self) -> str:
        """``type base64``, as in an authorized_keys file, without comment."""
        from base64 import b64encode

        return f"{self.algorithm} {b64encode(self.blob).decode()}"

    @property
    def fingerprint(self) -> str:
        """``SHA256:`` and unpadded base64, as OpenSSH shows it."""
        from base64 import b64encode
        from hashlib import sha256

        return "SHA256:" + b64encode(sha256(self.blob).digest()).decode().rstrip("=")


class Prompts(ABC):
    """Asking the person at the other end, during keyboard-interactive authentication (RFC 4256)."""

    @abstractmethod
    async def ask(self, instruction: str, questions: Sequence[tuple[str, bool]] = ()) -> Sequence[str]:
        """Show *instruction* and the questions (text, whether the answer is echoed); the answers in order."""

    def tell(self, text: str) -> None:
        """Show *text*, without line end, where the client shows such (RFC 4252 section 5.4); nobody answers it."""


@dataclass(frozen=True)
class IntegrityProof:
    """What a client signs at the end of a GSSAPI exchange (RFC 4462 section 3.5)."""

    message: bytes
    """What the code must cover: the session and the very request, as we saw them."""
    code: bytes
    """The client's message integrity code."""


@dataclass(frozen=True)
class ExchangedKeys:
    """What a ticket adds to an exchange of keys (RFC 4462 section 2.1)."""

    token: bytes
    """For the client; empty where there is none."""
    code: bytes
    """Our message integrity code of the exchange's hash, which proves who we are."""
    context: object = field(repr=False)
    """For whoever judges a request to be let in by the same context; secret."""


class GSSAPIExchange(ABC):
    """
    The client's side of a GSSAPI authentication (RFC 4462 section 3). Whoever judges it has the security context and
    calls in this order: :meth:`choose` once, :meth:`answer` for each token that needs another one, :meth:`finish` once.

    Each raises AuthFailed when the client breaks off, or sends what does not belong there.
    """

    @property
    def exchanged(self) -> object | None:
        """
        What the connection's key exchange has left (:class:`ExchangedKeys`), whose context the client uses again
        (``gssapi-keyex``, section 4): then :meth:`finish` is all that is called. None: a context is to be made.
        """
        return None

    @property
    @abstractmethod
    def mechanisms(self) -> Sequence[bytes]:
        """The mechanisms that the client offers, best first: object identifiers in DER, with tag and length."""

    @abstractmethod
    async def choose(self, mechanism: bytes) -> bytes:
        """Take *mechanism*, one of those offered; the client's first token."""

    @abstractmethod
    async def answer(self, token: bytes) -> bytes:
        """Send our *token*; the client's next one."""

    @abstractmethod
    async def finish(self, token: bytes = b"") -> IntegrityProof:
        """Send our last *token*, if there is one: the context is complete. The caller checks what comes back."""

    @abstractmethod
    def tell_error(self, token: bytes) -> None:
        """Send the token by which the mechanism tells the client why it failed; the attempt fails afterwards."""


Incoming = Callable[[Origin], Awaitable[ByteStream]]
"""
Opens a channel to the client for a connection that came from *origin*; who called closes the stream. Raises Rejected
when the client, or a limit, refuses, and ConnectionError when the connection has ended.
"""


class Listener(ABC):
    """A listening socket in the container (``tcpip-forward``, ``streamlocal-forward@openssh.com``)."""

    port: int
    """The real port, also where any free one was asked for; 0 for a unix socket."""

    @abstractmethod
    async def close(self) -> None:
        """Stop listening; connections that are forwarded already go on. Safe to call twice."""


class SessionChannel(ABC):
    """A session channel as the innermost handler sees it. The front closes it; nobody else needs to.

    Output waits until the reply to the request that started the program has been sent, so a handler may start its pumps
    before it returns from ``run_*``.
    """

    stdin: ByteReader
    stdout: ByteWriter
    stderr: ByteWriter

    @property
    def takes_file_events(self) -> bool:
        """Whether :meth:`file_event` has any use; if not, files are not reported at all, which is quicker."""
        return False

    async def file_event(self, event: FileEvent) -> None:
        """
        SFTP did something to a file. A layer that records it passes its own channel inwards. The client's answer waits
        until what was done has been reported.
        """

    @abstractmethod
    async def exit_status(self, status: int) -> None:
        """The program ended: pass on unsent output, its end of file and *status* (0 to 2^32-1), then close."""

    @abstractmethod
    async def exit_signal(self, signal: ExitSignal) -> None:
        """The program died of a signal; else like :meth:`exit_status`."""

    @abstractmethod
    async def fail(self, error: Exception) -> None:
        """The session broke: one line with the reference on stderr, a non-zero status, close. Logs *error*."""

    async def open_x11(self, origin: Origin) -> ByteStream:
        """
        A channel to the client's X server (``x11``, RFC 4254 section 6.3.2), once the client has asked for it. Works
        until the connection ends, like :meth:`open_agent`; raises as :data:`Incoming`.
        """
        raise _unsupported("x11")

    async def open_agent(self) -> ByteStream:
        """A channel to the client's ssh-agent (``auth-agent@openssh.com``), once it was asked for; raises as above."""
        raise _unsupported("auth-agent@openssh.com")


class SessionHandler:
    """Scope: one session channel. The defaults refuse, so a handler writes only what it can do."""

    async def set_env(self, name: str, value: str) -> None:
        """Before the start: a variable for the program. The last value of a name wins."""
        raise _unsupported("env")

    async def request_pty(self, request: PtyRequest) -> None:
        """Before the start: give the program a terminal."""
        raise _unsupported("pty-req")

    async def request_x11(self, request: X11Request) -> None:
        """Forward X11 connections of the program to the client; ``DISPLAY`` is set for a program started later."""
        raise _unsupported("x11-req")

    async def request_agent(self) -> None:
        """Forward the client's ssh-agent; ``SSH_AUTH_SOCK`` is set for a program started later."""
        raise _unsupported("auth-agent-req@openssh.com")

    async def run_shell(self) -> None:
        """Start the user's shell; returns when it runs."""
        raise _unsupported("shell")

    async def run_command(self, command: str) -> None:
        """Start *command* (a line for ``/bin/sh``); returns when it runs."""
        raise _unsupported("exec")

    def subsystem_command(self, name: str) -> str:
        """What :meth:`run_subsystem` starts, as a command line; a forced command is told of it. *name* if unknown."""
        return name

    async def run_subsystem(self, name: str) -> None:
        """Start the subsystem *name*; returns when it runs."""
        raise _unsupported("subsystem")

    async def run_sftp(self, rules: SFTPRules) -> None:
        """Serve SFTP under *rules*; returns when it runs. Without a server of our own, only where nothing binds it."""
        if rules.binding:
            raise _unsupported("sftp under rules")
        await self.run_subsystem("sftp")

    async def send_signal(self, name: str) -> None:
        """Send a signal (RFC 4254 section 6.9; without ``SIG``) to the program and its process group."""
        raise _unsupported("signal")

    async def send_break(self, milliseconds: int) -> None:
        """Send a break to the terminal (RFC 4335); 0 means the terminal's own default length."""
        raise _unsupported("break")

    async def resize(self, size: WindowSize) -> None:
        """The client's window changed; may come before the start."""
        raise _unsupported("window-change")

    async def terminate(self) -> None:
        """The server stops: ask the program to end (TERM). The scope's end kills what is left."""


class ConnectionHandler(ABC):
    """Scope: one login. Opens sessions; the forwards refuse unless a backend has them."""

    @property
    def longest(self) -> timedelta:
        """How long the login may last from its authentication on, after which the front ends it; 0 for any time."""
        return timedelta(0)

    @abstractmethod
    def session(self, channel: SessionChannel) -> AbstractAsyncContextManager[SessionHandler]:
        """A session's scope; leaving it ends the program if it still runs."""

    async def connect_tcp(self, host: str, port: int, addresses: AddressRules = ANY_ADDRESS) -> ByteStream:
        """
        A connection to *host* and *port*, made inside the container (``direct-tcpip``).

        The backend passes *addresses* on to the agent, which resolves *host* and connects only to what they permit;
        where nothing is left, this raises Rejected.
        """
        raise _unsupported("direct-tcpip")

    async def connect_unix(self, path: str) -> ByteStream:
        """A connection to the socket *path* inside the container (``direct-streamlocal@openssh.com``)."""
        raise _unsupported("direct-streamlocal@openssh.com")

    async def listen_tcp(self, host: str, port: int, incoming: Incoming) -> Listener:
        """
        Listen inside the container (``tcpip-forward``); *host* as in RFC 4254 section 7.1, port 0 for any free one.
        Each connection is copied to and from the stream that *incoming* gives. The caller closes the listener; what is
        left ends with the login.
        """
        raise _unsupported("tcpip-forward")

    async def listen_unix(self, path: str, incoming: Incoming) -> Listener:
        """Like :meth:`listen_tcp` for a unix socket (``streamlocal-forward@openssh.com``)."""
        raise _unsupported("streamlocal-forward@openssh.com")

    async def terminate(self) -> None:
        """The server stops: ask whatever still runs to end."""


@dataclass(frozen=True)
class PartialSuccess:
    """A method has succeeded, and more must follow (RFC 4252 section 5.1)."""

    login: Login
    """What the methods so far have earned together; no login yet."""
    succeeded: tuple[AuthMethod, ...]
    """In the order of their success."""
    methods: frozenset[AuthMethod]
    """Those that can continue."""


class NetworkHandler(ABC):
    """Scope: one TCP connection."""

    @property
    @abstractmethod
    def auth_methods(self) -> frozenset[AuthMethod]:
        """The methods that could succeed here: only these are offered to the client."""

    async def authenticate_password(self, attempt: AuthAttempt, password: bytes) -> Login:
        """
        Judge a password (the client's bytes, not normalised).

        Raises:
            AuthFailed: it is wrong.
            AuthUnavailable: nobody could be asked.
        """
        raise _disabled(AuthMethod.PASSWORD)

    async def authenticate_public_key(self, attempt: AuthAttempt, key: PublicKey) -> Login:
        """
        Judge whether *key* may log in. The front calls it once for each user and key of a connection, and makes the
        result a login only when a signature by this very key has been verified. Raises as above.
        """
        raise _disabled(AuthMethod.PUBLIC_KEY)

    async def authenticate_interactive(self, attempt: AuthAttempt, prompts: Prompts) -> Login:
        """Judge by questions and answers. Raises as above."""
        raise _disabled(AuthMethod.KEYBOARD_INTERACTIVE)

    async def authenticate_gssapi(self, attempt: AuthAttempt, exchange: GSSAPIExchange) -> Login:
        """Judge by an exchange of GSSAPI tokens and a message integrity code. Raises as above."""
        raise _disabled(AuthMethod.GSSAPI)

    async def exchange_keys(self, meta: ConnectionMetadata, token: bytes, digest: bytes) -> ExchangedKeys:
        """
        Take the *token* of a client that exchanges keys by GSSAPI, and sign *digest*, the exchange's hash: before the
        client asks to be let in, and perhaps again later. No other call of this connection waits for it. Raises as
        above.
        """
        raise _disabled(AuthMethod.GSSAPI)

    async def authenticated(
        self, login: Login, method: AuthMethod, before: PartialSuccess | None, key: PublicKey | None = None
    ) -> Login | PartialSuccess:
        """
        *method* has succeeded and earned *login*, and the client has proved what it had to: the login of the
        connection, or what must follow. *before* is this method's answer to the method before, for the same user name;
        *key* is what it was proved with, if that is known. Raises as above.
        """
        return login

    def handshake_failed(self, error: Exception) -> None:
        """The connection ended without a login."""

    @abstractmethod
    def login(self, login: Login, notices: Notices) -> AbstractAsyncContextManager[ConnectionHandler]:
        """
        An authenticated connection's scope: entering it prepares the container, leaving it removes it.

        Raises:
            ConfigError, BackendError: there will be no container; the user is told and the connection ends.
        """


class Notices(ABC):
    """Lines for the user while a login is prepared ("pulling image, 40 %").

    The front shows them on the standard error of an interactive session (one with a terminal) and drops them elsewhere.
    """

    @abstractmethod
    def notice(self, text: str) -> None:
        """Show *text*, one line without line end, where there is somebody to see it. Never blocks, never raises."""


class ServerHandler(ABC):
    """Scope: the server's life."""

    @abstractmethod
    def accept(self, meta: ConnectionMetadata) -> AbstractAsyncContextManager[NetworkHandler]:
        """A TCP connection's scope; raises :class:`Rejected` to turn it away."""


def _unsupported(what: str) -> Rejected:
    return Rejected(
        SSHCode.CHANNEL_REQUEST_FAILED,
        f"{what} is not supported",
        user_message=f"{what} is not supported here.",
        RequestType=what,
    )


def _disabled(method: AuthMethod) -> AuthFailed:
    return AuthFailed(SSHCode.AUTH_FAILED, f"{method} authentication is not configured")
