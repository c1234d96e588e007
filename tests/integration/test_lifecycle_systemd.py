"""What the server tells systemd, and takes from it; the unit files."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from containerssh.auth.hashes import hash_password
from tests.support import server as product
from tests.support.lifecycle import programs, refuses
from tests.support.oci import image
from tests.support.openssh import OpenSSH

pytestmark = pytest.mark.oci

OCI: dict[str, Any] = {"backend": "oci", "oci": {"image": str(image())}}
USERS = {"alice": {"password": hash_password("secret")}}
UNITS = Path(__file__).parents[2] / "deploy/systemd"


class Told:
    """What arrived at a notification socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.lines: list[str] = []

    def has(self, line: str) -> bool:
        while True:
            try:
                self.lines += self._sock.recv(4096).decode().splitlines()
            except BlockingIOError:
                return line in self.lines


@contextmanager
def listening(address: str) -> Iterator[Told]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + address[1:] if address.startswith("@") else address)
        sock.setblocking(False)
        yield Told(sock)


@pytest.mark.parametrize("name", ["path", "abstract"])
async def test_systemd_hears_of_start_reload_and_stop(tmp_path: Path, name: str) -> None:
    address = str(tmp_path / "notify") if name == "path" else f"@containerssh-test-{os.getpid()}"
    with listening(address) as told:
        async with product.serving(OCI, USERS, environment={"NOTIFY_SOCKET": address}) as server:
            await server.until(lambda: told.has("READY=1"), "it is ready")
            assert not told.has("STOPPING=1")
            assert not told.has("WATCHDOG=1"), "nobody asked for signs of life"
            told.lines.clear()
            server.process.send_signal(signal.SIGHUP)
            await server.until(lambda: told.has("READY=1"), "it is ready again")
            assert told.lines[0] == "RELOADING=1"
            assert told.lines[1].startswith("MONOTONIC_USEC=")
            await server.stop()
            assert told.has("STOPPING=1")
            assert any(line.startswith("EXTEND_TIMEOUT_USEC=") for line in told.lines)


async def test_a_refused_reload_is_told_as_ready_too(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with listening(address) as told:
        async with product.serving(OCI, USERS, environment={"NOTIFY_SOCKET": address}) as server:
            await server.until(lambda: told.has("READY=1"), "it is ready")
            (server.folder / "config.yaml").write_text("{")
            told.lines.clear()
            server.process.send_signal(signal.SIGHUP)
            await server.until(lambda: told.has("READY=1"), "it is ready again")


async def test_the_watchdog_hears_nothing_of_a_server_that_stands_still(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    environment = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "300000"}
    with listening(address) as told:
        async with product.serving(OCI, USERS, environment=environment) as server:
            for _ in range(3):
                told.lines.clear()
                await server.until(lambda: told.has("WATCHDOG=1"), "a sign of life")
            server.process.send_signal(signal.SIGSTOP)
            told.has("")
            told.lines.clear()
            with pytest.raises(TimeoutError):
                await server.until(lambda: told.has("WATCHDOG=1"), "a sign of life", limit=1)
            server.process.send_signal(signal.SIGCONT)
            await server.until(lambda: told.has("WATCHDOG=1"), "a sign of life")


async def test_no_container_learns_of_the_notification_socket(tmp_path: Path, openssh: OpenSSH) -> None:
    address = str(tmp_path / "notify")
    with listening(address):
        async with product.serving(OCI, USERS, environment={"NOTIFY_SOCKET": address}) as server:
            done = await openssh.run(server, "env")
            assert b"NOTIFY_SOCKET" not in done.check().stdout


@asynccontextmanager
async def activated(port: int) -> AsyncIterator[product.Server]:
    """A server that systemd's own tool starts for the first connection to *port*."""

    async def connect() -> None:
        while True:
            if not await asyncio.to_thread(refuses, port):
                return
            await asyncio.sleep(0.05)

    names = [name for name in ("PYTHONPATH", "STATE_DIRECTORY", "HOME") if name in {*os.environ, "STATE_DIRECTORY"}]
    tool = shutil.which("systemd-socket-activate")
    assert tool is not None
    prefix = [tool, "-l", f"127.0.0.1:{port}", *(word for name in names for word in ("-E", name))]
    first = asyncio.create_task(connect())
    try:
        async with product.serving(OCI, USERS, prefix=prefix) as server:
            yield server
    finally:
        first.cancel()


@pytest.mark.skipif(not shutil.which("systemd-socket-activate"), reason="needs systemd's tools")
async def test_sockets_of_systemd_are_used_in_place_of_the_configured_address(openssh: OpenSSH) -> None:
    port = product.free_port()
    async with activated(port) as server:
        configured, server.port = server.port, port
        assert refuses(configured)
        assert (await openssh.run(server, "echo here")).check().stdout == b"here\n"
        session = asyncio.create_task(openssh.run(server, "sleep 60"))
        await server.until(lambda: programs(server) > 1, "the program runs")
        assert await server.stop() == 0
        await session


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd's tools")
def test_the_units_are_well_formed_and_hardened(tmp_path: Path) -> None:
    for unit in ("containerssh.service", "containerssh.socket"):
        text = (UNITS / unit).read_text().replace("/opt/containerssh/bin/containerssh", "/bin/true")
        (tmp_path / unit).write_text(text)
    service = tmp_path / "containerssh.service"
    verify = ["systemd-analyze", "verify", "--man=no", str(service), str(tmp_path / "containerssh.socket")]
    done = subprocess.run(verify, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    security = ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(service)]
    assert subprocess.run(security, capture_output=True, check=False).returncode == 0
    drop_in = tmp_path / "containerssh.service.d"
    drop_in.mkdir()
    (drop_in / "oci.conf").write_text((UNITS / "oci.conf").read_text())
    done = subprocess.run(verify, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    # A list of what is allowed would be one for containers as well, and would know no call that is newer than systemd.
    taken = removed(service)
    assert not {"CapabilityBoundingSet_CAP_SYS_ADMIN", "SystemCallFilter_mount", "SystemCallFilter_debug"} & taken
    assert {"CapabilityBoundingSet_CAP_SYS_BOOT", "SystemCallFilter_module"} <= taken


def removed(service: Path) -> set[str]:
    """What *service* has not, by systemd's names for it."""
    ask = ["systemd-analyze", "security", "--offline=true", "--json=short", str(service)]
    done = subprocess.run(ask, capture_output=True, text=True, check=False)
    return {line["json_field"] for line in json.loads(done.stdout) if line["set"]}
