"""Whose login is asked about, and what proves it: judged where it was given, assumed to be right where it was not."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Collection, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from getpass import getpass
from typing import Any

from containerssh.auth.authenticator import PublicKeyAuthenticator
from containerssh.auth.remember import Memory
from containerssh.auth.users import UsersFile
from containerssh.core.codes import AuthCode
from containerssh.core.errors import AuthFailed, AuthUnavailable
from containerssh.core.handlers import AuthMethod, GSSAPIExchange, IntegrityProof, Prompts, PublicKey
from containerssh.core.metadata import AuthAttempt, Login, SocketAddress, Texts

_KERBEROS = bytes.fromhex("06092a864886f712010202")


@dataclass(frozen=True)
class Question:
    """A login to explain."""

    username: str
    address: SocketAddress
    methods: Sequence[AuthMethod] = ()
    """Which are tried, in this order; empty for those that something was given for, or else any."""
    password: bytes | None = field(default=None, repr=False)
    key: PublicKey | None = None
    prompts: Prompts | None = None
    """Who answers questions; None: nobody is there to ask."""
    service: str = ""
    """The principal to show Kerberos tickets to, those of whoever asks; empty: none are shown."""
    metadata: Texts = field(default_factory=dict)
    client_version: str = "SSH-2.0-ContainerSSH_explain"
    webhooks: bool = True
    """Whether webhooks are asked."""

    @property
    def given(self) -> Collection[AuthMethod]:
        """The methods that something was given for."""
        found = {
            AuthMethod.PUBLIC_KEY: self.key,
            AuthMethod.PASSWORD: self.password,
            AuthMethod.KEYBOARD_INTERACTIVE: self.prompts,
            AuthMethod.GSSAPI: self.service or None,
        }
        return [method for method, credential in found.items() if credential is not None]


@dataclass(frozen=True)
class Supposed:
    """
    Stands in for an authenticator that nothing can be shown to: whoever the user is, the credential is right. The users
    file still says whether that user has any, and what it earns.
    """

    users: UsersFile | None = None
    keys: PublicKeyAuthenticator | None = None
    """Who judges the keys that the users file lists."""
    vouches: bool = True
    """Whether the real one would vouch for the user's name."""

    async def authenticate_password(self, attempt: AuthAttempt, password: bytes) -> Login:
        return await self.users.suppose_password(attempt) if self.users else self._login(attempt)

    async def authenticate_public_key(self, attempt: AuthAttempt, key: PublicKey) -> Login:
        if self.users is None or self.keys is None:
            return self._login(attempt)
        failure = AuthFailed(AuthCode.FAILED, "there is no such user, or the user has no keys")
        for entry in await self.users.keys_of(attempt.username):
            try:
                return await self.keys.authenticate_public_key(attempt, entry.key)
            except AuthFailed as exc:
                failure = exc
        raise failure

    async def authenticate_interactive(self, attempt: AuthAttempt, prompts: Prompts, undo: AsyncExitStack) -> Login:
        if self.users is None:
            return self._login(attempt)
        if await self.users.code_of(attempt.username) is None:
            raise AuthFailed(AuthCode.FAILED, "the user has no secret for codes")
        return Login.of(attempt, "")

    async def authenticate_gssapi(self, attempt: AuthAttempt, exchange: GSSAPIExchange, undo: AsyncExitStack) -> Login:
        return self._login(attempt)

    def _login(self, attempt: AuthAttempt) -> Login:
        return Login.of(attempt, attempt.username if self.vouches else "")


class Recalled(Memory):
    """A memory that is looked at and stays as it is: what was only supposed must never stand in for questions."""

    def __init__(self, memory: Memory) -> None:
        # None of the base's own state: everything that would use it is another here.
        self._memory = memory

    async def recall(self, login: Login, key: PublicKey) -> Login | None:
        return await self._memory.recall(login, key)

    async def keep(self, before: Login, login: Login, key: PublicKey) -> None:
        """Nobody has answered."""

    async def forget(self, login: Login, key: PublicKey) -> None:
        """Nobody has asked."""


NO_KEY = PublicKey("", b"")
"""Shown to who supposes that the right one was."""


class NoPrompts(Prompts):
    """Nobody is there to answer."""

    async def ask(self, instruction: str, questions: Sequence[tuple[str, bool]] = ()) -> Sequence[str]:
        raise AuthUnavailable(AuthCode.BACKEND_ERROR, "nobody is there to answer questions")


@dataclass
class Terminal(Prompts):
    """Asks whoever sits there; *answers* are used up first, whatever the question."""

    answers: list[str] = field(default_factory=list, repr=False)

    async def ask(self, instruction: str, questions: Sequence[tuple[str, bool]] = ()) -> Sequence[str]:
        if instruction:
            self.tell(instruction)
        return [await self._answer(text, echo) for text, echo in questions]

    def tell(self, text: str) -> None:
        sys.stderr.write(printable(text) + "\n")
        sys.stderr.flush()

    async def _answer(self, text: str, echo: bool) -> str:
        shown = printable(text)
        if self.answers:
            self.tell(shown)
            return self.answers.pop(0)
        if not sys.stdin.isatty():
            raise AuthUnavailable(AuthCode.BACKEND_ERROR, "there are more questions than answers")
        return await asyncio.to_thread(input if echo else getpass, shown)


class Tickets(GSSAPIExchange):
    """A client that shows the Kerberos tickets of whoever runs this process to *service*, a principal."""

    def __init__(self, service: str) -> None:
        self._service = service
        self._context: Any = None

    @property
    def mechanisms(self) -> Sequence[bytes]:
        return (_KERBEROS,)

    async def choose(self, mechanism: bytes) -> bytes:
        try:
            import gssapi
            from gssapi.raw.misc import GSSError
        except ImportError as exc:
            raise AuthUnavailable(AuthCode.BACKEND_ERROR, "containerssh[kerberos] is not installed") from exc
        kind = gssapi.NameType.kerberos_principal
        kerberos = gssapi.OID.from_int_seq("1.2.840.113554.1.2.2")
        flags = gssapi.RequirementFlag.mutual_authentication | gssapi.RequirementFlag.integrity
        try:
            name = gssapi.Name(self._service, kind)
            self._context = gssapi.SecurityContext(name=name, mech=kerberos, flags=flags, usage="initiate")
            return await self._step(None)
        except GSSError as exc:
            raise AuthUnavailable(AuthCode.BACKEND_ERROR, f"there is no ticket to show: {exc}") from exc

    async def answer(self, token: bytes) -> bytes:
        return await self._step(token)

    async def finish(self, token: bytes = b"") -> IntegrityProof:
        if token:
            await self._step(token)
        message = b"config explain on " + socket.gethostname().encode()
        return IntegrityProof(message, self._context.get_signature(message))

    def tell_error(self, token: bytes) -> None:
        with suppress(Exception):  # what the library makes of it is in the attempt's own error
            self._context.step(token)

    async def _step(self, token: bytes | None) -> bytes:
        return await asyncio.to_thread(self._context.step, token) or b""


def printable(text: str) -> str:
    """*text* without what would do something to a terminal."""
    return "".join(char if char.isprintable() or char in "\n\t" else "\N{REPLACEMENT CHARACTER}" for char in text)
