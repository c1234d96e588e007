"""A client that sends given messages after its key exchange."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Protocol, Self

import paramiko

SERVICE, REQUEST, FAILURE, SUCCESS = 5, 50, 51, 52
RESPONSE = ASKED = KEY_ACCEPTABLE = 60
TOKEN = ANSWERS = 61
ERROR_TOKEN = 65


_PATIENCE = 100
"""Tenths of a second."""


class Server(Protocol):
    """Where to connect to."""

    @property
    def port(self) -> int: ...


@asynccontextmanager
async def paramiko_transport(server: Server) -> AsyncIterator[paramiko.Transport]:
    """A transport of paramiko after its key exchange, ready for the authentication service; closed at the end."""
    transport = await asyncio.to_thread(paramiko.Transport, ("127.0.0.1", server.port))
    try:
        await asyncio.to_thread(transport.start_client, None, 10)
        yield transport
    finally:
        await asyncio.to_thread(transport.close)


class RawClient:
    """Made by :meth:`connected`."""

    def __init__(self, transport: paramiko.Transport) -> None:
        self._transport = transport
        self._answers: queue.Queue[tuple[int, paramiko.Message]] = queue.Queue()
        keep = {kind: self._keeper(kind) for kind in (FAILURE, SUCCESS, RESPONSE, TOKEN, ERROR_TOKEN)}
        transport.auth_handler = type("Answers", (), {"_handler_table": keep, "abort": lambda _: None})()

    @classmethod
    @asynccontextmanager
    async def connected(cls, server: Server) -> AsyncIterator[Self]:
        """A client whose next message is its first request to be authenticated."""
        transport = await asyncio.to_thread(paramiko.Transport, ("127.0.0.1", server.port))
        try:
            await asyncio.to_thread(transport.start_client, None, 20)
            client = cls(transport)
            client.send(SERVICE, b"ssh-userauth")
            yield client
        finally:
            await asyncio.to_thread(transport.close)

    def _keeper(self, kind: int) -> Any:
        return lambda *message: self._answers.put((kind, message[-1]))

    def send(self, kind: int, *fields: bytes, raw: bytes = b"") -> None:
        """A message of *kind* with *fields* as strings, and *raw* behind them."""
        self._transport._send_message(message(kind, *fields, raw=raw))  # type: ignore[attr-defined]  # a private part that its stubs leave out

    async def next(self) -> tuple[int, paramiko.Message]:
        """The next message of the server; raises EOFError when it has hung up instead."""
        return await asyncio.to_thread(self._next)

    def _next(self) -> tuple[int, paramiko.Message]:
        for _ in range(_PATIENCE):
            alive = self._transport.is_active()
            with suppress(queue.Empty):
                return self._answers.get(timeout=0.1)
            if not alive:
                raise EOFError
        raise TimeoutError("the server does not answer")

    def put_back(self, kind: int) -> None:
        """Have :meth:`next` give a message of this *kind* once more."""
        self._answers.put((kind, paramiko.Message()))

    async def answer(self, wanted: int) -> paramiko.Message:
        """The same, which is of the kind *wanted*."""
        kind, found = await self.next()
        assert kind == wanted
        return found

    @property
    def session(self) -> bytes:
        """The session's identifier."""
        return bytes(self._transport.session_id)  # type: ignore[arg-type]  # bytes since the first key exchange

    @property
    def host_key(self) -> bytes:
        """The server's, as it was shown."""
        return self._transport.get_remote_server_key().asbytes()


def message(kind: int, *fields: bytes, raw: bytes = b"") -> paramiko.Message:
    """As :meth:`RawClient.send` sends it."""
    found = paramiko.Message()
    found.add_byte(bytes([kind]))
    for field in fields:
        found.add_string(field)
    found.add_bytes(raw)
    return found
