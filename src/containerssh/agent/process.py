"""A program inside the container, as the gateway sees it."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from containerssh.agent.codec import (
    MAX_REQUEST,
    Fields,
    FrameType,
    broken,
    pack_pty,
    pack_size,
    pack_text,
    pack_texts,
    pack_word,
)
from containerssh.core.codes import AgentCode
from containerssh.core.errors import BackendError, ContainerSSHError, ProtocolError, Rejected
from containerssh.core.flag import Flag
from containerssh.core.requests import ExitSignal, PtyRequest, WindowSize
from containerssh.core.streams import ByteReader, ByteStream, ByteWriter
from containerssh.core.text import printable

if TYPE_CHECKING:
    from containerssh.agent.link import AgentLink

_KILL_LIMIT = 10.0

Leftovers = Literal["hangUp", "end", "keep"]
"""
What happens, when a session ends, to processes that its program has left running: those in the program's POSIX session
receive SIGHUP; all are killed, in whatever session; or nothing. In any case they end with the link.
"""


@dataclass(frozen=True)
class Program:
    """The program to run. No text may contain a NUL."""

    argv: Sequence[str]
    """A command name without a slash is looked up in the program's ``PATH``."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Added to the container's environment; these values take precedence."""
    cwd: str | None = None
    """None: the container's working directory."""
    pty: PtyRequest | None = None
    """With a terminal there is one stream for output, and no separate standard error."""
    agent: bool = False
    """Run the agent itself; the first word of *argv* is only a name."""
    leftovers: Leftovers = "hangUp"


class AgentProcess:
    """A running program. Its streams raise :class:`ConnectionError` when the link breaks."""

    stdin: ByteWriter
    stdout: ByteReader
    stderr: ByteReader | None
    """None with a terminal."""

    def __init__(self, link: AgentLink, identity: int, *, has_terminal: bool) -> None:
        self._link = link
        self._identity = identity
        self._has_terminal = has_terminal
        self._streams: list[ByteStream] = []
        self._outcome: int | ExitSignal | ContainerSSHError | None = None
        self._ended = Flag()
        self._released = False

    def connect(self, streams: list[ByteStream]) -> None:
        """The link calls this once the program runs."""
        self._streams = streams
        self.stdin = self.stdout = streams[0]
        self.stderr = None if self._has_terminal else streams[1]

    def ended(self, outcome: int | ExitSignal | ContainerSSHError) -> None:
        """The link calls this when the program has ended, or when the link broke."""
        if self._outcome is None:
            self._outcome = outcome
            self._ended.set()

    async def wait(self) -> int | ExitSignal:
        """
        How the program ended. Its output may still be in flight, or continue if other programs of it are running.

        Raises:
            BackendError, ProtocolError: the link broke first, so the status is unknown.
        """
        await self._ended.wait()
        if isinstance(self._outcome, ContainerSSHError):
            raise self._outcome
        assert self._outcome is not None
        return self._outcome

    async def signal(self, name: str) -> None:
        """
        Send the signal *name*, without ``SIG``, to the program's process group.

        Raises:
            BackendError: there is no such signal, or no such program any more.
        """
        if "\0" in name or len(name) > 64:
            raise BackendError(AgentCode.REQUEST_FAILED, "there is no such signal", user_message="no such signal")
        await self._link.request(FrameType.SIGNAL, pack_word(self._identity) + pack_text(name), f"signal {name}")

    async def resize(self, size: WindowSize) -> None:
        """
        Set the terminal's size.

        Raises:
            BackendError: the program has no terminal, or has ended.
        """
        await self._link.request(FrameType.RESIZE, pack_word(self._identity) + pack_size(size), "resize")

    async def send_break(self, milliseconds: int) -> None:
        """
        Send a break to the terminal. A pseudo-terminal ignores its length.

        Raises:
            Rejected: the program has no terminal.
            BackendError: the program has ended.
        """
        del milliseconds
        if not self._has_terminal:
            text = "a break needs a terminal"
            raise Rejected(AgentCode.REQUEST_FAILED, text, user_message=text)
        await self._link.request(FrameType.BREAK, pack_word(self._identity), "break")

    async def kill(self) -> None:
        """
        Kill the program and its descendants if it still runs, and close its streams. Processes that it has left in the
        background are treated according to :attr:`Program.leftovers`.

        Safe to call after the end, after the link broke, and twice.
        """
        if self._released:
            return
        self._released = True
        try:
            if self._ended.is_set():
                self._link.release(self._identity)
            else:
                # An agent that does not answer delays nobody else; the end of the link ends this as well.
                with suppress(BackendError, ProtocolError, TimeoutError):
                    async with asyncio.timeout(_KILL_LIMIT):
                        await self._link.request(FrameType.KILL, pack_word(self._identity), "kill")
        finally:
            for stream in self._streams:
                await stream.close()


def pack_program(program: Program) -> bytes:
    """The payload of a START after its streams; raises BackendError if the program is invalid."""
    texts = (*program.argv, *program.env, *program.env.values(), program.cwd or "")
    if not program.argv or any("\0" in text for text in texts):
        raise start_failed(program, "a command or a variable cannot hold a NUL" if program.argv else "no command")
    if any("=" in name or not name for name in program.env):
        raise start_failed(program, "a variable's name cannot be empty or hold an equals sign")
    body = b"".join(
        (
            pack_texts(program.argv),
            pack_texts(f"{name}={value}" for name, value in program.env.items()),
            pack_text(program.cwd or ""),
            pack_pty(program.pty) if program.pty is not None else b"",
        )
    )
    if len(body) > MAX_REQUEST - 1024:
        raise start_failed(program, os.strerror(errno.E2BIG).lower())
    return body


def exit_of(payload: bytes) -> int | ExitSignal:
    """The status in an EXITED; raises ProtocolError."""
    fields = Fields(payload)
    died, status, core, name = fields.flag(), fields.number(4), fields.flag(), fields.text(16)
    fields.end()
    if not died:
        return status
    if not (name.isascii() and name.isalnum()):
        raise broken("reported a signal without a name")
    return ExitSignal(name, core)


def start_failed(program: Program, reason: str) -> BackendError:
    """The error for a program that cannot be started; *reason* may be an agent's text."""
    command = program.argv[0] if program.argv else ""
    text = reason if reason.startswith(f"{command}: ") else f"{command}: {reason}"
    shown = printable(text)
    return BackendError(AgentCode.START_FAILED, f"the program could not be started: {shown}", user_message=shown)
