"""Clients that make the server hold bytes, or exchange keys, without end."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from asyncssh.packet import String

from containerssh.core.codes import SSHCode
from containerssh.ssh.options import Limits
from tests.support.hostile_client import bare_channel, client, ended
from tests.support.local_backend import LocalBackend
from tests.support.ssh_front import Front, serving
from tests.support.waiting import until

MIB = 1024 * 1024

PING = 192

CHANNEL_DATA = 94


def held(server: Front) -> int:
    """The bytes that the server keeps for clients that do not read."""
    total = 0
    for front in server.server.connections:
        link = front._link
        transport = link._transport
        total += link._out_size + link._deferred_size + (transport.get_write_buffer_size() if transport else 0)
        total += sum(channel._send_buf_len for channel in link._channels.values())
    return total


async def test_a_huge_window_that_nobody_reads_holds_little() -> None:
    async with serving() as server, client(server) as connection:
        process = await connection.create_process("cat /dev/zero", encoding=None, window=2**31 - 1)
        await process.stdout.readexactly(MIB)
        connection._transport.pause_reading()
        before = -1
        async with asyncio.timeout(20):
            while (now := held(server)) != before:
                before = now
                await asyncio.sleep(0.5)
        assert before < MIB


async def test_a_key_exchange_that_is_never_finished_holds_little_and_ends() -> None:
    async with (
        serving(limits=Limits(rekey=timedelta(seconds=1))) as server,
        client(server) as connection,
    ):
        process = await connection.create_process("cat /dev/zero", encoding=None, window=2**30)
        await process.stdout.readexactly(MIB)
        # The client asks for new keys, and does not go on.
        connection._process_kexinit = None
        connection._packet_handlers = {
            number: (lambda *_: True) if number == 20 else handler
            for number, handler in type(connection)._packet_handlers.items()
        }
        connection._send_kexinit()
        await asyncio.sleep(0.4)
        assert held(server) < MIB
        async with asyncio.timeout(5):
            await connection.wait_closed()
        assert server.backend.open_scopes == 0 or await ended(server)


def exchange_keys(connection: Any) -> None:
    """Begin a key exchange, as asyncssh does after an hour."""
    connection._send_kexinit()
    connection._kexinit_sent = True


async def test_a_client_that_only_exchanges_keys_is_sent_away() -> None:
    async with serving(limits=Limits(rekeys=5)) as server, client(server) as connection, asyncio.timeout(10):
        begun = 0
        while connection._transport:
            if connection._kex_complete:
                exchange_keys(connection)
                begun += 1
            await asyncio.sleep(0.001)
        assert begun == 6
        (line,) = server.log.of(SSHCode.LIMIT_REKEYS)
        assert line[1]["remoteAddr"] == "127.0.0.1"


async def test_traffic_justifies_key_exchanges() -> None:
    async with serving(limits=Limits(rekeys=1)) as server, client(server) as connection:
        process = await connection.create_process("cat /dev/zero", encoding=None)
        for _ in range(5):
            await process.stdout.readexactly(MIB)
            exchange_keys(connection)
            await until(lambda: connection._kex_complete)
        await process.stdout.readexactly(8 * MIB)


async def test_replies_that_nobody_reads_end_the_connection() -> None:
    async with serving() as server, client(server) as connection:
        connection._transport.pause_reading()
        # ping@openssh.com: what is sent comes back.
        for _ in range(2000):
            if not server.server.connections:
                break
            connection.send_packet(PING, String(bytes(30_000)))
            await asyncio.sleep(0)
        await until(lambda: not server.server.connections)
    assert any("does not read" in event.text for _, event, _ in server.log.lines)


async def test_packets_of_unknown_type_before_login_end_the_connection_too() -> None:
    async with serving() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        await reader.readline()
        writer.write(b"SSH-2.0-x\r\n" + bytes([0, 0, 0, 12, 10, 99]) + bytes(10))
        async with asyncio.timeout(5):
            await reader.read()
        writer.close()
        await ended(server)


async def test_a_heap_of_single_bytes_takes_no_more_than_its_size() -> None:
    async def forever(_: str) -> None:
        await asyncio.Event().wait()

    count = 5_000
    async with serving(LocalBackend(on_start=forever)) as server, client(server) as connection:
        channel = await bare_channel(connection)
        channel._send_request(b"exec", String("true"))
        for number in range(count):
            channel.send_packet(CHANNEL_DATA, String(b"x"))
            if number % 1000 == 0:
                await asyncio.sleep(0)
        await until(lambda: server_channel(server)._recv_window == 2 * MIB - count)
        assert len(server_channel(server)._recv_buf) < 4


def server_channel(server: Front) -> Any:
    return next((channel for front in server.server.connections for channel in front._link._channels.values()), None)
