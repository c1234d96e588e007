"""Kept connections to the API server, and those who leave while one is being made."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from containerssh.backends.kubernetes.connections import Connections
from containerssh.backends.kubernetes.credentials import Access
from tests.support.waiting import until
from tests.support.webhook import Authority

REPLY = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


class Slow:
    """A TLS server that makes clients wait for its part of the handshake."""

    def __init__(self) -> None:
        self.port = 0
        self.asked = 0
        """Connections so far."""
        self.made = 0
        """Those whose handshake is complete."""
        self.go = asyncio.Event()


@asynccontextmanager
async def slow_server(folder: Path) -> AsyncIterator[tuple[Slow, Access]]:
    authority = Authority(folder)
    files = authority.issue("server")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(files.cert, files.key)
    ours = ssl.create_default_context(cafile=str(authority.cert))
    slow = Slow()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        slow.made += 1
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(REPLY)
        except (OSError, EOFError):
            pass
        finally:
            writer.transport.abort()

    loop = asyncio.get_running_loop()
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    slow.port = listener.getsockname()[1]

    async def accept() -> None:
        while True:
            accepted, _ = await loop.sock_accept(listener)
            slow.asked += 1
            try:
                await slow.go.wait()
            except asyncio.CancelledError:
                accepted.close()
                raise
            reader = asyncio.StreamReader()
            with suppress(OSError):
                await loop.connect_accepted_socket(
                    partial(asyncio.StreamReaderProtocol, reader, serve), accepted, ssl=tls
                )

    accepting = asyncio.create_task(accept())
    try:
        yield slow, Access("https", "127.0.0.1", slow.port, "", "/api", (), ours, "127.0.0.1")
    finally:
        accepting.cancel()
        await asyncio.gather(accepting, return_exceptions=True)
        listener.close()


async def answer(connections: Connections, access: Access) -> int:
    async with await connections.request(access, "GET", "/", None) as response:
        await response.read()
        return response.status


async def test_a_connection_whose_handshake_nobody_waits_for_any_more_serves_the_next_request(tmp_path: Path) -> None:
    connections = Connections()
    async with slow_server(tmp_path) as (slow, access):
        try:
            leaving = asyncio.create_task(answer(connections, access))
            await until(lambda: slow.asked == 1)
            leaving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await leaving
            slow.go.set()
            await until(lambda: slow.made == 1)
            assert await answer(connections, access) == 200
            assert slow.asked == 1
        finally:
            await connections.close()


async def test_a_handshake_that_does_not_end_is_given_up_with_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("containerssh.backends.kubernetes.connections._HANDSHAKE", 600.0)
    connections = Connections()
    async with slow_server(tmp_path) as (slow, access):
        leaving = asyncio.create_task(answer(connections, access))
        await until(lambda: slow.asked == 1)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        async with asyncio.timeout(5):
            await connections.close()
        assert not [task for task in asyncio.all_tasks() if "connect" in getattr(task.get_coro(), "__name__", "")]
