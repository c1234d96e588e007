"""Peers that mean ill, or have gone mad: what they may ask for and when, and whom they can hurt."""

from __future__ import annotations

import asyncio
import logging
import random
from contextlib import suppress
from datetime import timedelta
from typing import Any

import asyncssh
import pytest
from asyncssh.packet import Boolean, String, UInt32

from containerssh.core.codes import SSHCode
from containerssh.core.handlers import SessionChannel
from containerssh.core.requests import to_wire
from containerssh.ssh.options import Admission, Limits
from tests.support.hostile_client import bare_channel, client, ended
from tests.support.local_backend import LocalBackend
from tests.support.ssh_front import serving
from tests.support.waiting import until

MIB = 1024 * 1024


async def request(channel: Any, name: str, *fields: bytes) -> bool:
    """Send a channel request and wait for its answer."""
    async with asyncio.timeout(10):
        return bool(await channel._make_request(name.encode(), *fields))


# -- requests ---------------------------------------------------------------------------------------------


async def test_variables_are_limited_in_count_and_bytes() -> None:
    async with serving(limits=Limits(env_count=3, env_bytes=100)) as server, client(server) as connection:
        channel = await bare_channel(connection)
        answers = [await request(channel, "env", String(f"A{n}"), String("x")) for n in range(5)]
        assert answers == [True] * 3 + [False] * 2
        other = await bare_channel(connection)
        assert not await request(other, "env", String("A"), String("x" * 200))
        assert await request(other, "exec", String("true"))


@pytest.mark.parametrize("name", ["", "A=B", "=", "X\n", "X\0"])
async def test_odd_variable_names_are_refused(name: str) -> None:
    async with serving() as server, client(server) as connection:
        channel = await bare_channel(connection)
        assert not await request(channel, "env", String(name), String("v"))
        assert await request(channel, "exec", String("true"))


@pytest.mark.parametrize("name", ["exec", "env", "pty-req", "subsystem", "signal", "window-change", "break"])
async def test_a_request_that_is_cut_short_is_refused_and_the_session_goes_on(name: str) -> None:
    async with serving() as server, client(server) as connection:
        channel = await bare_channel(connection)
        assert not await request(channel, name, UInt32(2**24))
        assert await request(channel, "exec", String("true"))
    assert not server.log.errors


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("env", (String("A"), String("b"))),
        ("pty-req", (String("xterm"), UInt32(80), UInt32(24), UInt32(0), UInt32(0), String(""))),
        ("exec", (String("echo second"),)),
        ("shell", ()),
        ("subsystem", (String("sftp"),)),
        ("break", (UInt32(0),)),
        ("signal", (String("NOSUCH"),)),
        ("x11-req", (Boolean(True), String("a"), String("b"), UInt32(0))),
        ("auth-agent-req@openssh.com", ()),
        ("\u00e9", ()),
    ],
)
async def test_what_comes_at_the_wrong_time_is_refused(name: str, fields: tuple[bytes, ...]) -> None:
    async with serving() as server, client(server) as connection:
        channel = await bare_channel(connection)
        assert await request(channel, "exec", String("cat; echo first"))
        assert not await request(channel, name, *fields)
        channel.write_eof()
        await until(lambda: channel._session is None or channel._session.out == b"first\n")
    assert len([line for line in server.backend.requests if line.startswith(("exec", "shell", "sub"))]) == 1


async def test_signals_and_breaks_before_the_start_are_refused_and_arrive_after_it() -> None:
    async with serving() as server, client(server) as connection:
        channel = await bare_channel(connection)
        assert not await request(channel, "signal", String("TERM"))
        assert not await request(channel, "break", UInt32(5))
        pty = (String("xterm"), UInt32(80), UInt32(24), UInt32(0), UInt32(0), String(""))
        assert await request(channel, "pty-req", *pty)
        assert await request(channel, "exec", String("sleep 100"))
        assert await request(channel, "break", UInt32(5))
        assert await request(channel, "signal", String("TERM"))
    assert server.backend.requests[-2:] == ["break 5", "signal TERM"]


async def test_requests_are_answered_in_order_after_a_slow_start() -> None:
    async def slow(_: str) -> None:
        await asyncio.sleep(0.3)

    async with serving(LocalBackend(on_start=slow)) as server, client(server) as connection:
        channel = await bare_channel(connection)
        answers = await asyncio.gather(
            request(channel, "exec", String("sleep 100")),
            request(channel, "nothing@example.com"),
            request(channel, "signal", String("TERM")),
        )
        assert list(answers) == [True, False, True]
        other = asyncio.create_task(connection.run("echo beside"))
        assert (await other).stdout == "beside\n"


async def test_a_heap_of_requests_costs_the_channel_only() -> None:
    async def forever(what: str) -> None:
        if "wait" in what:
            await asyncio.Event().wait()

    async with (
        serving(LocalBackend(on_start=forever), limits=Limits(queued_requests=10)) as server,
        client(server) as connection,
    ):
        channel = await bare_channel(connection)
        channel._send_request(b"exec", String("wait"), want_reply=False)
        for _ in range(30):
            channel._send_request(b"signal", String("TERM"), want_reply=False)
        async with asyncio.timeout(5):
            await channel.wait_closed()
        assert (await connection.run("echo alive")).stdout == "alive\n"


async def test_unknown_channels_and_global_requests_are_refused() -> None:
    async with serving() as server, client(server) as connection:
        with pytest.raises(asyncssh.ChannelOpenError) as refused:
            await asyncssh.channel.SSHTCPChannel(
                connection, asyncio.get_running_loop(), None, "strict", 1024, 32768
            )._open(b"nothing@example.com")
        assert refused.value.code == 3
        kind, _ = await connection._make_global_request(b"nothing@example.com")
        assert kind == 82
        kind, _ = await connection._make_global_request(b"hostkeys-prove-00@openssh.com", String(b"x"))
        assert kind == 82
        kind, _ = await connection._make_global_request(b"keepalive@openssh.com")
        assert kind == 81
        assert (await connection.run("echo alive")).stdout == "alive\n"


async def test_no_more_sessions_is_honoured() -> None:
    async with serving() as server, client(server) as connection:
        await connection._make_global_request(b"no-more-sessions@openssh.com")
        with pytest.raises(asyncssh.ChannelOpenError):
            await connection.run("true")


@pytest.mark.parametrize("size", [0, 1, 255])
async def test_tiny_packets_are_refused(size: int) -> None:
    async with serving() as server, client(server) as connection:
        with pytest.raises(asyncssh.ChannelOpenError):
            await connection.create_process("true", max_pktsize=size)
        assert (await connection.run("echo alive")).stdout == "alive\n"


async def test_a_fault_in_one_session_costs_that_session_only() -> None:
    count = 0

    async def first_fails(_: SessionChannel) -> None:
        nonlocal count
        count += 1
        if count == 2:
            raise RuntimeError("a bug")

    async with serving(LocalBackend(on_session=first_fails)) as server, client(server) as connection:
        good = await connection.create_process("cat", encoding=None)
        with pytest.raises(asyncssh.ChannelOpenError):
            await connection.run("true")
        good.stdin.write(b"still here")
        good.stdin.write_eof()
        assert await good.stdout.read() == b"still here"
    assert len(server.log.errors) == 1


# -- strangers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "opening",
    [
        b"",
        b"\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"SSH-1.5-old\r\n",
        b"SSH-2.0-\xff\xfe\r\n",
        b"SSH-2.0-x\r\n\xff\xff\xff\xff",
        b"SSH-2.0-x\r\n\0\0\0\0",
        b"SSH-2.0-x\r\n\0\0\0\x08\x04\x14\0\0\0\0\0\0",
        b"SSH-2.0-x\r\n\0\0\0\x0c\x06\x32" + bytes(10),
        b"SSH-2.0-" + b"x" * 100_000,
    ],
)
async def test_broken_openings_end_and_leave_nothing(opening: bytes) -> None:
    async with serving(login_grace=timedelta(seconds=0.5)) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(opening)
        async with asyncio.timeout(5):
            with suppress(ConnectionError):
                await reader.read()
        writer.close()
        await until(lambda: not server.server.connections)
        await ended(server)
    assert not server.log.errors


async def test_noise_ends_and_leaves_nothing() -> None:
    noise = random.Random(20)
    async with serving(login_grace=timedelta(seconds=0.5)) as server:

        async def one() -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"SSH-2.0-noise\r\n" + noise.randbytes(noise.randrange(400)))
            with suppress(ConnectionError):
                await reader.read()
            writer.close()

        async with asyncio.timeout(20):
            await asyncio.gather(*(one() for _ in range(60)))
        await until(lambda: not server.server.connections)
    assert not server.log.errors


async def test_strangers_are_limited_and_make_room_again() -> None:
    async with serving(admission=Admission(unauthenticated_full=2, allow=())) as server:
        held_open = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(2)]
        for reader, _ in held_open:
            await reader.readline()
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        assert b"Too many connections" in await reader.read()
        writer.close()
        for _, other in held_open:
            other.close()
        await until(lambda: not server.server.connections)
        async with client(server) as connection:
            assert (await connection.run("echo in")).stdout == "in\n"


async def test_a_silent_client_is_noticed_by_keepalives() -> None:
    async with (
        serving(client_alive_interval=timedelta(seconds=0.2), client_alive_count_max=2) as server,
        client(server) as connection,
    ):
        await connection.create_process("sleep 100")
        await until(lambda: server.backend.open_scopes == 3)
        connection._transport.pause_reading()
        await until(lambda: server.backend.open_scopes == 0)
    assert SSHCode.KEEPALIVE_NORESP in server.log


async def test_what_a_client_says_stays_out_of_the_texts_of_the_log() -> None:
    evil = "evil\x1b[31m\nname"
    async with serving() as server, client(server) as connection:
        channel = await bare_channel(connection)
        await request(channel, evil)
        await connection._make_global_request(evil.encode())
    assert not [event for _, event, _ in server.log.lines if "evil" in event.text]
    assert [labels for level, _, labels in server.log.lines if evil in labels.values() and level == logging.DEBUG]
    assert to_wire(evil) == evil.encode()
