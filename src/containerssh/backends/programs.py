"""What a session needs of whoever starts its program: the guest agent's link, or the engine itself."""

from __future__ import annotations

from typing import Protocol

from containerssh.agent.process import Program
from containerssh.core.requests import ExitSignal, WindowSize
from containerssh.core.streams import ByteReader, ByteWriter


class RunningProgram(Protocol):
    """A program that runs inside; see :class:`~containerssh.agent.process.AgentProcess` for the meaning of each."""

    @property
    def stdin(self) -> ByteWriter: ...

    @property
    def stdout(self) -> ByteReader: ...

    @property
    def stderr(self) -> ByteReader | None: ...

    async def wait(self) -> int | ExitSignal: ...

    async def signal(self, name: str) -> None: ...

    async def resize(self, size: WindowSize) -> None: ...

    async def send_break(self, milliseconds: int) -> None: ...

    async def kill(self) -> None: ...


class Programs(Protocol):
    """Starts programs in one container."""

    async def start(self, program: Program) -> RunningProgram:
        """Raises BackendError: it cannot be started."""
        ...
