"""The agent of ContainerSSH 0.5 and 0.6 in an image: its command line, and the process id it reports (``agent.md``)."""

from __future__ import annotations

from collections.abc import Sequence

from containerssh.core.codes import DockerCode
from containerssh.core.errors import ProtocolError

HIGHEST_PID = 1 << 22
"""Linux's own bound (``PID_MAX_LIMIT``)."""

GO = b"\n"
"""What a waiting agent waits for; a terminal echoes it."""

_LENGTH = 4


def console(agent: str, program: Sequence[str], *, wait: bool = False) -> tuple[str, ...]:
    """
    The command that reports a process id, and then becomes *program*, which has to be a path: none is looked for. With
    *wait* it first waits for :data:`GO` on its standard input.
    """
    return (agent, "console", *(("--wait",) if wait else ()), "--pid", "--", *program)


def send_signal(agent: str, pid: int, name: str) -> tuple[str, ...]:
    """The command that sends the signal *name*, without ``SIG``, to the process *pid*; its status is 0 when it did."""
    return console(agent, (agent, "signal", "--pid", str(pid), "--signal", name))


def write_file(agent: str, path: str) -> tuple[str, ...]:
    """The command that writes its standard input to *path*, which only its own user may then read."""
    return console(agent, (agent, "write-file", path))


class PidReader:
    """
    Takes the process id off the front of a program's output: four bytes, the lowest first, however they are cut.

    A *terminal* may have put a carriage return before a byte that is a line feed. It is taken away; where the terminal
    adds none, a number that has both bytes in a row (one in 65536) would be misread as a shorter one and be refused, or
    lose a signal: the engines' terminals do add it. After :data:`GO` its echo comes first.
    """

    def __init__(self, *, terminal: bool, echo: bool = False) -> None:
        self._terminal = terminal
        self._echo = echo
        self._seen = bytearray()
        self.pid: int | None = None
        """Known once :meth:`feed` has been given all of it."""

    def feed(self, data: bytes) -> bytes:
        """
        What of *data* belongs to the program itself.

        Raises:
            ProtocolError: this is not a process id.
        """
        if self.pid is not None:
            return data
        for position, byte in enumerate(data):
            if self._echo:
                # A terminal that adds no carriage return echoes the line feed alone.
                self._echo = byte != 0x0A
            elif self._terminal and byte == 0x0A and self._seen[-1:] == b"\r":
                self._seen[-1] = byte
            else:
                self._seen.append(byte)
            # The last byte of a proper number is 0, never a carriage return that might have to go.
            if len(self._seen) == _LENGTH:
                self._settle()
                return data[position + 1 :]
        return b""

    @property
    def seen(self) -> bytes:
        """What came in place of a process id, for a message."""
        return bytes(self._seen)

    def _settle(self) -> None:
        pid = int.from_bytes(self._seen, "little")
        if not 0 < pid <= HIGHEST_PID:
            raise ProtocolError(DockerCode.EXEC_PID_READ_FAILED, "the image's agent did not report a process id")
        self.pid = pid
