"""Fakes for faults that real services seldom show: a webhook that has gone mad."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import cache

MIB = 1024 * 1024
_MUCH = 10 * 1024 * MIB
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
_YES = b'{"success": true, "authenticatedUsername": "alice", "metadata": {}}'


@dataclass(eq=False)
class MadWebhook:
    """A fake server: accepts every user, except for those in :data:`FAULTS`, for whom it misbehaves."""

    url: str = ""
    asked: Counter[str] = field(default_factory=Counter)
    """How often it was asked about whom."""
    sent: int = 0
    """Bytes of answers that were given, to whom it goes wrong."""
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    (
                        int(line.split(b":")[1])
                        for line in head.split(b"\r\n")
                        if line.lower().startswith(b"content-le")
                    ),
                    0,
                )
                question = json.loads(await reader.readexactly(length) or b"{}")
                user = str(question.get("username", ""))
                self.asked[user] += 1
                fault = FAULTS.get(user)
                if fault is None:
                    writer.write(_HEAD + b"Content-Length: %d\r\n\r\n" % len(_YES) + _YES)
                    await writer.drain()
                    continue
                await fault(self, writer)
                return
        except (OSError, EOFError):
            pass
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _send(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        writer.write(data)
        await writer.drain()
        self.sent += len(data)


async def _slow(hook: MadWebhook, writer: asyncio.StreamWriter) -> None:
    """A byte each quarter of a second."""
    for byte in _HEAD + b"Content-Length: 10\r\n\r\n":
        await hook._send(writer, bytes([byte]))
        await asyncio.sleep(0.25)


async def _dead(_: MadWebhook, __: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def _redirect(hook: MadWebhook, writer: asyncio.StreamWriter) -> None:
    await hook._send(writer, b"HTTP/1.1 307 There\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n")


async def _endless(hook: MadWebhook, writer: asyncio.StreamWriter) -> None:
    """Ten GiB of a yes that does not come to its end."""
    await hook._send(writer, _HEAD + b"Connection: close\r\n\r\n" + _YES[:-1])
    for _ in range(_MUCH // 65536):
        await hook._send(writer, b" " * 65536)


@cache
def _blanks() -> bytes:
    """Sixty-four MiB, packed."""
    return gzip.compress(b" " * 64 * MIB, 9)


async def _bomb(hook: MadWebhook, writer: asyncio.StreamWriter) -> None:
    """As much, packed into ten MiB."""
    packer = zlib.compressobj(9, wbits=16 + zlib.MAX_WBITS)
    start = packer.compress(_YES[:-1])
    await hook._send(writer, _HEAD + b"Content-Encoding: gzip\r\nConnection: close\r\n\r\n")
    await hook._send(writer, start + packer.flush())
    for _ in range(160):
        await hook._send(writer, _blanks())
    await asyncio.Event().wait()


async def _half(hook: MadWebhook, writer: asyncio.StreamWriter) -> None:
    """Half an answer, then nothing more is sent, but everything still taken."""
    await hook._send(writer, _HEAD + b"Content-Length: 1000\r\n\r\n" + _YES)
    with suppress(OSError):
        writer.write_eof()
    await asyncio.sleep(30)


async def _headers(hook: MadWebhook, writer: asyncio.StreamWriter) -> None:
    """Header lines without end."""
    await hook._send(writer, _HEAD)
    for _ in range(_MUCH // 65536):
        await hook._send(writer, b"X-More: " + b"y" * 1000 + b"\r\n")


async def _noise(hook: MadWebhook, writer: asyncio.StreamWriter) -> None:
    await hook._send(writer, bytes(range(256)) * 100)


FAULTS: dict[str, Callable[[MadWebhook, asyncio.StreamWriter], Awaitable[None]]] = {
    "slow": _slow,
    "dead": _dead,
    "redirect": _redirect,
    "endless": _endless,
    "bomb": _bomb,
    "half": _half,
    "headers": _headers,
    "noise": _noise,
}
"""What a user of that name meets."""


@asynccontextmanager
async def mad_webhook() -> AsyncIterator[MadWebhook]:
    """One on a free port of this machine."""
    hook = MadWebhook()
    server = await asyncio.start_server(hook.serve, "127.0.0.1", 0)
    hook.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield hook
    finally:
        server.close()
        for task in list(hook._tasks):
            task.cancel()
        await asyncio.gather(*hook._tasks, return_exceptions=True)
