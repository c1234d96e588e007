"""Forwards by upstream's agent, whose helpers run here."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from containerssh.agent.upstream_forwards import Patience, UpstreamForwards, upstream_forwards
from containerssh.core.codes import SSHCode
from containerssh.core.errors import Rejected
from containerssh.core.requests import Origin
from containerssh.core.streams import ByteStream
from tests.support.upstream_agent import LocalHelpers

LIMIT = 20.0

USUAL = Patience()

HASTY = Patience(start=1.0, connect=2.0, dialling=0.2, settling=0.3, silence=0.4)


@asynccontextmanager
async def forwards(helpers: LocalHelpers, patience: Patience = USUAL) -> AsyncIterator[UpstreamForwards]:
    async with asyncio.timeout(LIMIT), upstream_forwards(helpers, "/agent", patience) as made:
        yield made
    for helper in helpers.started:
        assert helper.process.returncode is not None


async def whole(stream: ByteStream) -> bytes:
    pieces = []
    while piece := await stream.read():
        pieces.append(piece)
    return b"".join(pieces)


async def exchange(stream: ByteStream, data: bytes) -> bytes:
    """What of an echo comes back for *data*."""
    await stream.write(data)
    answer = b""
    while len(answer) < len(data):
        piece = await stream.read()
        assert piece, "the connection ended early"
        answer += piece
    return answer


class Client:
    """The client's side of reverse forwards: connections to a port of this machine."""

    def __init__(self, port: int = 0, *, refuses: bool = False) -> None:
        self.port = port
        self.refuses = refuses
        self.origins: list[Origin] = []

    async def __call__(self, origin: Origin) -> ByteStream:
        from containerssh.agent.streams import SocketStream

        self.origins.append(origin)
        if self.refuses:
            raise Rejected(SSHCode.CHANNEL_REQUEST_FAILED, "no")
        connection = socket.create_connection(("127.0.0.1", self.port))
        return SocketStream(connection)
