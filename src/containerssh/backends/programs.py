"""The interface through which sessions start programs: implemented by the guest agent's link and by engines."""

from __future__ import annotations

from typing import Protocol

from containerssh.agent.process import Program
from containerssh.core.requests import ExitSignal, WindowSize
from containerssh.core.streams import ByteReader, ByteWriter


class RunningProgram(Protocol):
    """A running program; :class:`~containerssh.agent.process.AgentProcess` documents the methods."""

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
        """Start *program*; raises BackendError if that fails."""
        ...
