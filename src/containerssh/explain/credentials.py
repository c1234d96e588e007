"""The login to explain and its credentials: those that are given are checked, others assumed to be right."""

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
from containerssh.core.gssapi import GSSAPIExchange, IntegrityProof
from containerssh.core.handlers import AuthMethod, Prompts, PublicKey
from containerssh.core.metadata import AuthAttempt, Login, SocketAddress, Texts

_KERBEROS = bytes.fromhex("06092a864886f712010202")


@dataclass(frozen=True)
class Question:
    """A login to explain."""

    username: str
    address: SocketAddress
    methods: Sequence[AuthMethod] = ()
    """The methods to try, in order. Empty: those that a credential was given for, or else any."""
    password: bytes | None = field(default=None, repr=False)
    key: PublicKey | None = None
    prompts: Prompts | None = None
    """Answers questions; None: questions cannot be answered."""
    service: str = ""
    """The service principal to use the current user's Kerberos tickets for. Empty: no tickets are used."""
    metadata: Texts = field(default_factory=dict)
    client_version: str = "SSH-2.0-ContainerSSH_explain"
    webhooks: bool = True
    """Whether webhooks are called."""

    @property
    def given(self) -> Collection[AuthMethod]:
        """The methods that a credential was given for."""
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
    Replaces an authenticator for which there is no credential: it accepts every user. The users file still decides
    whether the user has such a credential, and what it permits.
    """

    users: UsersFile | None = None
    keys: PublicKeyAuthenticator | None = None
    """The authenticator of keys in the users file."""
    vouches: bool = True
    """Whether the real authenticator proves the user's name."""

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
    """A read-only store of remembered keys: an assumed login must never be remembered."""

    def __init__(self, memory: Memory) -> None:
        # Without the base class's state: all methods that use it are overridden.
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
    """Asks on the terminal, after *answers* are used up in order."""

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
    """A client that authenticates to the principal *service* with the current user's Kerberos tickets."""

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
        with suppress(Exception):  # the error of the attempt has the library's reason
            self._context.step(token)

    async def _step(self, token: bytes | None) -> bytes:
        return await asyncio.to_thread(self._context.step, token) or b""


def printable(text: str) -> str:
    """*text* without characters that a terminal would interpret."""
    return "".join(char if char.isprintable() or char in "\n\t" else "\N{REPLACEMENT CHARACTER}" for char in text)
