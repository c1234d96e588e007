"""A TCP relay that can be cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field


@dataclass
class Relay:
    """Passes connections on to another port while it is open."""

    port: int = 0
    up: bool = True
    """Whether it takes new connections."""
    opened: int = 0
    """Connections so far."""
    _writers: list[asyncio.StreamWriter] = field(default_factory=list)
    _flowing: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._flowing.set()

    def hold(self) -> None:
        """Pass nothing on, in silence, like a network that drops everything; new connections get no answer either."""
        self._flowing.clear()

    def strand(self) -> None:
        """Pass nothing on for those that are connected, for ever; who connects from now on is served."""
        self._flowing.clear()
        self._flowing = asyncio.Event()
        self._flowing.set()

    def flow(self) -> None:
        """Pass on again, also what came meanwhile."""
        self._flowing.set()

    def cut(self) -> None:
        """End all connections at once."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()


@asynccontextmanager
async def relay_to(port: int, at: str = "127.0.0.1") -> AsyncIterator[Relay]:
    """A relay from a port of its own of the address *at* to *port* on 127.0.0.1."""
    relay = Relay()
    tasks: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            if not relay.up:
                return
            relay.opened += 1
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", port)
            relay._writers += [writer, there_writer]
            flowing = relay._flowing
            await asyncio.gather(_copy(reader, there_writer, flowing), _copy(there_reader, writer, flowing))
        except OSError:
            pass
        finally:
            tasks.discard(task)
            writer.transport.abort()

    server = await asyncio.start_server(accept, at, 0)
    relay.port = server.sockets[0].getsockname()[1]
    try:
        yield relay
    finally:
        server.close()
        relay.cut()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flowing: asyncio.Event) -> None:
    with suppress(OSError):
        while data := await reader.read(64 * 1024):
            await flowing.wait()
            writer.write(data)
            await writer.drain()
        writer.write_eof()
