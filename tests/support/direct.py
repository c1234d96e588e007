"""Agents that connect straight to a listener of ours."""

from __future__ import annotations

import asyncio
import ssl
import tempfile
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest
import uvloop

from containerssh.agent.codec import DIRECT_PREAMBLE, TICKET_SIZE, Fields
from containerssh.agent.direct import DirectListener, Invitation, direct_listener
from containerssh.agent.identity import Identity

Loop = Callable[[], asyncio.AbstractEventLoop]


def on_each_loop(test: Callable[[DirectListener], Awaitable[None]]) -> Callable[[Loop], None]:
    """Their TLS differs, and so do the ways in which a connection ends."""

    @pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
    def run(loop: Loop) -> None:
        async def inside() -> None:
            async with direct_listener("127.0.0.1", [0]) as listener:
                await test(listener)

        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(inside())

    run.__name__ = test.__name__
    return run


class Told:
    """What an agent reads in an invitation."""

    def __init__(self, invitation: Invitation) -> None:
        fields = Fields(invitation.request(timedelta(seconds=2)))
        self.milliseconds, self.host, self.port = fields.number(4), fields.text(), fields.number(2)
        self.ticket = fields.number(TICKET_SIZE).to_bytes(TICKET_SIZE, "big")
        self.pin = fields.number(32).to_bytes(32, "big")
        self.certificate = fields.number(fields.number(4))
        self.key = fields.number(fields.number(4))
        fields.end()


Dialled = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def dial(
    port: int, ticket: bytes, shown: Identity | None, newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
) -> Dialled:
    """As an agent does it; raises OSError."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(DIRECT_PREAMBLE + ticket)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = newest
    if shown is not None:
        with tempfile.NamedTemporaryFile() as file:
            file.write(shown.pem)
            file.flush()
            context.load_cert_chain(file.name)
    try:
        await writer.start_tls(context, ssl_handshake_timeout=5)
    except BaseException:
        writer.transport.abort()
        raise
    return reader, writer


async def refused(port: int, ticket: bytes, shown: Identity | None) -> None:
    """A handler that sends nothing."""
    try:
        reader, writer = await dial(port, ticket, shown)
    except OSError:
        return
    try:
        async with asyncio.timeout(10):
            assert await reader.read(1) == b""
    except OSError:
        return
    finally:
        writer.transport.abort()
