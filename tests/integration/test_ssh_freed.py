"""What a connection leaves behind in the server's memory, without the collector of garbage."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import asyncssh
import pytest

from containerssh.auth.hashes import hash_password
from tests.support.clients import logged_in
from tests.support.oci import image, needs_root
from tests.support.vitals import Watched, watched

pytestmark = [needs_root, pytest.mark.root, pytest.mark.oci]

USERS = {"alice": {"password": hash_password("secret")}}
MODES = ("forwardingMode", "reverseForwardingMode", "socketForwardingMode", "socketListenMode")
CONFIG: dict[str, Any] = {
    "backend": "oci",
    "oci": {"image": str(image())},
    "security": {"forwarding": dict.fromkeys(MODES, "enable")},
}
TIMES = 3


async def leave_before_the_handshake(server: Watched) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    await reader.readline()
    writer.close()
    await writer.wait_closed()


async def leave_within_the_handshake(server: Watched) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"SSH-2.0-leaver\r\n")
    await reader.readuntil(b"curve25519")
    writer.close()
    await writer.wait_closed()


async def show_a_wrong_password(server: Watched) -> None:
    with pytest.raises(asyncssh.PermissionDenied):
        async with logged_in(server, password="wrong"):
            pass


async def run_programs(server: Watched) -> None:
    async with logged_in(server, rekey_bytes=30_000) as connection:
        done = await connection.run("head -c 200000 /dev/zero; exit 3", encoding=None)
        assert (done.exit_status, len(done.stdout)) == (3, 200_000)
        await connection.run("tty", term_type="xterm")
        connection.close()
        await connection.wait_closed()


async def list_files(server: Watched) -> None:
    async with logged_in(server) as connection, connection.start_sftp_client() as sftp:
        assert await sftp.listdir("/")


async def leave_while_a_program_writes(server: Watched) -> None:
    async with logged_in(server) as connection:
        process = await connection.create_process("cat /dev/zero", encoding=None)
        await process.stdout.readexactly(100_000)


async def leave_with_open_forwards(server: Watched) -> None:
    async with logged_in(server) as connection:
        back = await connection.forward_remote_port("127.0.0.1", 0, "127.0.0.1", server.port)
        reader, _ = await connection.open_connection("127.0.0.1", back.get_port())
        # Into the container, and from there back out to the server itself.
        assert (await reader.read(4)) == b"SSH-"


VISITS: tuple[Callable[[Watched], Awaitable[None]], ...] = (
    leave_before_the_handshake,
    leave_within_the_handshake,
    show_a_wrong_password,
    run_programs,
    list_files,
    leave_while_a_program_writes,
    leave_with_open_forwards,
)


async def test_a_closed_connection_leaves_no_objects_for_the_collector_of_garbage() -> None:
    async with watched(CONFIG, USERS) as server:
        for visit in VISITS:
            await visit(server)
        await server.settled()
        base = await asyncio.to_thread(server.count_objects)
        for visit in VISITS:
            for _ in range(TIMES):
                await visit(server)
            assert await left_over(server, base) == {}, visit.__name__


async def left_over(server: Watched, base: Counter[str]) -> Counter[str]:
    """What there is more than in *base*; empty as soon as there is nothing more."""
    more: Counter[str] = Counter()

    def look() -> bool:
        nonlocal more
        more = server.count_objects() - base
        return not more

    try:
        await server.server.until(look, "it forgets its clients", 20)
    except TimeoutError:
        return more
    return more
