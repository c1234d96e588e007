"""Copies between streams that hand bytes over directly, on real sockets and on a channel's reader."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import cast

import pytest

from containerssh.agent import streams
from containerssh.agent.streams import SocketStream
from containerssh.core.streams import CHUNK, Pump, pump
from containerssh.ssh.channel_adapter import AdapterChannel
from containerssh.ssh.streams import ChannelReader
from tests.support.agent import LIMIT, read_all, until


class Ends:
    """``program | source  target | reader``: a copy belongs in the middle, plain sockets at both sides."""

    def __init__(self) -> None:
        self.program, source = socket.socketpair()
        target, self.reader = socket.socketpair()
        self.source = SocketStream(source)
        self.target = SocketStream(target)
        self.program.setblocking(False)
        self.reader.setblocking(False)

    def close(self) -> None:
        self.source.abort()
        self.target.abort()
        self.program.close()
        self.reader.close()

    async def fill(self, copy: Pump) -> int:
        """Write until neither the target nor the source takes any more; the number of bytes."""
        count = 0
        full = False
        async with asyncio.timeout(LIMIT):
            while not full:
                full = copy.count > 0 and not copy.idle
                with suppress(BlockingIOError):
                    while True:
                        count += self.program.send(bytes(CHUNK))
                await asyncio.sleep(0)
        return count


@pytest.fixture
async def ends() -> AsyncIterator[Ends]:
    made = Ends()
    yield made
    made.close()


async def test_all_bytes_arrive_in_order_and_the_end_after_them(ends: Ends) -> None:
    loop = asyncio.get_running_loop()
    sent = os.urandom(3_000_000)

    async def write() -> None:
        await loop.sock_sendall(ends.program, sent)
        ends.program.close()

    receiving = SocketStream(ends.reader)
    async with asyncio.timeout(LIMIT):
        count, received, _ = await asyncio.gather(pump(ends.source, ends.target), read_all(receiving), write())
    assert (count, received) == (len(sent), sent)


async def test_nothing_is_read_for_a_target_that_takes_nothing(ends: Ends) -> None:
    copy = Pump(ends.source, ends.target)
    copying = asyncio.create_task(copy.run())
    total = await ends.fill(copy)
    passed = copy.count
    await asyncio.sleep(0.05)
    assert copy.count == passed < total
    ends.program.close()
    received = asyncio.create_task(read_all(SocketStream(ends.reader)))
    await asyncio.wait_for(copying, LIMIT)
    await ends.target.write_eof()
    assert len(await received) == total == copy.count


async def test_a_target_that_breaks_ends_the_copy(ends: Ends) -> None:
    copying = asyncio.create_task(Pump(ends.source, ends.target).run())
    ends.reader.close()
    ends.program.send(b"for nobody")
    with pytest.raises(ConnectionError):
        await asyncio.wait_for(copying, LIMIT)


async def test_a_target_that_breaks_while_it_is_full_ends_the_copy(ends: Ends) -> None:
    copy = Pump(ends.source, ends.target)
    copying = asyncio.create_task(copy.run())
    await ends.fill(copy)
    ends.reader.close()
    with pytest.raises(ConnectionError):
        await asyncio.wait_for(copying, LIMIT)


async def test_a_source_that_is_given_back_ends_the_copy(ends: Ends) -> None:
    copy = Pump(ends.source, ends.target)
    copying = asyncio.create_task(copy.run())
    await until(lambda: copy.idle, "the copy waits")
    ends.source.abort()
    with pytest.raises(ConnectionError):
        await asyncio.wait_for(copying, LIMIT)


async def test_what_a_cancelled_copy_has_not_passed_on_can_be_read(ends: Ends) -> None:
    copy = Pump(ends.source, ends.target)
    copying = asyncio.create_task(copy.run())
    await until(lambda: copy.idle, "the copy waits")
    copying.cancel()
    await asyncio.wait((copying,))
    ends.program.send(b"later")
    async with asyncio.timeout(LIMIT):
        assert await ends.source.read() == b"later"


async def test_a_look_passes_on_what_is_there_without_a_turn_of_the_loop(ends: Ends) -> None:
    copy = Pump(ends.source, ends.target)
    copying = asyncio.create_task(copy.run())
    await until(lambda: copy.idle, "the copy waits")
    ends.program.send(b"now")
    copy.look()
    assert ends.reader.recv(10) == b"now"
    copying.cancel()
    await asyncio.wait((copying,))


class FakeChannel:
    """A fake: notes whether it would deliver. The real one needs a connection."""

    paused = True

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


async def test_a_channel_hands_over_what_came_before_and_is_paused_while_there_is_no_room() -> None:
    channel = FakeChannel()
    reader = ChannelReader(cast(AdapterChannel, channel))
    taken: list[bytes] = []
    ended: list[ConnectionError | None] = []
    room = True

    def take(data: bytes) -> bool:
        taken.append(data)
        return room

    reader.feed(b"early")
    reader.flow(take, ended.append)
    assert (taken, channel.paused) == ([b"early"], False)
    room = False
    reader.feed(b"first")
    assert (taken[1:], channel.paused) == ([b"first"], True)
    # The adapter may have more in its hands when it is told to pause.
    reader.feed(b"second")
    reader.feed_eof()
    assert (taken[2:], ended) == ([], [])
    room = True
    reader.resume()
    assert (taken[2:], ended) == ([b"second"], [None])


async def test_a_channel_that_is_gone_says_so_once() -> None:
    reader = ChannelReader(cast(AdapterChannel, FakeChannel()))
    ended: list[ConnectionError | None] = []
    reader.flow(lambda data: True, ended.append)
    reader.fail()
    reader.fail()
    assert [type(error) for error in ended] == [ConnectionResetError]


async def _handed_over_in_a_turn(stream: SocketStream, peer: socket.socket) -> int:
    """Pieces that *stream* passes on in the first turn of the loop, of as many as *peer* can send ahead."""
    loop = asyncio.get_running_loop()
    seen = loop.create_future()
    pieces: list[bytes] = []

    def take(data: bytes) -> bool:
        if not pieces:
            loop.call_soon(lambda: seen.set_result(len(pieces)))
        pieces.append(data)
        return True

    with suppress(BlockingIOError):
        while True:
            peer.send(bytes(CHUNK))
    stream.flow(take, lambda error: None)
    try:
        return await asyncio.wait_for(seen, LIMIT)
    finally:
        stream.halt()


async def test_a_stream_moves_more_in_a_turn_once_no_other_has_moved_anything_for_a_while(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "_turns", streams._Turns())
    monkeypatch.setattr(streams, "_ALONE_AFTER", 0)
    assert await _handed_over_in_a_turn(ends.source, ends.program) > 1
    monkeypatch.setattr(streams, "_ALONE_AFTER", 3600)
    ends.target.take(b"key")
    other = SocketStream(ends.reader)
    keys: list[bytes] = []

    def take(data: bytes) -> bool:
        keys.append(data)
        return True

    other.flow(take, lambda error: None)
    await until(lambda: keys == [b"key"], "the other stream moves something")
    other.halt()
    assert await _handed_over_in_a_turn(ends.source, ends.program) == 1
