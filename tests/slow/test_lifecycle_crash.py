"""What a killed server leaves behind is removed by the next start, and nothing that belongs to another."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from containerssh.auth.hashes import hash_password
from tests.support import server as product
from tests.support.lifecycle import held
from tests.support.oci import image
from tests.support.openssh import OpenSSH
from tests.support.services import Engine
from tests.support.webhook import Reply, webhook

OCI: dict[str, Any] = {"backend": "oci", "oci": {"image": str(image())}}
USERS = {"alice": {"password": hash_password("secret", "bcrypt")}}
MANY = 20


def docker(engine: Engine) -> dict[str, Any]:
    execution = {"container": {"image": "bb:latest"}, "shellCommand": ["/bin/sh"], "imagePullPolicy": "Never"}
    return {"backend": "docker", "docker": {"connection": {"host": engine.address}, "execution": execution}}


def instances(server: product.Server) -> list[str]:
    return [path.name for path in (server.folder / "state/instances").iterdir()]


def containers(engine: Engine, server: product.Server) -> list[str]:
    """The server's containers, by the ids of its instances, dead ones included."""
    found: list[str] = []
    for instance in instances(server):
        found += engine.docker("ps", "-aq", "--filter", f"label=containerssh_instance={instance}").split()
    return found


async def log_in(server: product.Server) -> asyncssh.SSHClientConnection:
    connection = await asyncssh.connect(
        "127.0.0.1", server.port, username="alice", password="secret", known_hosts=None, config=[], client_keys=None,
        agent_path=None, login_timeout=60,
    )  # fmt: skip
    await connection.create_process("sleep 600", encoding=None)
    return connection


@asynccontextmanager
async def logged_in(server: product.Server, count: int) -> AsyncIterator[list[asyncssh.SSHClientConnection]]:
    connections: list[asyncssh.SSHClientConnection] = []
    try:
        # Some at a time: two cores cannot start more at once.
        while len(connections) < count:
            connections += await asyncio.gather(*(log_in(server) for _ in range(min(5, count - len(connections)))))
        yield connections
    finally:
        for connection in connections:
            connection.abort()
            with suppress(OSError, asyncssh.Error):
                await connection.wait_closed()


async def killed(server: product.Server) -> None:
    """SIGKILL to the gateway alone; its helpers have to notice themselves."""
    os.kill(server.process.pid, signal.SIGKILL)
    await server.process.wait()


async def restarted(server: product.Server) -> None:
    (server.folder / "server.log").unlink()
    await server.start()


@pytest.mark.docker
async def test_twenty_logins_on_docker_survive_no_restart_after_a_kill(engine: Engine) -> None:
    async with product.serving(docker(engine), USERS) as server:
        async with logged_in(server, MANY):
            await killed(server)
        assert len(containers(engine, server)) == MANY
        left = set(containers(engine, server))
        await restarted(server)
        await server.until(lambda: not left & set(engine.docker("ps", "-aq").split()), "they are removed")
        assert len(await server.told("DOCKER_ORPHAN_REMOVED", MANY)) == MANY
        async with logged_in(server, 1):
            pass


@pytest.mark.oci
@pytest.mark.parametrize("whole_group", [False, True], ids=["the gateway alone", "its helpers too"])
async def test_twenty_logins_on_oci_survive_no_restart_after_a_kill(whole_group: bool) -> None:
    async with product.serving(OCI, USERS) as server:
        async with logged_in(server, MANY):
            await (server.kill() if whole_group else killed(server))
        await restarted(server)
        await server.until(lambda: not held(server), "their files are gone")
        await server.until(lambda: not _running_below(server), "their processes are gone")
        async with logged_in(server, 1):
            pass


@pytest.mark.docker
async def test_a_start_touches_nothing_of_a_living_server(engine: Engine) -> None:
    """One that shares the state folder, and one with a state folder of its own, both on the same engine."""
    async with product.serving(docker(engine), USERS) as first, product.serving(docker(engine), USERS) as stranger:
        environment = {"STATE_DIRECTORY": str(first.folder / "state")}
        async with logged_in(first, 2), logged_in(stranger, 1):
            mine, theirs = containers(engine, first), containers(engine, stranger)
            assert (len(mine), len(theirs)) == (2, 1)
            async with product.serving(docker(engine), USERS, environment=environment) as second:
                async with logged_in(second, 1):
                    await killed(second)
                await restarted(second)
                await second.until(lambda: bool(second.logged("BACKEND_REAPED")), "it has removed its own")
                assert len(await second.told("DOCKER_ORPHAN_REMOVED")) == 1
                running = set(engine.docker("ps", "-q").split())
                assert {*mine, *theirs} <= running


@pytest.mark.docker
async def test_a_webhook_that_answers_after_the_client_left_starts_nothing(engine: Engine, tmp_path: Path) -> None:
    async with webhook() as hook:
        hook.answers = [Reply({"success": True}, delay=2)]
        auth = {"password": {"method": "webhook", "webhook": {"url": hook.url, "timeout": "20s"}}}
        async with product.serving({**docker(engine), "auth": auth}) as server:
            login = asyncio.create_task(OpenSSH(tmp_path).run(server, "true"))
            await asyncio.wait_for(hook.asked.wait(), 20)
            login.cancel()
            await server.until(lambda: bool(server.logged("SSH_DISCONNECTED")), "the server noticed")
            await asyncio.wait_for(hook.gone.wait(), 5)
            assert not containers(engine, server)
            assert not server.logged("DOCKER_CONTAINER_CREATE")


def _running_below(server: product.Server) -> list[str]:
    """Processes of containers: those whose control group names one of the server's instances."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cgroup"):
        with suppress(OSError):
            text = path.read_text()
            found += [text for instance in instances(server) if instance in text]
    return found
