"""The listener that agents dial by TLS, and those who try to be one."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
import sys
import tempfile
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from containerssh.agent import strangers as limits
from containerssh.agent.codec import DIRECT_PREAMBLE
from containerssh.agent.direct import DirectListener, Invitation, direct_listener
from containerssh.agent.identity import Identity
from containerssh.core.streams import ByteWriter
from tests.support.direct import Told, dial, on_each_loop, refused
from tests.support.waiting import until


@pytest.fixture
async def listener() -> AsyncIterator[DirectListener]:
    async with direct_listener("127.0.0.1", [0]) as found:
        yield found


async def nobody_comes(invitation: Invitation) -> None:
    with pytest.raises(ConnectionError, match="no TLS"):
        async with asyncio.timeout(10):
            await invitation.arrived()


@on_each_loop
async def test_who_has_the_ticket_and_the_key_is_let_in_once(listener: DirectListener) -> None:
    # Nobody would be listened to when the only one is there.
    async with listener.invite("another"), listener.invite("192.0.2.1") as invitation:
        told = Told(invitation)
        assert (told.milliseconds, told.host, told.port) == (2000, "192.0.2.1", listener.port)
        reader, writer = await dial(listener.port, told.ticket, invitation.identity)
        stream = await invitation.arrived()
        tls: ssl.SSLObject = writer.get_extra_info("ssl_object")
        assert hashlib.sha256(tls.getpeercert(binary_form=True) or b"").digest() == told.pin
        assert tls.version() == "TLSv1.3"
        writer.write(b"in")
        assert await stream.read() == b"in"
        await stream.write(b"out")
        assert await reader.read(10) == b"out"
        await refused(listener.port, told.ticket, invitation.identity)
        writer.write(b"still")
        assert await stream.read() == b"still"
        writer.close()
        assert await stream.read() == b""
        with pytest.raises(ConnectionError):
            await stream.write(b"nobody")


@on_each_loop
async def test_bulk_flows_both_ways_and_waits_for_who_does_not_read(listener: DirectListener) -> None:
    size = 24 << 20
    async with listener.invite("a") as invitation:
        reader, writer = await dial(listener.port, Told(invitation).ticket, invitation.identity)
        stream = await invitation.arrived()
        # Nobody reads: no more than some buffers are taken.
        writing = asyncio.create_task(_send(writer, size))
        sending = asyncio.create_task(_write(stream, size))
        await asyncio.wait([writing, sending], timeout=0.5)
        assert not writing.done()
        assert not sending.done()
        got = 0
        while got < size:
            data = await stream.read()
            assert data
            got += len(data)
        while size:
            size -= len(await reader.read(1 << 16))
        await asyncio.gather(writing, sending)
        assert got == 24 << 20
        writer.transport.abort()


@on_each_loop
async def test_an_agent_whose_records_carry_hardly_any_data_is_cut_off(listener: DirectListener) -> None:
    """Each of them costs as much as a full one."""
    async with listener.invite("a") as invitation, asyncio.timeout(20):
        _, writer = await dial(listener.port, Told(invitation).ticket, invitation.identity)
        stream = await invitation.arrived()
        for _ in range(8000):
            writer.write(b"x")
        with pytest.raises(ConnectionError, match="hardly any data"):
            while await stream.read():
                pass
    writer.transport.abort()


@on_each_loop
async def test_an_agent_that_asks_for_new_keys_all_the_time_is_cut_off(listener: DirectListener) -> None:
    for beside in (0, 8):
        async with listener.invite("a") as invitation, asyncio.timeout(30):
            with tempfile.NamedTemporaryFile() as file:
                file.write(invitation.identity.pem)
                file.flush()
                words = (str(listener.port), Told(invitation).ticket.hex(), file.name, "10000", str(beside))
                program = (sys.executable, "-m", "tests.support.key_updates", *words)
                agent = await asyncio.create_subprocess_exec(*program, stdout=asyncio.subprocess.PIPE)
                stream = await invitation.arrived()
            with pytest.raises(ConnectionError, match="hardly any data"):
                while await stream.read():
                    pass
            told, _ = await agent.communicate()
            assert told in (b"cut off\n", b"ended\n")


@on_each_loop
async def test_an_agent_may_send_as_many_short_messages_as_it_likes(listener: DirectListener) -> None:
    async with listener.invite("a") as invitation, asyncio.timeout(20):
        _, writer = await dial(listener.port, Told(invitation).ticket, invitation.identity)
        stream = await invitation.arrived()
        for _ in range(8000):
            writer.write(bytes(8))
        got = 0
        while got < 8000 * 8:
            got += len(await stream.read())
    writer.transport.abort()


async def _send(writer: asyncio.StreamWriter, size: int) -> None:
    for _ in range(size >> 16):
        writer.write(bytes(1 << 16))
        await writer.drain()


async def _write(stream: ByteWriter, size: int) -> None:
    for _ in range(size >> 16):
        await stream.write(bytes(1 << 16))


@on_each_loop
async def test_an_agent_that_does_not_read_holds_up_nobodys_end(listener: DirectListener) -> None:
    async with asyncio.timeout(10):
        async with listener.invite("a") as invitation:
            _, writer = await dial(listener.port, Told(invitation).ticket, invitation.identity)
            stream = await invitation.arrived()
            writer.transport.pause_reading()  # type: ignore[attr-defined]  # a Transport
            sending = asyncio.create_task(_write(stream, 64 << 20))
            await asyncio.wait([sending], timeout=0.3)
        with pytest.raises(ConnectionError):
            await sending
    writer.transport.abort()


@pytest.mark.parametrize("other", [True, False])
async def test_a_stolen_ticket_is_of_no_use_without_the_key(listener: DirectListener, other: bool) -> None:
    async with listener.invite("a") as invitation:
        await refused(listener.port, Told(invitation).ticket, Identity.new() if other else None)
        await nobody_comes(invitation)


@on_each_loop
async def test_another_logins_key_does_not_open_this_one(listener: DirectListener) -> None:
    async with listener.invite("a") as mine, listener.invite("a") as other:
        await refused(listener.port, Told(other).ticket, mine.identity)
        await nobody_comes(other)
        _, writer = await dial(listener.port, Told(mine).ticket, mine.identity)
        await mine.arrived()
        writer.transport.abort()


@on_each_loop
async def test_a_ticket_that_is_half_right_is_wrong_and_does_not_use_up_the_right_one(
    listener: DirectListener,
) -> None:
    async with listener.invite("a") as invitation:
        ticket = Told(invitation).ticket
        await refused(listener.port, ticket[:-1] + bytes((ticket[-1] ^ 1,)), invitation.identity)
        await refused(listener.port, bytes((ticket[0] ^ 1,)) + ticket[1:], invitation.identity)
        _, writer = await dial(listener.port, ticket, invitation.identity)
        await invitation.arrived()
        writer.transport.abort()


@on_each_loop
async def test_a_ticket_is_worth_nothing_when_its_login_is_over(listener: DirectListener) -> None:
    async with listener.invite("a") as invitation:
        told = Told(invitation)
    async with listener.invite("a"):
        await refused(listener.port, told.ticket, invitation.identity)


@on_each_loop
async def test_older_tls_is_refused(listener: DirectListener) -> None:
    async with listener.invite("a") as invitation:
        with pytest.raises(OSError):
            await dial(listener.port, Told(invitation).ticket, invitation.identity, ssl.TLSVersion.TLSv1_2)
        await nobody_comes(invitation)


async def test_who_says_nothing_after_the_ticket_is_given_up(
    listener: DirectListener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("containerssh.agent.direct._HANDSHAKE_LIMIT", 0.2)
    async with listener.invite("a") as invitation:
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(DIRECT_PREAMBLE + Told(invitation).ticket)
        await nobody_comes(invitation)
        with pytest.raises((OSError, AssertionError)):
            assert await reader.read(1)
        writer.transport.abort()


@on_each_loop
async def test_a_login_that_ends_amid_the_handshake_takes_the_connection_along(listener: DirectListener) -> None:
    async with listener.invite("a") as invitation:
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(DIRECT_PREAMBLE + Told(invitation).ticket + b"\x16\x03")
        await until(lambda: not listener.is_waiting)
    async with asyncio.timeout(10):
        with pytest.raises((OSError, AssertionError)):
            assert await reader.read(1)
    writer.transport.abort()


@on_each_loop
async def test_a_flood_of_strangers_who_say_nothing_keeps_no_agent_out(listener: DirectListener) -> None:
    async with listener.invite("a") as invitation:
        flood = [await asyncio.open_connection("127.0.0.1", listener.port) for _ in range(300)]
        _, writer = await dial(listener.port, Told(invitation).ticket, invitation.identity)
        async with asyncio.timeout(10):
            await invitation.arrived()
            writer.transport.abort()
            # The oldest of them had to go.
            assert await flood[0][0].read(1) == b""
        for _, stranger in flood:
            stranger.transport.abort()


async def test_slow_strangers_are_sent_away(listener: DirectListener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_LIMIT", 0.2)
    async with listener.invite("a"), asyncio.timeout(10):
        strangers = []
        for _ in range(3):
            strangers.append(await asyncio.open_connection("127.0.0.1", listener.port))
            strangers[-1][1].write(DIRECT_PREAMBLE)
        for reader, writer in strangers:
            assert await reader.read(1) == b""
            writer.transport.abort()


@settings(max_examples=30, deadline=None)
@given(st.binary(min_size=1, max_size=80).filter(lambda said: not said.startswith(DIRECT_PREAMBLE)))
def test_who_says_anything_else_is_sent_away(said: bytes) -> None:
    async def run() -> None:
        async with direct_listener("127.0.0.1", [0]) as listener, listener.invite("a"), asyncio.timeout(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
            writer.write(said)
            writer.write_eof()
            with pytest.raises((OSError, AssertionError)):
                assert await reader.read(1)
            writer.transport.abort()

    asyncio.run(run())


@on_each_loop
async def test_nobody_is_listened_to_while_no_login_waits(listener: DirectListener) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
    writer.write(b"x")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await reader.read(1)
    async with listener.invite("a"), asyncio.timeout(10):
        with pytest.raises((OSError, AssertionError)):
            assert await reader.read(1)
    writer.transport.abort()
