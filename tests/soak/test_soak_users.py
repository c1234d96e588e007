"""What a user who has logged in can do to the others: reading nothing, asking for too much."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import bcrypt
import pytest
from asyncssh.packet import Boolean, String, UInt32

from tests.soak.scale import scaled
from tests.support.clients import Peak, good_logins, logged_in
from tests.support.oci import image
from tests.support.vitals import MIB, Watched, watched

pytestmark = [pytest.mark.oci, pytest.mark.timeout(900)]

ALICE = {name: {"password": bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()} for name in ("alice", "bob")}
CONFIG: dict[str, Any] = {"backend": "oci", "oci": {"image": str(image())}}
WINDOW = 2**31 - 1
KEXINIT = 20


async def beside(server: Watched, attack: asyncio.Task[None], before: float) -> None:
    """Bob's logins while *attack* runs are about as quick as *before* it; the attack goes on for its time."""
    during = await good_logins(server, 9, user="bob")
    await attack
    print(f"bob: {before * 1000:.0f} ms before, {during * 1000:.0f} ms during")
    assert during < 1.3 * before + 0.03


@pytest.mark.parametrize("rekeying", [False, True], ids=["alone", "during-rekey"])
async def test_a_huge_window_that_is_never_read(rekeying: bool) -> None:
    async with watched(CONFIG, ALICE) as server:
        # What the first of everything takes is not the attack's: logins, and a transfer while others log in.
        async with logged_in(server) as connection:
            process = await connection.create_process("cat /dev/zero", encoding=None)
            await process.stdout.readexactly(8 * MIB)
            await good_logins(server, 9, user="bob")
        before = await good_logins(server, 9, user="bob")
        async with logged_in(server) as connection:
            process = await connection.create_process("cat /dev/zero", encoding=None, window=WINDOW)
            await process.stdout.readexactly(MIB)
            async with Peak(server) as peak:
                if rekeying:
                    # New keys are asked for, and the server's part of it goes unanswered; what it sends is read.
                    handlers = type(connection)._packet_handlers
                    connection._packet_handlers = {**handlers, KEXINIT: lambda *_: True}
                    connection._send_kexinit()
                else:
                    connection._transport.pause_reading()
                wait = asyncio.create_task(asyncio.sleep(scaled(60, least=5)))
                await beside(server, wait, before)
            print(f"growth: {peak.growth / MIB:.2f} MiB, other users' logins included")
            assert peak.growth < 2 * MIB, peak.growth / MIB


@pytest.mark.parametrize("window", [1, 0])
async def test_a_tiny_window_costs_its_owner_only(window: int) -> None:
    async with watched(CONFIG, ALICE) as server:
        before = await good_logins(server, 9, user="bob")
        async with logged_in(server) as connection, Peak(server) as peak:
            processes = [
                await connection.create_process("cat /dev/zero", encoding=None, window=window) for _ in range(8)
            ]
            for process in processes:
                process.channel.pause_reading()
            await beside(server, asyncio.create_task(asyncio.sleep(scaled(20, least=3))), before)
        assert peak.growth < 8 * MIB


def _variables(connection: Any, channel: Any) -> None:
    channel._send_request(b"env", String("A" * 100), String(b"x" * 20_000), want_reply=False)


def _resizes(connection: Any, channel: Any) -> None:
    channel._send_request(b"window-change", UInt32(80), UInt32(24), UInt32(0), UInt32(0), want_reply=False)


def _signals(connection: Any, channel: Any) -> None:
    channel._send_request(b"signal", String("WINCH"), want_reply=False)


def _questions(connection: Any, channel: Any) -> None:
    connection.send_packet(80, String("nothing@example.com"), Boolean(True))


def _channels(connection: Any, channel: Any) -> None:
    connection.send_packet(90, String("session"), UInt32(1000), UInt32(WINDOW), UInt32(32768))


def _unknown_channels(connection: Any, channel: Any) -> None:
    connection.send_packet(90, String("nothing@example.com"), UInt32(1000), UInt32(WINDOW), UInt32(32768))


def _windows(connection: Any, channel: Any) -> None:
    channel.send_packet(93, UInt32(1))


def _bytes(connection: Any, channel: Any) -> None:
    channel.send_packet(94, String(b"x"))


def _pings(connection: Any, channel: Any) -> None:
    connection.send_packet(192, String(bytes(1000)))


FLOODS = [_variables, _resizes, _signals, _questions, _channels, _unknown_channels, _windows, _bytes, _pings]


@pytest.mark.parametrize("message", FLOODS)
@pytest.mark.parametrize("reading", [True, False], ids=["reading", "blind"])
async def test_a_flood_of_a_logged_in_user(message: Callable[[Any, Any], None], reading: bool) -> None:
    async with watched(CONFIG, ALICE) as server:
        for _ in range(3):
            await good_logins(server, 1, user="bob")
        base = await server.settled()
        async with logged_in(server) as connection:
            process = await connection.create_process("cat >/dev/null", term_type="xterm", encoding=None)
            # Answers to what was not asked the library's way would end the client.
            ignored = dict.fromkeys((81, 82, 91, 92, 193), lambda *_: True)
            connection._packet_handlers = {**type(connection)._packet_handlers, **ignored}
            if not reading:
                connection._transport.pause_reading()
            ends = time.monotonic() + scaled(15, least=3)

            async def flood() -> int:
                count = 0
                while time.monotonic() < ends and connection._transport and process.channel._send_chan is not None:
                    # Nor does the attacker keep what the server does not take.
                    if connection._transport.get_write_buffer_size() < MIB:
                        for _ in range(50):
                            message(connection, process.channel)
                        count += 50
                    await asyncio.sleep(0.002)
                return count

            async with Peak(server) as peak:
                flooding = asyncio.create_task(flood())
                times = [await good_logins(server, 1, user="bob") for _ in range(5)]
                count = await flooding
            print(f"{message.__name__}: {count} messages, bob {max(times) * 1000:.0f} ms, {peak.growth / MIB:.1f} MiB")
        assert count > 50
        assert max(times) < 2
        assert peak.growth < 16 * MIB
        await server.back_to(base, growth=16 * MIB, within=30)
        assert server.errors() == []
