"""Files by SFTP, in a container of each backend: its image has no server of its own."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from containerssh.core.files import SFTPRules
from tests.support.agent import MemoryChannel
from tests.support.container_backends import User
from tests.support.packing import strings
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

OK, NO_SUCH_FILE, PERMISSION_DENIED = 0, 2, 3
READ, WRITE_NEW = 0x01, 0x1A
BLOCK = 32_768


class SFTP:
    """A client of SFTP version 3, as much of it as is needed here."""

    def __init__(self, channel: MemoryChannel) -> None:
        self._channel = channel
        self._taken = 0

    async def ask(self, kind: int, body: bytes) -> tuple[int, bytes]:
        """The type of the answer and what it says; every request but the first has a number."""
        number = b"" if kind == 1 else b"\0\0\0\7"
        self._channel.send((len(body) + len(number) + 1).to_bytes(4, "big") + bytes([kind]) + number + body)
        size = int.from_bytes(await self._take(4), "big")
        answer = await self._take(size)
        return answer[0], answer[1 + len(number) :]

    async def status(self, kind: int, body: bytes) -> int:
        """The code of an answer that is a status."""
        found, said = await self.ask(kind, body)
        assert found == 101
        return int.from_bytes(said[:4], "big")

    async def open(self, path: bytes, flags: int) -> bytes:
        found, handle = await self.ask(3, strings(path) + flags.to_bytes(4, "big") + bytes(4))
        assert found == 102, handle
        return handle

    async def write(self, path: bytes, data: bytes) -> None:
        handle = await self.open(path, WRITE_NEW)
        for at in range(0, len(data), BLOCK):
            assert await self.status(6, handle + at.to_bytes(8, "big") + strings(data[at : at + BLOCK])) == OK
        assert await self.status(4, handle) == OK

    async def read(self, path: bytes) -> bytes:
        handle, data = await self.open(path, READ), b""
        while True:
            found, said = await self.ask(5, handle + len(data).to_bytes(8, "big") + BLOCK.to_bytes(4, "big"))
            if found == 101:
                break
            data += said[4:]
        assert await self.status(4, handle) == OK
        return data

    async def _take(self, count: int) -> bytes:
        await until(lambda: len(self._channel.out.data) >= self._taken + count)
        self._taken += count
        return bytes(self._channel.out.data[self._taken - count : self._taken])


@asynccontextmanager
async def files(user: User, rules: SFTPRules) -> AsyncIterator[SFTP]:
    """A client that has said hello."""
    channel = MemoryChannel()
    async with user.handler.session(channel) as session:
        await session.run_sftp(rules)
        client = SFTP(channel)
        assert (await client.ask(1, b"\0\0\0\3"))[0] == 2
        yield client
        channel.send(b"")
        assert await channel.over() == 0


async def test_files_are_written_renamed_read_and_removed(user: User) -> None:
    data = os.urandom(200_000)
    async with files(user, SFTPRules(server="builtin")) as client:
        assert await client.status(14, strings(b"/tmp/new") + bytes(4)) == OK
        await client.write(b"/tmp/new/a", data)
        assert await client.status(18, strings(b"/tmp/new/a") + strings(b"/tmp/new/b")) == OK
        assert await client.read(b"/tmp/new/b") == data
        assert await client.status(17, strings(b"/tmp/new/a") + bytes(4)) == NO_SUCH_FILE
        found = await user.run("sha256sum </tmp/new/b; ls /tmp/new")
        assert found.out.decode().split() == [hashlib.sha256(data).hexdigest(), "-", "b"]
        assert await client.status(13, strings(b"/tmp/new/b")) == OK
        assert await client.status(15, strings(b"/tmp/new")) == OK
    assert (await user.run("[ -e /tmp/new ]")).end == 1


async def test_rules_for_files_hold(user: User) -> None:
    await user.run("mkdir -p /tmp/root; echo inside >/tmp/root/file")
    async with files(user, SFTPRules(root="/tmp/root", read_only=True)) as client:
        assert await client.read(b"/file") == b"inside\n"
        assert await client.read(b"/../../../file") == b"inside\n"
        assert await client.status(13, strings(b"/file")) == PERMISSION_DENIED
    assert (await user.run("cat /tmp/root/file")).out == b"inside\n"
