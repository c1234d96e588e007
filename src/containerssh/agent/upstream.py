"""The agent of ContainerSSH 0.5 and 0.6 in images: its command line, and the process id it reports (``agent.md``)."""

from __future__ import annotations

from collections.abc import Sequence

from containerssh.core.codes import DockerCode
from containerssh.core.errors import ProtocolError

HIGHEST_PID = 1 << 22
"""The kernel's limit (``PID_MAX_LIMIT``)."""

GO = b"\n"
"""The byte that a waiting agent waits for; a terminal echoes it."""

_LENGTH = 4


def console(agent: str, program: Sequence[str], *, wait: bool = False) -> tuple[str, ...]:
    """
    The command that reports its process id and then executes *program*, whose first word must be a path, since PATH is
    not searched. With *wait* it first waits for :data:`GO` on standard input.
    """
    return (agent, "console", *(("--wait",) if wait else ()), "--pid", "--", *program)


def send_signal(agent: str, pid: int, name: str) -> tuple[str, ...]:
    """The command that sends the signal *name*, without ``SIG``, to the process *pid*; it exits with 0 on success."""
    return console(agent, (agent, "signal", "--pid", str(pid), "--signal", name))


def write_file(agent: str, path: str) -> tuple[str, ...]:
    """The command that writes its standard input to *path*, readable only by its user."""
    return console(agent, (agent, "write-file", path))


class PidReader:
    """
    Reads the process id at the beginning of a program's output: four bytes, little-endian, split in any way.

    A *terminal* may insert a carriage return before a line feed byte; it is removed. If a terminal does not insert one,
    a number that contains both bytes in sequence (one in 65536) is misread and refused, or its process cannot be
    signalled; the engines' terminals do insert it. After :data:`GO` its echo comes first.
    """

    def __init__(self, *, terminal: bool, echo: bool = False) -> None:
        self._terminal = terminal
        self._echo = echo
        self._seen = bytearray()
        self.pid: int | None = None
        """The process id, once :meth:`feed` has received all of it."""

    def feed(self, data: bytes) -> bytes:
        """
        Process *data*; return the part that is the program's output.

        Raises:
            ProtocolError: the data does not begin with a process id.
        """
        if self.pid is not None:
            return data
        for position, byte in enumerate(data):
            if self._echo:
                # A terminal that inserts no carriage return echoes only the line feed.
                self._echo = byte != 0x0A
            elif self._terminal and byte == 0x0A and self._seen[-1:] == b"\r":
                self._seen[-1] = byte
            else:
                self._seen.append(byte)
            # The last byte of a valid number is 0, never a carriage return.
            if len(self._seen) == _LENGTH:
                self._settle()
                return data[position + 1 :]
        return b""

    @property
    def seen(self) -> bytes:
        """The data received in place of a process id, for error messages."""
        return bytes(self._seen)

    def _settle(self) -> None:
        pid = int.from_bytes(self._seen, "little")
        if not 0 < pid <= HIGHEST_PID:
            raise ProtocolError(DockerCode.EXEC_PID_READ_FAILED, "the image's agent did not report a process id")
        self.pid = pid
