"""A process of upstream's forwarding helper that is not what it should be: what it sends must not cost more than it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from containerssh.agent.upstream_connection import Connection
from containerssh.agent.upstream_helper import Helper
from containerssh.agent.upstream_packets import NewConnection, Packet, PacketReader, PacketType, Purpose, Setup
from containerssh.core.streams import ByteReader, ByteWriter
from tests.support.waiting import until

AGREED = Packet(PacketType.SUCCESS).encode()
TARGET = NewConnection("tcp", "127.0.0.1", 80)


class Said(ByteReader):
    """What the process says; a read that finds something there does not wait, as with a busy link."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.more = asyncio.Event()

    def say(self, *pieces: bytes) -> None:
        self.pieces += pieces
        self.more.set()

    async def read(self) -> bytes:
        while not self.pieces:
            self.more.clear()
            await self.more.wait()
        return self.pieces.pop(0)


class Heard(ByteWriter):
    def __init__(self) -> None:
        self.packets: list[Packet] = []
        self._reader = PacketReader()

    async def write(self, data: bytes) -> None:
        self.packets += self._reader.feed(data)

    async def write_eof(self) -> None:
        """There is none here."""


class Process:
    """A helper of which nothing but its two streams is there."""

    stderr = None

    def __init__(self) -> None:
        self.stdin = Heard()
        self.stdout = Said()

    async def kill(self) -> None:
        """It has no process."""

    async def release(self) -> None:
        """It has no descriptors."""


@asynccontextmanager
async def dialling() -> AsyncIterator[tuple[Helper, Process]]:
    process = Process()
    helper = Helper(process, silence=1.0)
    try:
        process.stdout.say(AGREED)
        await helper.open(Setup(Purpose.DIAL))
        yield helper, process
    finally:
        await helper.release()


async def connected(helper: Helper, process: Process) -> Connection:
    connection = helper.dial(TARGET)
    process.stdout.say(Packet(PacketType.SUCCESS, connection.identity).encode())
    assert await connection.answered
    return connection


async def test_data_that_is_empty_is_neither_kept_nor_an_end() -> None:
    async with dialling() as (helper, process):
        connection = await connected(helper, process)
        nothing = Packet(PacketType.DATA, connection.identity, b"").encode()
        process.stdout.say(nothing * 1000, Packet(PacketType.DATA, connection.identity, b"something").encode())
        await until(lambda: connection.held > 0)
        assert len(connection._pieces) == 1
        assert await connection.read() == b"something"


async def test_packets_of_a_byte_leave_others_their_turn() -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async with dialling() as (helper, process):
        connection = await connected(helper, process)
        waiting = asyncio.create_task(others())
        process.stdout.say(b"\xa0" * 65536, Packet(PacketType.DATA, connection.identity, b"x").encode())
        assert await connection.read() == b"x"
        waiting.cancel()
        assert turns >= 65536 // 64


async def test_the_last_of_all_numbers_is_none_for_a_connection() -> None:
    """Those that are dialled are numbered behind it."""
    async with dialling() as (helper, process):
        process.stdout.say(Packet(PacketType.NEW_CONNECTION, 1 << 63, TARGET.encode()).encode())
        await until(lambda: Packet(PacketType.ERROR, 1 << 63) in process.stdin.packets)
        assert (await connected(helper, process)).identity == (1 << 63) + 1
    async with dialling() as (helper, process):
        process.stdout.say(Packet(PacketType.NEW_CONNECTION, (1 << 64) - 1, TARGET.encode()).encode())
        async with asyncio.timeout(10):
            await helper.ended.wait()
