"""Many logins beside scanners, and clients whose network is gone without a word."""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import ExitStack
from typing import Any

import pytest

from tests.support.net import dropped
from tests.support.oci import image
from tests.support.openssh import OpenSSH, run, ssh_options
from tests.support.server import free_port
from tests.support.services import Engine
from tests.support.shared_folder import PASSWORD, complaints, sharing
from tests.support.tools import tool
from tests.support.vitals import MIB, oci_leftovers, watched

pytestmark = [pytest.mark.root, pytest.mark.docker, pytest.mark.oci, pytest.mark.timeout(240)]

LOGINS, AT_ONCE, SCANNERS = 200, 8, 60
GRACE, ALIVE, COUNT = 10, 2, 3
SAID = (
    b"",
    b"SSH-2.0-half",
    b"SSH-2.0-x\r\n" + bytes.fromhex("0000000c0a14") + bytes(9),
    b"GET / HTTP/1.1\r\n\r\n" * 50,
)
MODES = ("forwardingMode", "reverseForwardingMode", "socketForwardingMode", "socketListenMode")


async def test_200_logins_of_one_host_within_a_minute_beside_scanners(openssh: OpenSSH) -> None:
    config: dict[str, Any] = {
        "backend": "oci",
        "oci": {"image": str(image()), "network": "none"},
        # The limits hold for this machine's own addresses too.
        "ssh": {"loginGraceTime": f"{GRACE}s", "limits": {"allow": []}},
    }
    async with watched(config, {"alice": PASSWORD}) as server:
        remaining = list(range(LOGINS))

        async def users() -> None:
            while remaining:
                number = remaining.pop()
                done = await openssh.run(server, f"echo {number}")
                assert (done.status, done.stdout) == (0, b"%d\n" % number), done

        async def everybody() -> float:
            remaining[:] = range(LOGINS)
            began = time.monotonic()
            async with asyncio.TaskGroup() as group:
                for _ in range(AT_ONCE):
                    group.create_task(users())
            return time.monotonic() - began

        def scan(stack: ExitStack, number: int) -> None:
            sock = stack.enter_context(
                socket.create_connection(("127.0.0.1", server.port), 5, (f"127.1.{number}.1", 0))
            )
            sock.sendall(SAID[number % len(SAID)])

        with ExitStack() as stack:
            for number in range(SCANNERS):
                await asyncio.to_thread(scan, stack, number)
            for number in range(LOGINS // 10):
                remaining[:] = [number]
                await users()
            base = await server.settled()
            assert await everybody() < 60
        # The scanners have gone by themselves or with their time.
        await server.back_to(base, growth=24 * MIB, within=GRACE + 20)
        await server.server.until(lambda: not oci_leftovers(server.server), "no container is left")
        assert complaints(server.server) == []


async def source_port(pid: int) -> int:
    """Of the one connection that this process has made; it listens on others."""
    listed = (await run(tool("ss"), "-Htnp", "state", "established")).check().stdout.decode()
    (line,) = [line for line in listed.splitlines() if f"pid={pid}," in line]
    return int(line.split()[2].rpartition(":")[2])


async def test_a_network_that_vanishes_takes_session_forwards_and_container_along(
    engine: Engine, openssh: OpenSSH
) -> None:
    local, socks = free_port(), free_port()
    sections: dict[str, Any] = {
        "security": {"forwarding": dict.fromkeys(MODES, "enable")},
        "ssh": {"clientAliveInterval": f"{ALIVE}s", "clientAliveCountMax": COUNT},
    }
    async with sharing(engine, openssh.folder / "data", **sections) as server:
        forwards = ("-L", f"{local}:127.0.0.1:7777", "-D", str(socks), "-R", "/tmp/back:127.0.0.1:9")
        script = "nc -ll -p 7777 -e cat & ls /tmp/back; sleep 1; while :; do date >/data/alive; sleep 0.2; done"
        pipe = asyncio.subprocess.PIPE
        client = await asyncio.create_subprocess_exec(
            *openssh.command(server, *forwards, *ssh_options("ExitOnForwardFailure=yes")),
            script,
            env=openssh.environment(),
            stdin=pipe,
            stdout=pipe,
        )
        assert client.stdout is not None
        try:
            async with asyncio.timeout(60):
                port = await source_port(client.pid)
                assert await client.stdout.readline() == b"/tmp/back\n"
                alive = openssh.folder / "data" / "alive"
                await server.until(alive.exists, "the program works")
                reader, writer = await asyncio.open_connection("127.0.0.1", local)
                writer.write(b"through\n")
                assert await reader.readline() == b"through\n"
            (label,) = {line["details"]["connectionId"] for line in server.logged("SSH_HANDSHAKE_SUCCESSFUL")}

            def left() -> bool:
                return bool(engine.docker("ps", "-aq", "--filter", f"label=containerssh_connection_id={label}"))

            assert left()
            with dropped(server.port, port):
                began = time.monotonic()
                await server.until(lambda: not left(), "the container has gone", ALIVE * COUNT + 10)
                assert time.monotonic() - began > ALIVE
                alive.unlink()
                await asyncio.sleep(1)
                assert not alive.exists(), "its programs have ended"
            writer.close()
        finally:
            if client.returncode is None:
                client.kill()
            await client.wait()
        assert (await openssh.run(server, "echo next")).check().stdout == b"next\n"
