"""Authentication of one connection (RFC 4252, RFC 4256), from the client's requests to a login.

Each request is judged independently: nothing of an attempt that failed or was superseded affects the login. If several
methods are required, the intermediate result belongs to one user name and is discarded by a request for another (RFC
4252 section 5). A public key is judged once for each user name, and results in a login only after a request for the
same name with a valid signature by the same key.
"""

from __future__ import annotations

import asyncio
import logging
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from asyncssh import constants
from asyncssh.packet import String

from containerssh.core.codes import SSHCode
from containerssh.core.errors import AuthFailed, AuthUnavailable, ContainerSSHError, ProtocolError, describe
from containerssh.core.flag import Flag
from containerssh.core.handlers import AuthMethod, NetworkHandler, PartialSuccess, Prompts, PublicKey
from containerssh.core.messages import Event
from containerssh.core.metadata import AuthAttempt, ConnectionMetadata, Login
from containerssh.core.requests import from_wire
from containerssh.ssh.adapter import BY_KEY_EXCHANGE, AdapterConnection, AuthRequest
from containerssh.ssh.client_keys import ClientKey, read_key
from containerssh.ssh.gssapi import Continued, Exchange
from containerssh.ssh.limits import limit_reached
from containerssh.ssh.options import Limits
from containerssh.ssh.requests import Fields

logger = logging.getLogger(__name__)

_USERNAME_BYTES = 1023
_ORDER = (AuthMethod.PASSWORD, AuthMethod.PUBLIC_KEY, AuthMethod.KEYBOARD_INTERACTIVE, AuthMethod.GSSAPI)
_NAMES = {
    AuthMethod.PASSWORD: ("Password", "password"),
    AuthMethod.PUBLIC_KEY: ("Public key", "public key"),
    AuthMethod.KEYBOARD_INTERACTIVE: ("Keyboard-interactive", "keyboard-interactive"),
    AuthMethod.GSSAPI: ("GSSAPI", "gssapi"),
}
_QUESTIONS_MAX = 32


class TooManyTries(ContainerSSHError):
    """The client has exceeded the permitted number of attempts."""

    default_user_message = "Too many authentication failures"


@dataclass(frozen=True)
class _KeyAcceptable:
    """The answer to a public key query (RFC 4252 section 7)."""

    algorithm: bytes
    blob: bytes


class Authentication(Prompts):
    """Scope: from the first request to the login. The adapter calls :meth:`requested` and :meth:`answered`."""

    def __init__(self, link: AdapterConnection, limits: Limits, banner: str) -> None:
        self._link = link
        self._limits = limits
        self._banner = banner
        self._request: AuthRequest | None = None
        self._arrived = Flag()
        self._judging: asyncio.Timeout | None = None
        self._answers: asyncio.Future[list[bytes]] | None = None
        self._judged: dict[tuple[str, bytes], Login | AuthFailed] = {}
        # A public key query is followed by a request with a signature.
        self._last_key: ClientKey | None = None
        self._partial: PartialSuccess | None = None
        self._partial_name = b""
        self._requests = 0
        self._failures = 0
        self._calls = 0
        self._free = True
        self.refused = False
        """Whether a credential was judged and found wrong."""
        self.unavailable = False
        """Whether an attempt could not be judged because the authenticator was unavailable."""

    # -- from the adapter -------------------------------------------------------------------------

    def requested(self, request: AuthRequest) -> None:
        """A request arrived; it supersedes a request that is waiting or in progress (RFC 4252 section 5.1)."""
        if self._banner:
            self._link.banner(self._banner)
            self._banner = ""
        self._requests += 1
        if self._request is not None:
            self._failures += 1
        self._request = request
        self._arrived.set()
        if self._judging is not None:
            self._judging.reschedule(asyncio.get_running_loop().time())
            self._judging = None

    def answered(self, answers: list[bytes]) -> None:
        """The answers to prompts arrived."""
        if self._answers is not None and not self._answers.done():
            self._answers.set_result(answers)

    # -- the connection's task -----------------------------------------------------------------------

    async def run(self, network: NetworkHandler, meta: ConnectionMetadata) -> Login:
        """
        Process requests until one results in a login. The client receives each result, the final success included.

        Raises:
            TooManyTries: the connection must be closed.
        """
        while True:
            await self._arrived.wait()
            request, self._request = self._request, None
            self._arrived.clear()
            assert request is not None
            if self._requests > self._limits.auth_requests:
                raise _too_many(SSHCode.LIMIT_AUTH_REQUESTS, "too many authentication requests")
            result = await self._judge_until_newer(network, meta, request)
            if self._arrived.is_set():
                # Discard even a success: the client has given up this request.
                self._count_failure()
                continue
            match result:
                case Login():
                    title, labels = self._describe_success(request)
                    logger.info(Event(SSHCode.AUTH_SUCCESSFUL, f"{title} successful", **labels))
                    self._link.auth_succeeded()
                    return result
                case _KeyAcceptable():
                    self._link.auth_key_acceptable(result.algorithm, result.blob)
                case PartialSuccess():
                    title, labels = self._describe_success(request)
                    logger.info(
                        Event(SSHCode.AUTH_PARTIAL, f"{title} successful, another method must follow", **labels)
                    )
                    self._partial, self._partial_name = result, request.username
                    self._link.auth_failed(self._can_continue(network), partial=True)
                case None:
                    self._count_failure()
                    self._link.auth_failed(self._can_continue(network))

    def _describe_success(self, request: AuthRequest) -> tuple[str, dict[str, str]]:
        """Like :func:`_describe`, with the key that was used."""
        title, labels = _describe(request)
        by_key = request.offered_as == AuthMethod.PUBLIC_KEY.encode() and self._last_key
        return title, {**labels, **(by_key.labels if by_key else {})}

    def _can_continue(self, network: NetworkHandler) -> list[str]:
        methods = self._partial.methods if self._partial else network.auth_methods
        names: list[str] = [name for name in _ORDER if name in methods]
        if AuthMethod.GSSAPI in methods and self._link.ticket_context is not None:
            names.insert(names.index(AuthMethod.GSSAPI), BY_KEY_EXCHANGE.decode())
        return names

    async def _judge_until_newer(
        self, network: NetworkHandler, meta: ConnectionMetadata, request: AuthRequest
    ) -> Login | PartialSuccess | _KeyAcceptable | None:
        """Like :meth:`_judge`, but cancelled when a newer request arrives."""
        try:
            async with asyncio.timeout(None) as self._judging:
                return await self._judge(network, meta, request)
        except TimeoutError:
            return None
        finally:
            self._judging = None

    def _count_failure(self) -> None:
        self._failures += 1
        if self._failures >= self._limits.auth_tries:
            raise _too_many(SSHCode.LIMIT_AUTH_TRIES, "too many authentication failures")

    def _call(self) -> None:
        """Count a call of an authenticator."""
        self._calls += 1
        if self._calls > self._limits.auth_calls:
            raise _too_many(
                SSHCode.LIMIT_AUTH_CALLS, "too many authentication requests for a webhook or the users file"
            )

    async def _judge(
        self, network: NetworkHandler, meta: ConnectionMetadata, request: AuthRequest
    ) -> Login | PartialSuccess | _KeyAcceptable | None:
        """Return a login, a partial success, an acceptable key, or None for a refusal, which is logged here."""
        if request.username != self._partial_name:
            self._partial = None
        if request.method == b"none":
            if self._free:
                self._free = False
                self._failures -= 1
            return None
        before = self._partial
        offered = before.methods if before else network.auth_methods
        method = next((m for m in offered if m.encode() == request.offered_as), None)
        if method is None:
            logger.debug(
                Event(
                    SSHCode.AUTH_FAILED,
                    "The client tried a method that is not offered",
                    method=from_wire(request.method),
                )
            )
            return None
        title, labels = _describe(request)
        known: ConnectionMetadata = before.login if before else meta
        try:
            attempt = AuthAttempt(
                **{name: getattr(known, name) for name in ConnectionMetadata.__dataclass_fields__},
                client_version=self._link.client_version,
                username=read_username(request.username),
            )
            result = await self._ask(network, attempt, method, request)
            if isinstance(result, Login):
                key = self._last_key.key if self._last_key and method is AuthMethod.PUBLIC_KEY else None
                return await network.authenticated(result, method, before, key)
        except (AuthFailed, ProtocolError) as exc:
            self.refused = True
            logger.info(Event(SSHCode.AUTH_FAILED, f"{title} failed", **labels, reason=describe(exc)))
            return None
        except TooManyTries:
            raise
        except AuthUnavailable as exc:
            self.unavailable = True
            logger.info(
                Event(SSHCode.AUTH_UNAVAILABLE, f"{title} currently unavailable", **labels, reason=describe(exc))
            )
            return None
        except Exception:
            self.unavailable = True
            text = f"{title} failed because of a fault in the server"
            logger.exception(Event(SSHCode.AUTH_UNAVAILABLE, text, **labels))
            return None
        return result

    # -- the methods ------------------------------------------------------------------------------------

    async def _ask(
        self, network: NetworkHandler, attempt: AuthAttempt, method: AuthMethod, request: AuthRequest
    ) -> Login | _KeyAcceptable:
        """
        The handler's result for a request; passes on its errors, and raises ProtocolError for a malformed request.
        """
        match method:
            case AuthMethod.PASSWORD:
                return await self._password(network, attempt, request)
            case AuthMethod.PUBLIC_KEY:
                return await self._public_key(network, attempt, request)
            case AuthMethod.KEYBOARD_INTERACTIVE:
                fields = Fields(request.payload)
                fields.string(), fields.string()  # language and submethods, both ignored (RFC 4256 section 3.1)
                fields.end()
                self._call()
                return await network.authenticate_interactive(attempt, self)
            case AuthMethod.GSSAPI:
                kind = Continued if request.method == BY_KEY_EXCHANGE else Exchange
                exchange = kind(self._link, request.head, request.payload)
                self._call()
                return await network.authenticate_gssapi(attempt, exchange)

    async def _password(self, network: NetworkHandler, attempt: AuthAttempt, request: AuthRequest) -> Login:
        fields = Fields(request.payload)
        change = fields.boolean()
        password = fields.string()
        if change:
            raise AuthFailed(SSHCode.AUTH_FAILED, "passwords cannot be changed here")
        fields.end()
        if len(password) > self._limits.password_bytes:
            raise AuthFailed(SSHCode.AUTH_FAILED, "the password is too long")
        self._call()
        return await network.authenticate_password(attempt, password)

    async def _public_key(
        self, network: NetworkHandler, attempt: AuthAttempt, request: AuthRequest
    ) -> Login | _KeyAcceptable:
        fields = Fields(request.payload)
        signed = fields.boolean()
        algorithm = fields.string()
        blob = fields.string()
        if request.names_host_key and fields.string() != self._link.host_key:
            raise AuthFailed(SSHCode.AUTH_FAILED, "the request is for another server: it names another host key")
        signature = fields.string() if signed else b""
        fields.end()
        if self._last_key is None or (self._last_key.algorithm, self._last_key.key.blob) != (algorithm, blob):
            self._last_key = read_key(algorithm, blob)
        key = self._last_key.key
        if not signed:
            await self._judge_key(network, attempt, key)
            return _KeyAcceptable(algorithm, blob)
        head = request.head + request.payload[: -4 - len(signature)]
        if not self._last_key.verified(String(self._link.session_id) + head, signature):
            raise AuthFailed(SSHCode.AUTH_FAILED, "the signature is wrong", fingerprint=key.fingerprint)
        login = await self._judge_key(network, attempt, key)
        self._last_key.check_presence(login.restrictions, signature)
        return login

    async def _judge_key(self, network: NetworkHandler, attempt: AuthAttempt, key: PublicKey) -> Login:
        known = self._judged.get((attempt.username, key.blob))
        if known is None:
            self._call()
            try:
                known = await network.authenticate_public_key(attempt, key)
            except AuthFailed as exc:
                known = exc
            self._judged[attempt.username, key.blob] = known
        if isinstance(known, AuthFailed):
            raise known
        return known

    async def ask(self, instruction: str, questions: Sequence[tuple[str, bool]] = ()) -> Sequence[str]:
        if len(questions) > _QUESTIONS_MAX:
            raise AuthUnavailable(SSHCode.AUTH_UNAVAILABLE, "more questions than a client would show")
        self._answers = asyncio.get_running_loop().create_future()
        self._link.auth_ask(instruction, questions)
        answers = await self._answers
        if len(answers) != len(questions):
            raise AuthFailed(SSHCode.AUTH_FAILED, "the number of answers is not that of the questions")
        return [from_wire(answer) for answer in answers]

    def tell(self, text: str) -> None:
        self._link.banner(f"{text}\r\n")


def _too_many(code: SSHCode, explanation: str) -> TooManyTries:
    limit_reached(code, f"The client is disconnected: {explanation}")
    return TooManyTries(SSHCode.HANDSHAKE_FAILED, explanation)


def _describe(request: AuthRequest) -> tuple[str, dict[str, str]]:
    """The description of the request's method for the log, and the labels of the log line."""
    name, label = _NAMES[AuthMethod(request.offered_as.decode("ascii"))]
    return f"{name} authentication", {"username": from_wire(request.username), "method": label}


def read_username(raw: bytes) -> str:
    """
    The user name as the client sent it: not normalised, so that every component sees the same name.

    Raises:
        AuthFailed: the name is invalid.
    """
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise AuthFailed(SSHCode.AUTH_FAILED, "the user name is not UTF-8") from None
    if not name or len(raw) > _USERNAME_BYTES:
        raise AuthFailed(SSHCode.AUTH_FAILED, "the user name is empty or too long")
    if any(unicodedata.category(char) in {"Cc", "Zl", "Zp"} or char in _BIDI for char in name):
        raise AuthFailed(SSHCode.AUTH_FAILED, "the user name holds control characters")
    return name


# Bidirectional control characters make one name look like another.
_BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


DISCONNECT_CODE = constants.DISC_PROTOCOL_ERROR
"""The disconnect code that OpenSSH's and upstream's servers use after the last attempt."""
