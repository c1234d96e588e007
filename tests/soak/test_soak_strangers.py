"""Strangers in masses: half-open connections, endless banners, key exchanges that lead nowhere."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from typing import Any

import bcrypt
import pytest

from tests.soak.scale import SCALE, scaled
from tests.support.clients import Peak, good_login, good_logins
from tests.support.oci import image
from tests.support.vitals import MIB, Watched, watched

pytestmark = [pytest.mark.oci, pytest.mark.timeout(900)]

ALICE = {"alice": {"password": bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()}}
GRACE = 20
CONFIG: dict[str, Any] = {
    "backend": "oci",
    "oci": {"image": str(image())},
    # The limits hold for this machine's own addresses too.
    "ssh": {"loginGraceTime": f"{GRACE}s", "limits": {"allow": []}},
}
FRIEND = ("127.0.0.3", 0)
KEXINIT = bytes.fromhex("0000000c0a14") + bytes(10)


async def stranger(server: Watched, number: int) -> socket.socket:
    """A connection from one of two hundred networks."""
    sock = socket.socket()
    sock.setblocking(False)
    sock.bind((f"127.1.{number % 200}.1", 0))
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", server.port))
    return sock


@pytest.mark.parametrize("said", [b"", b"SSH-2.0-half", b"SSH-2.0-x\r\n", b"SSH-2.0-x\r\n" + KEXINIT[:9]])
async def test_another_user_logs_in_within_two_seconds_beside_three_thousand(said: bytes) -> None:
    async with watched(CONFIG, ALICE) as server:
        await good_login(server, local_addr=FRIEND)
        base = await server.settled()
        async with Peak(server) as peak:
            await _hold_on(server, said)
        assert peak.growth < 64 * MIB
        # What Python keeps of a wave for the next one is no leak; it stops growing with the second.
        await _hold_on(server, said)
        base = await server.back_to(base, growth=72 * MIB, within=GRACE + 10)
        await _hold_on(server, said)
        await server.back_to(base, growth=8 * MIB, within=GRACE + 10)


async def _hold_on(server: Watched, said: bytes) -> None:
    with ExitStack() as stack:
        for number in range(3000):
            sock = stack.enter_context(await stranger(server, number))
            with suppress(OSError):
                sock.send(said)
        times = [await good_login(server, local_addr=FRIEND) for _ in range(10)]
        assert max(times) < 2, times


async def test_a_banner_of_a_byte_a_second_is_cut_off_at_the_grace_time() -> None:
    async with watched(CONFIG, ALICE) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        began = time.monotonic()
        with suppress(ConnectionError):
            for byte in b"SSH-2.0-" + b"s" * 100:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(1)
                if reader.at_eof():
                    break
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.01):
                        await reader.read(1000)
        assert GRACE - 1 < time.monotonic() - began < GRACE + 3
        writer.close()


@pytest.mark.parametrize("line", [b"x" * 99 + b"\n", b"x" * 100_000, b"\n"], ids=["lines", "one-line", "line-ends"])
async def test_a_hundred_mebibytes_before_the_banner_are_not_kept(line: bytes) -> None:
    async with watched(CONFIG, ALICE) as server:
        await good_login(server, local_addr=FRIEND)
        async with Peak(server) as peak:
            _, writer = await asyncio.open_connection("127.0.0.1", server.port)
            sent = 0
            chunk = line * max(1, 65536 // len(line))
            with suppress(ConnectionError):
                while sent < 100 * MIB:
                    writer.write(chunk)
                    await writer.drain()
                    sent += len(chunk)
            writer.close()
            assert await good_login(server, local_addr=FRIEND) < 2
        assert peak.growth < 4 * MIB, (peak.growth / MIB, sent)


async def _exchange_and_leave(server: Watched, number: int) -> None:
    """Begin a key exchange and leave."""
    loop = asyncio.get_running_loop()
    with suppress(OSError), await stranger(server, number) as sock:
        await loop.sock_recv(sock, 4096)
        await loop.sock_sendall(sock, b"SSH-2.0-x\r\n" + KEXINIT)
        await loop.sock_recv(sock, 4096)


async def _connect_and_leave(server: Watched, number: int) -> None:
    with suppress(OSError):
        (await stranger(server, number)).close()


async def _noise(server: Watched, number: int) -> None:
    loop = asyncio.get_running_loop()
    with suppress(OSError), await stranger(server, number) as sock:
        await loop.sock_sendall(sock, b"SSH-2.0-x\r\n" + (number * 7919).to_bytes(8, "big") * (number % 100))
        await loop.sock_recv(sock, 65536)


@pytest.mark.parametrize("attack", [_connect_and_leave, _exchange_and_leave, _noise])
async def test_a_flood_of_connections_leaves_others_room_and_nothing_behind(
    attack: Callable[[Watched, int], Awaitable[None]],
) -> None:
    # A penalty would end the flood at once; this is about those who come from everywhere.
    config = {**CONFIG, "ssh": {**CONFIG["ssh"], "limits": {"allow": [], "penalties": {"enable": False}}}}
    async with watched(config, ALICE) as server:
        before = await good_logins(server, 5, local_addr=FRIEND)
        base = await server.settled()
        numbers = iter(range(scaled(10_000)))

        async def flood() -> None:
            for number in numbers:
                await attack(server, number)

        flooding = asyncio.gather(*(flood() for _ in range(8)))
        times = [await good_login(server, local_addr=FRIEND) for _ in range(5)]
        await flooding
        print(f"{before * 1000:.0f} ms before, {max(times) * 1000:.0f} ms at most during the flood")
        # The flood's own clients take a processor.
        assert max(times) < 2
        await server.back_to(base, growth=16 * MIB, within=GRACE + 10)
        assert server.errors() == []


def test_the_scale_is_sensible() -> None:
    assert 0 < SCALE <= 10
