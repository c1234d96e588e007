"""The client's end of forwards, without SSH."""

from __future__ import annotations

import asyncio
import socket

from containerssh.agent.streams import SocketStream
from containerssh.core.requests import Origin
from containerssh.core.streams import ByteStream
from tests.support.agent import read_all
from tests.support.docker import Channel


class Client:
    """What a client does with connections that are forwarded to it."""

    def __init__(self) -> None:
        self.opened: asyncio.Queue[tuple[SocketStream, Origin | None]] = asyncio.Queue()

    async def open(self, origin: Origin | None = None) -> ByteStream:
        ours, theirs = socket.socketpair()
        self.opened.put_nowait((SocketStream(ours), origin))
        return SocketStream(theirs)

    async def next(self) -> tuple[SocketStream, Origin | None]:
        async with asyncio.timeout(20):
            return await self.opened.get()


class Desktop(Channel):
    """The channel of a client with an ssh-agent and a display."""

    def __init__(self) -> None:
        super().__init__(ends=False)
        self.client = Client()

    async def open_agent(self) -> ByteStream:
        return await self.client.open()

    async def open_x11(self, origin: Origin) -> ByteStream:
        return await self.client.open(origin)


async def exchange(stream: ByteStream, data: bytes) -> bytes:
    """What comes back after *data* and their end; the stream is closed then."""

    async def send() -> None:
        await stream.write(data)
        await stream.write_eof()

    try:
        found, _ = await asyncio.gather(read_all(stream), send())
    finally:
        await stream.close()
    return found
