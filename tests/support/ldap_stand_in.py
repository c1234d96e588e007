"""A directory server for faults that a real one does not have: it says what a test wants it to."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

BIND, BOUND, UNBIND, SEARCH, ENTRY, DONE = 0x60, 0x61, 0x42, 0x63, 0x64, 0x65
REFERENCE, START_TLS, EXTENDED = 0x73, 0x77, 0x78
"""Tags of operations (RFC 4511 section 4)."""


def ber(tag: int, *parts: bytes) -> bytes:
    """An element."""
    content = b"".join(parts)
    if len(content) < 0x80:
        return bytes([tag, len(content)]) + content
    length = len(content).to_bytes(4, "big")
    return bytes([tag, 0x84]) + length + content


def result(number: int, operation: int, code: int = 0, text: bytes = b"") -> bytes:
    """The end of an operation."""
    return message(number, ber(operation, ber(0x0A, bytes([code])), ber(0x04), ber(0x04, text)))


def message(number: int, operation: bytes) -> bytes:
    return ber(0x30, ber(0x02, bytes([number])), operation)


def entry(number: int, dn: bytes, **attributes: bytes | list[bytes]) -> bytes:
    """A found entry."""
    listed = []
    for name, found in attributes.items():
        values = [found] if isinstance(found, bytes) else found
        listed.append(ber(0x30, ber(0x04, name.encode()), ber(0x31, *(ber(0x04, value) for value in values))))
    return message(number, ber(ENTRY, ber(0x04, dn), ber(0x30, *listed)))


@dataclass
class Asked:
    """A request."""

    number: int
    operation: int
    raw: bytes


Behaviour = Callable[[Asked, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class StandIn:
    """A fake server that accepts every bind and finds no entries, unless configured otherwise."""

    port: int = 0
    on: dict[int, Behaviour] = field(default_factory=dict)
    """What it does when it is asked for an operation."""
    asked: list[Asked] = field(default_factory=list)
    scheme: str = "ldap"
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        try:
            while True:
                asked = await _read(reader)
                self.asked.append(asked)
                if behaviour := self.on.get(asked.operation):
                    await behaviour(asked, writer)
                elif asked.operation == BIND:
                    writer.write(result(asked.number, BOUND))
                elif asked.operation == SEARCH:
                    writer.write(result(asked.number, DONE))
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


async def _read(reader: asyncio.StreamReader) -> Asked:
    head = await reader.readexactly(2)
    length = head[1]
    if length & 0x80:
        length = int.from_bytes(await reader.readexactly(length & 0x7F), "big")
    raw = await reader.readexactly(length)
    # The number of a message has one byte in so short conversations.
    return Asked(raw[2], raw[3], raw)


@asynccontextmanager
async def stand_in(on: dict[int, Behaviour] | None = None, tls: ssl.SSLContext | None = None) -> AsyncIterator[StandIn]:
    """A stand-in on a free port; with *tls* from the start."""
    made = StandIn(on=on or {}, scheme="ldaps" if tls else "ldap")
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0, ssl=tls)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        for task in made.tasks:
            task.cancel()
        await asyncio.gather(*made.tasks, return_exceptions=True)
        await server.wait_closed()
