"""``serve --processes N``: several processes on one port."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from containerssh.auth.hashes import hash_password
from tests.support import server as product
from tests.support.clients import logged_in
from tests.support.lifecycle import ended, held, refuses
from tests.support.oci import image
from tests.support.openssh import OpenSSH

pytestmark = pytest.mark.oci

OCI: dict[str, Any] = {"backend": "oci", "oci": {"image": str(image())}}
USERS = {"alice": {"password": hash_password("secret", "bcrypt")}}


@asynccontextmanager
async def two(environment: Mapping[str, str] | None = None, **config: Any) -> AsyncIterator[product.Server]:
    """A supervisor with two workers, both ready."""
    arguments = ("serve", "--processes", "2")
    async with product.serving({**OCI, **config}, USERS, environment=environment, arguments=arguments) as server:
        await server.until(lambda: len(server.logged("SERVICE_POOL_RUNNING")) == 2, "both run")
        yield server


class Session:
    """A login with a program that answers."""

    def __init__(self, connection: asyncssh.SSHClientConnection, process: asyncssh.SSHClientProcess[bytes]) -> None:
        self.connection = connection
        self.process = process

    async def answers(self) -> bool:
        try:
            async with asyncio.timeout(5):
                self.process.stdin.write(b"there\n")
                return await self.process.stdout.readline() == b"there\n"
        except (OSError, asyncssh.Error):
            return False


@asynccontextmanager
async def session(server: product.Server) -> AsyncIterator[Session]:
    connection = await asyncssh.connect(
        "127.0.0.1", server.port, username="alice", password="secret", known_hosts=None, config=[], client_keys=None,
        agent_path=None, login_timeout=60,
    )  # fmt: skip
    try:
        yield Session(connection, await connection.create_process("cat", encoding=None))
    finally:
        connection.abort()
        with suppress(OSError, asyncssh.Error):
            await connection.wait_closed()


def workers(server: product.Server) -> list[int]:
    """The process ids of the workers."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            after_name = path.read_text().rpartition(")")[2].split()
            if int(after_name[1]) == server.process.pid and after_name[0] != "Z":
                found.append(int(path.parent.name))
    return sorted(found)


def served(server: product.Server) -> Counter[str]:
    """How many containers each instance has."""
    folder = server.folder / "state/oci/containers"
    return Counter({path.name: len(list(path.iterdir())) for path in folder.iterdir()})


async def test_logins_spread_and_a_killed_worker_costs_only_its_own() -> None:
    async with two() as server, AsyncExitStack() as stack:
        sessions = [await stack.enter_async_context(session(server)) for _ in range(4)]
        async with asyncio.timeout(60):
            while len([count for count in served(server).values() if count]) < 2:
                sessions.append(await stack.enter_async_context(session(server)))
        before = workers(server)
        assert len(before) == 2
        os.kill(before[0], signal.SIGKILL)
        await server.until(lambda: len(server.logged("SERVICE_POOL_RUNNING")) == 3, "another took its place")
        assert before[1] in workers(server)
        assert len(workers(server)) == 2
        answering = sum([await one.answers() for one in sessions])
        assert 0 < answering < len(sessions)
        await server.until(lambda: served(server).total() == answering, "its containers are removed")
        await server.told("CORE_WORKER_ENDED")
        async with session(server) as one:
            assert await one.answers()


async def test_signals_reach_all_workers() -> None:
    async with two() as server:
        server.process.send_signal(signal.SIGHUP)
        await server.until(lambda: len(server.logged("CORE_CONFIG_RELOADED")) == 2, "both have read it")
        async with session(server) as one:
            assert await one.answers()
            server.process.send_signal(signal.SIGTERM)
            await server.until(lambda: refuses(server.port), "nobody listens")
            assert await ended(server) == 0
        assert len(server.logged("SERVICE_POOL_STOPPED")) == 2
        assert held(server) == []


async def test_workers_do_not_outlive_their_supervisor() -> None:
    async with two() as server, session(server):
        pids = workers(server)
        os.kill(server.process.pid, signal.SIGKILL)
        await server.process.wait()
        await server.until(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in pids), "they end")
        assert held(server) == []


async def test_a_worker_that_stands_still_is_replaced_and_systemd_hears_of_the_supervisor(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(address)
        sock.setblocking(False)
        async with two({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "3000000"}) as server:
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(20):
                while b"READY=1" not in await loop.sock_recv(sock, 4096):
                    pass
            first = workers(server)[0]
            os.kill(first, signal.SIGSTOP)
            await server.until(lambda: first not in workers(server) and len(workers(server)) == 2, "it is replaced")
            await server.until(lambda: len(server.logged("SERVICE_POOL_RUNNING")) == 3, "the new one runs")
            async with session(server) as one:
                assert await one.answers()


async def strangers(server: product.Server, count: int) -> list[socket.socket]:
    """Of so many connections that only say hello, those that were let in."""
    loop, inside = asyncio.get_running_loop(), []
    for _ in range(count):
        sock = socket.create_connection(("127.0.0.1", server.port))
        sock.setblocking(False)
        async with asyncio.timeout(20):
            await loop.sock_sendall(sock, b"SSH-2.0-Hello\r\n")
            said = b""
            # Whoever is let in gets the server's KEXINIT, whoever is not a DISCONNECT.
            while b"kex-strict-s" not in said and b"Too many" not in said:
                said += await loop.sock_recv(sock, 4096) or b"Too many"
        if b"Too many" in said:
            sock.close()
        else:
            inside.append(sock)
    return inside


async def test_the_limits_hold_for_all_processes_together_to_the_connection() -> None:
    limits = {"connections": 9, "connectionsPerAddress": 7, "allow": []}
    async with two(ssh={"limits": limits}) as server:
        inside = await strangers(server, 20)
        assert len(inside) == 7
        for sock in inside[:3]:
            sock.close()
        await server.until(lambda: len(server.logged("SSH_DISCONNECTED")) >= 3, "they are gone")
        again = await strangers(server, 10)
        assert len(again) == 3
        for sock in [*inside, *again]:
            sock.close()


async def test_what_a_killed_process_counted_is_forgotten() -> None:
    limits = {"connectionsPerAddress": 6, "allow": [], "penalties": {"enable": False}}
    async with two(ssh={"limits": limits}) as server, AsyncExitStack() as stack:
        sessions = [await stack.enter_async_context(session(server)) for _ in range(6)]
        with pytest.raises(asyncssh.DisconnectError, match="Too many connections"):
            await stack.enter_async_context(session(server))
        os.kill(workers(server)[0], signal.SIGKILL)
        await server.until(lambda: len(server.logged("SERVICE_POOL_RUNNING")) == 3, "another took its place")
        left = sum([await one.answers() for one in sessions])
        sessions += [await stack.enter_async_context(session(server)) for _ in range(6 - left)]
        with pytest.raises(asyncssh.DisconnectError, match="Too many connections"):
            await stack.enter_async_context(session(server))


async def test_failures_count_whichever_process_they_meet(tmp_path: Path) -> None:
    wrong, right = OpenSSH(tmp_path, password="wrong"), OpenSSH(tmp_path)
    penalties = {"authFailed": "60s", "threshold": "150s"}
    async with two(ssh={"limits": {"allow": [], "penalties": penalties}}) as server:
        for _ in range(2):
            assert (await wrong.run(server, "true")).status == 255
        assert (await right.run(server, "true")).status == 0
        assert (await wrong.run(server, "true")).status == 255
        for _ in range(6):
            done = await right.run(server, "true")
            assert done.status == 255
            assert b"Too many failed logins" in done.stderr


async def test_a_configuration_that_cannot_start_ends_the_supervisor() -> None:
    users = {"alice": {"password": "no hash"}}
    with pytest.raises(AssertionError, match="users"):
        async with product.serving(OCI, users, arguments=("serve", "--processes", "2")):
            pass


async def test_a_worker_that_cannot_be_started_is_tried_again_while_the_others_serve(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.symlink_to(sys.executable)
    # In the place of the interpreter that the server would be started with: that one cannot be taken away.
    instead = ("sh", "-c", f'shift; exec {python} "$@"', "sh")
    environment = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    arguments = ("serve", "--processes", "2")
    async with product.serving(OCI, USERS, environment=environment, prefix=instead, arguments=arguments) as server:
        await server.until(lambda: len(server.logged("SERVICE_POOL_RUNNING")) == 2, "both run")
        python.unlink()
        os.kill(workers(server)[0], signal.SIGKILL)
        lines = await server.told("CORE_WORKER_ENDED", 2)
        assert "could not be started" in lines[1]["message"]
        # No more than that: a container needs processes that are started with the same interpreter.
        with pytest.raises(asyncssh.PermissionDenied):
            async with logged_in(server, password="wrong"):
                pass
        python.symlink_to(sys.executable)
        await server.until(lambda: len(server.logged("SERVICE_POOL_RUNNING")) == 3, "it is started after all")
