"""A server in the place of the Kubernetes API that answers as a test says."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta

from containerssh.backends.kubernetes.client import KubernetesClient
from tests.support.kubernetes import connected
from tests.support.webhook import Authority

Answer = Callable[["Hostile", str, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
POD = {"metadata": {"name": "one", "uid": "1", "resourceVersion": "1"}}


@dataclass
class Hostile:
    """A server that answers each request as the test says."""

    answer: Answer
    requests: list[str] = field(default_factory=list)
    """Heads."""
    port: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                length = re.search(r"(?i)^content-length: (\d+)", head, re.MULTILINE)
                await reader.readexactly(int(length[1]) if length else 0)
                self.requests.append(head)
                await self.answer(self, head, reader, writer)
                await writer.drain()
        except (OSError, EOFError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.transport.abort()


@asynccontextmanager
async def hostile(
    answer: Answer, limit: float = 5, authority: Authority | None = None
) -> AsyncIterator[tuple[Hostile, KubernetesClient]]:
    """Such a server, and a client for it; with TLS where there is an *authority*."""
    made = Hostile(answer)
    tasks: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        await made.serve(reader, writer)

    tls = authority.server_tls("api") if authority else None
    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
    port = made.port = server.sockets[0].getsockname()[1]
    connection = {"host": f"http://127.0.0.1:{port}", "bearerToken": "secret"}
    if authority:
        connection |= {"host": f"https://127.0.0.1:{port}", "cacertFile": str(authority.cert)}
    try:
        async with connected(connection, timedelta(seconds=limit)) as client:
            yield made, client
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def reply(body: object, status: str = "200 OK", headers: str = "") -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(data)}\r\n{headers}\r\n".encode() + data


def saying(*texts: bytes, close: bool = False) -> Answer:
    """Answers every request with *texts*."""

    async def answer(_: Hostile, __: str, ___: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for text in texts:
            writer.write(text)
            await writer.drain()
        if close:
            raise EOFError

    return answer
