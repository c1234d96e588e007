"""Limits of one connection: each that is reached ends what it should, and is counted and logged under its own code."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import asyncssh
import pytest
from asyncssh.packet import String

from containerssh.core.codes import SSHCode
from containerssh.ssh.limits import reached
from containerssh.ssh.options import Limits
from containerssh.ssh.packets import MSG_PING
from tests.support.local_backend import LocalBackend
from tests.support.ssh_front import Front, serving
from tests.support.waiting import until


@asynccontextmanager
async def client(server: Front) -> AsyncIterator[Any]:
    connection = await asyncssh.connect(
        "127.0.0.1", server.port, username="alice", password="secret", known_hosts=None, client_keys=None
    )
    try:
        yield connection
    finally:
        connection.abort()


def never_finishes_a_key_exchange(connection: Any) -> None:
    connection._send_kexinit()
    connection._transport.pause_reading()


def asks_and_reads_no_answer(connection: Any) -> None:
    connection._transport.pause_reading()
    # More than the kernel keeps on both sides.
    for _ in range(1000):
        connection.send_packet(MSG_PING, String(bytes(30_000)))


@pytest.mark.parametrize(
    ("misbehave", "code", "limits"),
    [
        (never_finishes_a_key_exchange, SSHCode.LIMIT_REKEY, Limits(rekey=timedelta(seconds=0.3))),
        (asks_and_reads_no_answer, SSHCode.LIMIT_UNSENT, Limits(unsent_bytes=4096)),
    ],
)
async def test_a_connection_that_reaches_a_limit_ends_and_no_other(
    misbehave: Callable[[Any], None], code: SSHCode, limits: Limits
) -> None:
    before = reached(code)
    async with serving(limits=limits) as server, client(server) as bad, client(server) as good:
        misbehave(bad)
        await until(lambda: len(server.server.connections) == 1, 20)
        assert (await good.run("echo alive")).stdout == "alive\n"
    assert reached(code) - before == 1
    assert len(server.log.of(code)) == 1


async def overfill_a_channel(connection: Any) -> None:
    """Until it has been closed; the start of its program is never answered."""
    starting = asyncio.create_task(connection.create_session(asyncssh.SSHClientSession, "wait", encoding=None))
    await until(lambda: bool(connection._channels))
    (channel,) = connection._channels.values()
    await until(lambda: channel._send_state == "open")
    for _ in range(30):
        channel._send_request(b"signal", String("TERM"), want_reply=False)
    await asyncio.gather(starting, return_exceptions=True)
    await until(lambda: not connection._channels)


async def test_a_channel_with_too_many_waiting_requests_ends_alone() -> None:
    async def forever(what: str) -> None:
        if "wait" in what:
            await asyncio.Event().wait()

    before = reached(SSHCode.LIMIT_QUEUED_REQUESTS)
    backend = LocalBackend(on_start=forever)
    async with serving(backend, limits=Limits(queued_requests=10)) as server, client(server) as connection:
        for _ in range(2):
            await overfill_a_channel(connection)
            assert (await connection.run("echo alive")).stdout == "alive\n"
    assert reached(SSHCode.LIMIT_QUEUED_REQUESTS) - before == 2
    # However many channels and requests there are.
    assert len(server.log.of(SSHCode.LIMIT_QUEUED_REQUESTS)) == 1


async def test_somebody_who_asks_about_key_after_key_is_sent_away() -> None:
    before = reached(SSHCode.LIMIT_AUTH_REQUESTS)
    keys = [asyncssh.generate_private_key("ssh-ed25519") for _ in range(8)]
    # Failed attempts, and questions to whoever knows the keys, have limits of their own.
    limits = Limits(auth_requests=4, auth_tries=1000, auth_calls=1000)
    async with serving(limits=limits) as server:
        with pytest.raises(asyncssh.DisconnectError):
            await asyncssh.connect("127.0.0.1", server.port, username="alice", known_hosts=None, client_keys=keys)
    assert reached(SSHCode.LIMIT_AUTH_REQUESTS) - before == 1
    assert len(server.log.of(SSHCode.LIMIT_AUTH_REQUESTS)) == 1
