"""The bytes of programs: each stream and its end by itself, in a container of each backend."""

from __future__ import annotations

import asyncio
import hashlib
import os

import pytest

from tests.support.agent import MemoryChannel
from tests.support.container_backends import User
from tests.support.docker import Channel
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_megabytes_pass_both_ways_at_once(user: User) -> None:
    data = os.urandom(1 << 20) * 8
    done = await user.run("cat", data)
    assert done.end == 0
    assert hashlib.sha256(done.out).digest() == hashlib.sha256(data).digest()


async def test_megabytes_come_after_the_end_of_input(user: User) -> None:
    done = await user.run("cat >/dev/null; seq 1 300000; exit 3", b"x")
    assert done.end == 3
    assert len(done.out) == 1_988_895
    assert done.out.endswith(b"\n300000\n")


async def test_output_and_errors_are_each_complete(user: User) -> None:
    done = await user.run("seq 1 100000 & seq 1 100000 >&2; wait")
    assert done.end == 0
    assert len(done.out) == len(done.err) == 588_895


async def test_the_end_of_output_is_told_while_input_goes_on(user: User) -> None:
    channel = MemoryChannel()
    async with user.handler.session(channel) as session:
        await session.run_command("exec >&- 2>&-; cat >/tmp/late; exit 4")
        await until(lambda: channel.out.ended)
        channel.send(b"after")
        channel.send(b"")
        assert await channel.over() == 4
    assert (await user.run("cat /tmp/late")).out == b"after"


async def test_the_end_of_input_is_told_while_output_goes_on(user: User) -> None:
    channel = MemoryChannel()
    async with user.handler.session(channel) as session:
        await session.run_command("cat; echo over; until [ -e /tmp/go ]; do sleep 0.05; done; echo on; exit 5")
        channel.send(b"in\n")
        await until(lambda: channel.out.data == b"in\n")
        channel.send(b"")
        await until(lambda: channel.out.data == b"in\nover\n")
        await user.run("touch /tmp/go")
        assert await channel.over() == 5
    assert channel.out.data == b"in\nover\non\n"


async def test_a_program_that_takes_no_input_ends_all_the_same(user: User) -> None:
    done = await user.run("exec true", bytes(4_000_000))
    assert done.end == 0


async def test_a_client_that_does_not_read_holds_up_nobody_else(user: User) -> None:
    channel = MemoryChannel()
    channel.out.room.clear()
    async with user.handler.session(channel) as session:
        await session.run_command("head -c 8000000 /dev/zero; exit 6")
        assert (await user.run("echo alive")).out == b"alive\n"
        channel.out.room.set()
        assert await channel.over() == 6
    assert len(channel.out.data) == 8_000_000


async def test_ten_programs_run_at_once(user: User) -> None:
    waits = Channel(ends=False)
    async with user.handler.session(waits) as session:
        await session.run_command("sleep 600")
        done = await asyncio.gather(*(user.run(f"cat; echo {n}; exit {n}", b"%d " % n) for n in range(10)))
    assert [(one.out, one.end) for one in done] == [(b"%d %d\n" % (n, n), n) for n in range(10)]


async def test_a_silent_program_in_the_background_does_not_hold_the_session(user: User) -> None:
    async with asyncio.timeout(10):
        done = await user.run("nohup sleep 30 & echo done; exit 2")
    assert (done.out, done.end) == (b"done\n", 2)
