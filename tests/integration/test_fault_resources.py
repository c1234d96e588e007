"""What the machine runs out of: descriptors, disk; and a clock that jumps."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import asyncssh
import bcrypt
import pytest

from tests.support.clients import good_login, logged_in
from tests.support.oci import image
from tests.support.tools import tool
from tests.support.vitals import Watched, oci_leftovers, watched

pytestmark = [pytest.mark.oci, pytest.mark.root]

OCI: dict[str, Any] = {"backend": "oci", "oci": {"image": str(image())}}
ALICE = {"alice": {"password": bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()}}
DAY = 86_400


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of *size* (``256k``) of its own at *folder*."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0755", "none", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@asynccontextmanager
async def cat(connection: Any) -> AsyncIterator[Any]:
    """A program of *connection* that answers what it is told."""
    process = await connection.create_process("cat", encoding=None)
    yield process
    await echo(process)


async def echo(process: Any) -> None:
    async with asyncio.timeout(10):
        process.stdin.write(b"still here\n")
        assert await process.stdout.readline() == b"still here\n"


async def logs_in_again(server: Watched, within: float = 15) -> None:
    async with asyncio.timeout(within):
        while True:
            with suppress(OSError, asyncssh.Error, AssertionError):
                await good_login(server)
                return
            await asyncio.sleep(0.2)


async def test_without_descriptors_old_sessions_live_new_ones_wait_and_the_log_stays_small() -> None:
    limits = ("prlimit", "--nofile=64", "--")
    async with (
        watched(OCI, ALICE, prefix=limits) as server,
        logged_in(server) as connection,
        cat(connection) as process,
    ):
        with ExitStack() as stack:
            for _ in range(120):
                sock = stack.enter_context(socket.socket())
                sock.setblocking(False)
                sock.connect_ex(("127.0.0.1", server.port))
            await server.server.until(lambda: server.descriptors >= 63, "there are no more descriptors", 10)
            before = len(server.server.log)
            await asyncio.sleep(2)
            await echo(process)
            assert len(server.server.log) - before < 20
            assert any("No connection can be accepted" in line["message"] for line in server.server.log)
        await logs_in_again(server)


async def test_logins_that_find_no_descriptors_fail_alone_and_in_time() -> None:
    timeouts = {"containerStart": "6s", "commandStart": "6s"}
    config = {"backend": "oci", "oci": {**OCI["oci"], "timeouts": timeouts}}
    async with watched(config, ALICE, prefix=("prlimit", "--nofile=42", "--")) as server:
        async with logged_in(server) as connection:
            async with cat(connection), asyncio.timeout(20):
                results = await asyncio.gather(*(good_login(server) for _ in range(12)), return_exceptions=True)
                assert any(isinstance(result, BaseException) for result in results), "that used up no descriptors"
            # Its link did not break for want of descriptors, and takes new programs.
            assert (await connection.run("echo more")).stdout == "more\n"
        await logs_in_again(server)
        await server.server.until(lambda: not oci_leftovers(server.server), "no container is left", 20)


async def test_a_full_disk_under_the_log_costs_lines_and_nothing_else(tmp_path: Path) -> None:
    with small_disk(tmp_path / "log", "64k") as disk:
        log = disk / "server.log"
        config = {**OCI, "log": {"level": "debug", "destination": "file", "format": "ljson", "file": str(log)}}
        filler = disk / "filler"
        async with watched(config, ALICE) as server, logged_in(server) as connection, cat(connection):
            with suppress(OSError), filler.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
            for _ in range(30):
                await good_login(server)
            assert log.stat().st_size <= 65_536
            filler.unlink()
            await good_login(server)
            await server.server.until(lambda: b"log lines were lost" in log.read_bytes(), "the gap is told", 10)


async def test_a_full_disk_under_the_containers_ends_logins_with_a_word_and_heals(tmp_path: Path) -> None:
    with small_disk(tmp_path / "state", "8m") as disk:
        environment = {"STATE_DIRECTORY": str(disk)}
        async with (
            watched(OCI, ALICE, environment=environment) as server,
            logged_in(server) as connection,
            cat(connection) as process,
        ):
            filler = disk / "filler"
            with suppress(OSError), filler.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
            async with logged_in(server) as other:
                done = await other.run("echo in")
            assert done.exit_status == 255
            assert str(done.stderr).startswith("containerssh: ")
            await echo(process)
            filler.unlink()
            await logs_in_again(server)


@pytest.mark.parametrize("jump", [DAY, -DAY], ids=["forwards", "backwards"])
async def test_a_clock_that_jumps_by_a_day_ends_nothing(tmp_path: Path, jump: int) -> None:
    clock = tmp_path / "clock"
    clock.write_text("+0\n")
    environment = {
        "LD_PRELOAD": faketime_library(),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    config = {**OCI, "ssh": {"clientAliveInterval": "1s", "loginGraceTime": "10s"}}
    async with watched(config, ALICE, environment=environment) as server, logged_in(server) as connection:
        async with cat(connection) as process:
            _, stranger = await asyncio.open_connection("127.0.0.1", server.port)
            clock.write_text(f"{jump:+d}\n")
            await good_login(server)
            for _ in range(5):
                await echo(process)
                await asyncio.sleep(0.5)
            assert not stranger.is_closing()
            stranger.close()
            assert days(server.server.log) == 2, "the server's clock has jumped"
            clock.write_text("+0\n")
            await good_login(server)
        assert server.errors() == []
        connection.abort()
        await server.server.until(lambda: not oci_leftovers(server.server), "no container is left", 20)


def days(log: list[dict[str, Any]]) -> int:
    return len({line["timestamp"][:10] for line in log})


def faketime_library() -> str:
    tool("faketime")
    found = sorted(Path("/usr/lib").glob(f"{os.uname().machine}-linux-gnu/faketime/libfaketime.so.1"))
    assert found, "libfaketime is missing (Debian package libfaketime)"
    return str(found[0])
