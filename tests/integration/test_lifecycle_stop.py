"""How the server ends: SIGTERM, a second signal, logins and sessions that are under way."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import Any

import pexpect
import pytest

from containerssh.auth.hashes import hash_password
from tests.support import server as product
from tests.support.docker import way_to
from tests.support.lifecycle import ended, held, programs, refuses
from tests.support.oci import image
from tests.support.openssh import OpenSSH, ssh_options
from tests.support.services import Engine
from tests.support.webhook import Reply, webhook

pytestmark = pytest.mark.oci

OCI: dict[str, Any] = {"backend": "oci", "oci": {"image": str(image())}}
USERS = {"alice": {"password": hash_password("secret")}}
STUBBORN = "trap '' TERM HUP INT; echo up; while :; do sleep 0.1; done"


async def test_the_port_closes_at_once_and_running_programs_get_the_grace_time(openssh: OpenSSH) -> None:
    async with product.serving({**OCI, "ssh": {"shutdownGraceTime": "4s"}}, USERS) as server:
        client = await openssh.begun(server, STUBBORN)
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        await server.until(lambda: refuses(server.port), "nobody listens", limit=3)
        assert await ended(server) == 0
        assert 3.5 < time.monotonic() - began < 15
        await client.communicate()
        assert client.returncode == 255
        assert server.logged("SERVICE_POOL_STOPPED")


async def test_an_idle_connection_does_not_hold_up_the_end(openssh: OpenSSH) -> None:
    async with product.serving(OCI, USERS) as server:
        idle = asyncio.create_task(openssh.run(server, None, "-N"))
        await server.until(lambda: bool(server.logged("SSH_HANDSHAKE_SUCCESSFUL")), "the login is there")
        began = time.monotonic()
        assert await server.stop() == 0
        assert time.monotonic() - began < 10
        assert (await idle).status == 255


async def test_a_user_at_a_terminal_is_told_and_can_finish(openssh: OpenSSH) -> None:
    async with product.serving(OCI, USERS) as server:
        terminal = openssh.spawn(server, "trap '' TERM; echo up; read line; echo got $line; exit 3")
        await terminal.expect(b"up", async_=True)
        server.process.send_signal(signal.SIGTERM)
        await terminal.expect(rb"shutting down\. This session ends within 20 seconds\.\r\n", async_=True)
        terminal.sendline(b"done")
        await terminal.expect(b"got done", async_=True)
        await terminal.expect(pexpect.EOF, async_=True)
        terminal.close()
        assert terminal.exitstatus == 3
        assert await ended(server) == 0


TOLD_ONCE = "trap 'echo bye; sleep 0.5; exit 4' TERM; echo up; while :; do sleep 0.1; done"
"""Says so each time that it is told to end."""


async def test_output_that_is_no_terminals_holds_only_what_the_program_wrote(openssh: OpenSSH) -> None:
    async with product.serving(OCI, USERS) as server:
        client = await openssh.begun(server, TOLD_ONCE)
        assert await server.stop() == 0
        output, told = await client.communicate()
        assert (client.returncode, output) == (4, b"bye\n")
        assert b"containerssh" not in told


async def test_a_second_signal_ends_the_grace_and_still_removes_everything(openssh: OpenSSH) -> None:
    async with product.serving({**OCI, "ssh": {"shutdownGraceTime": "10m"}}, USERS) as server:
        client = await openssh.begun(server, STUBBORN)
        server.process.send_signal(signal.SIGTERM)
        await server.until(lambda: refuses(server.port), "the stop has begun")
        began = time.monotonic()
        server.process.send_signal(signal.SIGINT)
        assert await ended(server, 15) == 0
        assert time.monotonic() - began < 10
        await client.communicate()
        assert server.logged("CORE_STOP_HURRIED")
        assert held(server) == []


@pytest.mark.docker
async def test_a_second_signal_ends_the_server_although_the_engine_removes_nothing(
    openssh: OpenSSH, engine: Engine
) -> None:
    def is_removal(line: bytes) -> bool:
        return line.startswith(b"DELETE")

    async with way_to(engine) as way:
        execution = {"container": {"image": "bb:latest"}, "host": {"networkmode": way.network}}
        config = {"backend": "docker", "docker": {"connection": {"host": way.address}, "execution": execution}}
        async with product.serving(config, USERS) as server:
            client = await openssh.begun(server, STUBBORN)
            way.hold = is_removal
            server.process.send_signal(signal.SIGTERM)
            await server.until(lambda: refuses(server.port), "the stop has begun")
            began = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            assert await ended(server, 20) == 130
            # Ten seconds; a little less where the machine was busy before the signal arrived.
            assert 9 < time.monotonic() - began < 15
            await client.communicate()
            assert server.logged("CORE_STOP_HURRIED")
            assert server.logged("CORE_STOP_GIVEN_UP")
            server.log_file.unlink()
            way.hold, way.requests = (lambda _: False), []
            way.release.set()
            await server.start()
            await server.until(lambda: bool(server.logged("BACKEND_REAPED")), "the next start removes the rest")


async def test_a_login_that_is_judged_after_the_stop_gets_no_container(openssh: OpenSSH) -> None:
    """The webhook answers seconds after the port was closed, when it was asked before."""
    async with webhook() as hook:
        hook.answers = [Reply({"success": True}, delay=3)]
        method = {"method": "webhook", "webhook": {"url": hook.url, "timeout": "20s"}}
        config = {**OCI, "auth": {"password": method, "publicKey": {"method": ""}}}
        async with product.serving(config) as server:
            login = asyncio.create_task(openssh.run(server, "echo never"))
            await asyncio.wait_for(hook.asked.wait(), 20)
            began = time.monotonic()
            assert await server.stop() == 0
            assert time.monotonic() - began < 10
            done = await login
            assert (done.status, done.stdout) == (255, b"")
            assert not server.logged("OCI_CONTAINER_CREATE")


async def test_no_session_begins_on_an_open_connection_while_the_server_stops(openssh: OpenSSH) -> None:
    control = ssh_options(f"ControlPath={openssh.folder}/ctl")
    async with product.serving({**OCI, "ssh": {"shutdownGraceTime": "30s"}}, USERS) as server:
        session = asyncio.create_task(openssh.run(server, STUBBORN, *control, *ssh_options("ControlMaster=yes")))
        await server.until(lambda: programs(server) > 0, "the program runs")
        server.process.send_signal(signal.SIGTERM)
        await server.until(lambda: refuses(server.port), "the stop has begun")
        second = await openssh.run(server, "echo never", *control)
        assert (second.status, second.stdout) == (255, b"")
        assert await server.stop() == 0
        await session


async def test_a_stop_while_a_login_prepares_its_container_leaves_nothing(openssh: OpenSSH) -> None:
    async with product.serving(OCI, USERS) as server:
        logins = [asyncio.create_task(openssh.run(server, "sleep 60")) for _ in range(4)]
        await server.until(lambda: bool(server.logged("OCI_CONTAINER_CREATE")), "a container is being made")
        assert await server.stop() == 0
        assert {(await login).status for login in logins} <= {255, 143}
        assert held(server) == []
