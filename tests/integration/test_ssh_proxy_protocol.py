"""The PROXY protocol: a real proxy, and peers that pretend to be one."""

from __future__ import annotations

import asyncio
import struct
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path

import asyncssh
import pytest

from containerssh.core.codes import SSHCode
from containerssh.core.metadata import ConnectionMetadata
from containerssh.ssh.limits import reached
from containerssh.ssh.options import Admission
from containerssh.ssh.proxy import SIGNATURE
from tests.support.local_backend import LocalBackend
from tests.support.net import haproxy
from tests.support.ssh_front import Front, serving
from tests.support.waiting import until

TRUSTED = (ip_network("127.0.0.1/32"),)
CLIENT = "127.0.0.77"


class Seen(LocalBackend):
    """Notes whose connections were taken in."""

    def __init__(self) -> None:
        super().__init__(on_accept=self._note)
        self.addresses: list[str] = []

    async def _note(self, meta: ConnectionMetadata) -> None:
        self.addresses.append(meta.remote_address.host)


async def said(server: Front, opening: bytes, source: str = "127.0.0.1") -> bytes:
    """What the server answers to a connection that begins with *opening*, up to its end or its identification."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, local_addr=(source, 0))
    try:
        writer.write(opening)
        async with asyncio.timeout(10):
            return await reader.readline()
    except ConnectionError:
        return b""
    finally:
        writer.close()


@pytest.mark.parametrize("option", ["send-proxy", "send-proxy-v2", "send-proxy-v2-ssl-cn"])
async def test_haproxy_tells_whose_connection_it_brings(tmp_path: Path, option: str) -> None:
    backend = Seen()
    async with serving(backend, proxies=TRUSTED) as server, haproxy(tmp_path, server.port, option) as port:
        async with asyncssh.connect(
            "127.0.0.1",
            port,
            local_addr=(CLIENT, 0),
            username="alice",
            password="secret",
            known_hosts=None,
            client_keys=None,
        ) as connection:
            source = connection.get_extra_info("sockname")[1]
            assert (await connection.run("echo in")).stdout == "in\n"
        (login,) = backend.logins
        assert (login.remote_address.host, login.remote_address.port) == (CLIENT, source)
    _, labels = server.log.of(SSHCode.AUTH_SUCCESSFUL)[0]
    assert labels["remoteAddr"] == CLIENT


async def test_limits_hold_for_the_clients_and_not_for_their_proxy(tmp_path: Path) -> None:
    limits = Admission(connections_per_address=1, allow=())
    async with serving(proxies=TRUSTED, admission=limits) as server:
        held = []
        for host in (b"192.0.2.1", b"192.0.2.2", b"192.0.2.1"):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"PROXY TCP4 %b 192.0.2.9 1000 22\r\n" % host)
            held.append((await reader.read(4096), writer))
        assert [b"Too many connections" in line for line, _ in held] == [False, False, True]
        for _, writer in held:
            writer.close()


async def test_an_ipv6_client_behind_an_ipv4_proxy_keeps_its_address() -> None:
    backend = Seen()
    async with serving(backend, proxies=TRUSTED) as server:
        body = bytes.fromhex("20010db8" + "00" * 11 + "07") + bytes(16) + struct.pack(">HH", 7, 22)
        line = await said(server, SIGNATURE + b"\x21\x21" + struct.pack(">H", len(body)) + body + b"SSH-2.0-x\r\n")
        assert line.startswith(b"SSH-2.0-")
        await until(lambda: backend.addresses == ["2001:db8::7"])


@pytest.mark.parametrize("header", [b"PROXY UNKNOWN\r\n", SIGNATURE + b"\x20\0\0\0"])
async def test_a_proxy_that_speaks_for_itself_is_served_under_its_own_address(header: bytes) -> None:
    backend = Seen()
    async with serving(backend, proxies=TRUSTED) as server:
        assert (await said(server, header)).startswith(b"SSH-2.0-")
        await until(lambda: backend.addresses == ["127.0.0.1"])


@pytest.mark.parametrize("opening", [b"SSH-2.0-OpenSSH_9.2\r\n", b"PROXY TCP4 1.2.3.4 1.2.3.4 1 x\r\n", b"\0" * 30])
async def test_a_trusted_proxy_without_a_good_header_is_not_served(opening: bytes) -> None:
    backend, before = Seen(), reached(SSHCode.PROXY_REFUSED)
    async with serving(backend, proxies=TRUSTED) as server:
        assert await said(server, opening) == b""
        assert await said(server, opening) == b""
    assert backend.addresses == []
    # Both are counted; the log has a line a minute.
    assert reached(SSHCode.PROXY_REFUSED) - before == 2
    assert len(server.log.of(SSHCode.PROXY_REFUSED)) == 1


async def test_a_header_that_does_not_come_ends_the_connection_and_others_do_not_wait_for_it() -> None:
    async with serving(proxies=TRUSTED, proxy_header_within=timedelta(seconds=0.5)) as server:
        slow = asyncio.create_task(said(server, b"PROXY TCP4 "))
        await asyncio.sleep(0)
        assert (await said(server, b"PROXY UNKNOWN\r\n")).startswith(b"SSH-2.0-")
        assert not slow.done()
        assert await slow == b""


async def test_a_header_from_anybody_else_is_never_understood() -> None:
    backend = Seen()
    async with serving(backend, proxies=TRUSTED) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, local_addr=("127.0.0.2", 0))
        writer.write(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nSSH-2.0-x\r\n")
        async with asyncio.timeout(10):
            await reader.read()
        writer.close()
        await until(lambda: not server.server.connections)
    assert set(backend.addresses) <= {"127.0.0.2"}
    assert {labels["remoteAddr"] for _, labels in server.log.of(SSHCode.CONNECTED)} == {"127.0.0.2"}


async def test_who_awaits_a_header_does_not_hold_up_the_stop() -> None:
    async with serving(proxies=TRUSTED) as server:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"PROXY ")
        await writer.drain()
        began = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - began < 2
    writer.close()
