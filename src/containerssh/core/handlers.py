"""The contracts between the SSH front, the layers and the backends. Read this file first.

A login consists of three nested scopes: a TCP connection, an authenticated connection, and a session channel. Each is
an async context manager, which one task of the SSH front enters and leaves. Requests go inwards through the handlers;
bytes go outwards through the :class:`SessionChannel` passed to the innermost handler.

A method refuses by raising an exception: :class:`~containerssh.core.errors.Rejected` for a policy,
:class:`~containerssh.core.errors.BackendError` when the container fails. The front answers the request with a failure,
logs the error once, and shows its ``user_message`` where the protocol has a place for it. Any other exception is a bug:
it ends that channel or connection and affects no other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from containerssh.core.codes import SSHCode
from containerssh.core.errors import AuthFailed, Rejected
from containerssh.core.files import FileEvent, SFTPRules
from containerssh.core.forwarding import ANY_ADDRESS, AddressRules
from containerssh.core.gssapi import ExchangedKeys, GSSAPIExchange
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
    """A public key or certificate that a client presents."""

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
    """Communication with the user during authentication (RFC 4252, RFC 4256)."""

    @abstractmethod
    async def ask(self, instruction: str, questions: Sequence[tuple[str, bool]] = ()) -> Sequence[str]:
        """
        Show *instruction* and the *questions* (prompt, whether the answer is echoed); return the answers in the same
        order.
        """

    def tell(self, text: str) -> None:
        """Show *text* (no line end) as an authentication banner (RFC 4252 section 5.4)."""


Incoming = Callable[[Origin], Awaitable[ByteStream]]
"""
Opens a channel to the client for a connection that came from the given origin; the caller closes the stream. Raises
Rejected when the client or a limit refuses it, and ConnectionError when the connection has ended.
"""


class Listener(ABC):
    """A listening socket in the container (``tcpip-forward``, ``streamlocal-forward@openssh.com``)."""

    port: int
    """The port that is bound, even if port 0 was requested; 0 for a unix socket."""

    @abstractmethod
    async def close(self) -> None:
        """Stop listening; connections already forwarded continue. A second call does nothing."""


class SessionChannel(ABC):
    """
    A session channel as the innermost handler sees it. The front closes it; handlers need not.

    Output waits until the reply to the request that started the program is sent, so a handler may start its pumps
    before it returns from ``run_*``.
    """

    stdin: ByteReader
    stdout: ByteWriter
    stderr: ByteWriter

    @property
    def takes_file_events(self) -> bool:
        """Whether anything records file events; if not, none are reported, which is faster."""
        return False

    async def file_event(self, event: FileEvent) -> None:
        """
        Report an SFTP operation on a file. A layer that records file events passes its own channel inwards. The
        client's answer waits until this returns.
        """

    @abstractmethod
    async def exit_status(self, status: int) -> None:
        """The program exited: send remaining output, its end of file and *status* (0 to 2^32-1), then close."""

    @abstractmethod
    async def exit_signal(self, signal: ExitSignal) -> None:
        """The program was killed by a signal; otherwise like :meth:`exit_status`."""

    @abstractmethod
    async def fail(self, error: Exception) -> None:
        """
        The session failed: log *error*, write one line with the reference number to stderr, send a non-zero status, and
        close.
        """

    async def open_x11(self, origin: Origin) -> ByteStream:
        """
        Open a channel to the client's X server (``x11``, RFC 4254 section 6.3.2). Requires that the client has
        requested X11 forwarding; works until the connection ends. Raises like :data:`Incoming`.
        """
        raise _unsupported("x11")

    async def open_agent(self) -> ByteStream:
        """Open a channel to the client's ssh-agent (``auth-agent@openssh.com``), under the same conditions."""
        raise _unsupported("auth-agent@openssh.com")


class SessionHandler:
    """Scope: one session channel. The defaults refuse, so a handler implements only what it supports."""

    async def set_env(self, name: str, value: str) -> None:
        """Set an environment variable of the program, before it starts. The last value of a name wins."""
        raise _unsupported("env")

    async def request_pty(self, request: PtyRequest) -> None:
        """Allocate a terminal for the program, before it starts."""
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
        """
        The command line of the subsystem *name*, which a forced command receives in a variable; *name* itself if
        unknown.
        """
        return name

    async def run_subsystem(self, name: str) -> None:
        """Start the subsystem *name*; returns when it runs."""
        raise _unsupported("subsystem")

    async def run_sftp(self, rules: SFTPRules) -> None:
        """
        Serve SFTP under *rules*; returns when it runs. The default starts the image's own server, and refuses rules
        that restrict.
        """
        if rules.binding:
            raise _unsupported("sftp under rules")
        await self.run_subsystem("sftp")

    async def send_signal(self, name: str) -> None:
        """Send a signal (RFC 4254 section 6.9; without ``SIG``) to the program and its process group."""
        raise _unsupported("signal")

    async def send_break(self, milliseconds: int) -> None:
        """Send a break to the terminal (RFC 4335); 0 means the terminal's default length."""
        raise _unsupported("break")

    async def resize(self, size: WindowSize) -> None:
        """Set the size of the terminal; may be called before the program starts."""
        raise _unsupported("window-change")

    async def terminate(self) -> None:
        """The server is stopping: send TERM to the program. Leaving the scope kills what still runs."""


class ConnectionHandler(ABC):
    """Scope: one login. Opens sessions; forwarding is refused unless a backend implements it."""

    @property
    def longest(self) -> timedelta:
        """The maximum duration of the login, measured from authentication; the front then ends it. 0 means no limit."""
        return timedelta(0)

    @abstractmethod
    def session(self, channel: SessionChannel) -> AbstractAsyncContextManager[SessionHandler]:
        """The scope of a session; leaving it kills the program if it still runs."""

    async def connect_tcp(self, host: str, port: int, addresses: AddressRules = ANY_ADDRESS) -> ByteStream:
        """
        Connect to *host* and *port* from inside the container (``direct-tcpip``).

        The backend passes *addresses* to the agent, which resolves *host* and connects only to permitted addresses.

        Raises:
            Rejected: none of the addresses is permitted.
        """
        raise _unsupported("direct-tcpip")

    async def connect_unix(self, path: str) -> ByteStream:
        """Connect to the unix socket *path* inside the container (``direct-streamlocal@openssh.com``)."""
        raise _unsupported("direct-streamlocal@openssh.com")

    async def listen_tcp(self, host: str, port: int, incoming: Incoming) -> Listener:
        """
        Listen inside the container (``tcpip-forward``); *host* as in RFC 4254 section 7.1; port 0 selects a free port.
        Each connection is copied to and from the stream that *incoming* returns. The caller closes the listener;
        listeners still open end with the login.
        """
        raise _unsupported("tcpip-forward")

    async def listen_unix(self, path: str, incoming: Incoming) -> Listener:
        """Like :meth:`listen_tcp` for a unix socket (``streamlocal-forward@openssh.com``)."""
        raise _unsupported("streamlocal-forward@openssh.com")

    async def terminate(self) -> None:
        """The server is stopping: ask all running programs to end."""


@dataclass(frozen=True)
class PartialSuccess:
    """A method has succeeded, but further methods are required (RFC 4252 section 5.1)."""

    login: Login
    """The combined result of the methods so far; not yet a login."""
    succeeded: tuple[AuthMethod, ...]
    """The methods that succeeded, in order."""
    methods: frozenset[AuthMethod]
    """The methods that can continue the authentication."""


class NetworkHandler(ABC):
    """Scope: one TCP connection."""

    @property
    @abstractmethod
    def auth_methods(self) -> frozenset[AuthMethod]:
        """The configured methods; only these are offered to the client."""

    async def authenticate_password(self, attempt: AuthAttempt, password: bytes) -> Login:
        """
        Verify a password (the client's bytes, not normalised).

        Raises:
            AuthFailed: the password is wrong.
            AuthUnavailable: the authenticator could not be reached.
        """
        raise _disabled(AuthMethod.PASSWORD)

    async def authenticate_public_key(self, attempt: AuthAttempt, key: PublicKey) -> Login:
        """
        Decide whether *key* may log in. The front calls this once for each user name and key of a connection, and
        accepts the login only after it has verified a signature by that key. Raises as above.
        """
        raise _disabled(AuthMethod.PUBLIC_KEY)

    async def authenticate_interactive(self, attempt: AuthAttempt, prompts: Prompts) -> Login:
        """Authenticate by prompts and answers. Raises as above."""
        raise _disabled(AuthMethod.KEYBOARD_INTERACTIVE)

    async def authenticate_gssapi(self, attempt: AuthAttempt, exchange: GSSAPIExchange) -> Login:
        """Authenticate by GSSAPI tokens and a message integrity code. Raises as above."""
        raise _disabled(AuthMethod.GSSAPI)

    async def exchange_keys(self, meta: ConnectionMetadata, token: bytes, digest: bytes) -> ExchangedKeys:
        """
        Process the *token* of a GSSAPI key exchange and sign *digest*, the exchange hash. Called before the client
        authenticates, and possibly again later; concurrent with other calls of this connection. Raises as above.
        """
        raise _disabled(AuthMethod.GSSAPI)

    async def authenticated(
        self, login: Login, method: AuthMethod, before: PartialSuccess | None, key: PublicKey | None = None
    ) -> Login | PartialSuccess:
        """
        *method* has succeeded with the result *login*, and the client has proved possession of its credential. Return
        the login of the connection, or what is still required. *before* is the result of the preceding method for the
        same user name; *key* is the key that was used, if known. Raises as above.
        """
        return login

    def handshake_failed(self, error: Exception) -> None:
        """The connection ended without a login."""

    @abstractmethod
    def login(self, login: Login, notices: Notices) -> AbstractAsyncContextManager[ConnectionHandler]:
        """
        The scope of an authenticated connection: entering it prepares the container, leaving it removes the container.

        Raises:
            ConfigError, BackendError: the container cannot be provided; the user is told and the connection ends.
        """


class Notices(ABC):
    """
    Progress messages for the user while a login is prepared ("pulling image, 40 %").

    The front shows them on standard error of an interactive session (one with a terminal) and drops them otherwise.
    """

    @abstractmethod
    def notice(self, text: str) -> None:
        """Show *text*, one line without line end, if a session can display it. Never blocks, never raises."""


class ServerHandler(ABC):
    """Scope: the lifetime of the server."""

    @abstractmethod
    def accept(self, meta: ConnectionMetadata) -> AbstractAsyncContextManager[NetworkHandler]:
        """The scope of a TCP connection; raises :class:`Rejected` to refuse it."""


def _unsupported(what: str) -> Rejected:
    return Rejected(
        SSHCode.CHANNEL_REQUEST_FAILED,
        f"{what} is not supported",
        user_message=f"{what} is not supported here.",
        RequestType=what,
    )


def _disabled(method: AuthMethod) -> AuthFailed:
    return AuthFailed(SSHCode.AUTH_FAILED, f"{method} authentication is not configured")
