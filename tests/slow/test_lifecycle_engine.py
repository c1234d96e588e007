"""The engine goes away and comes back while logins run on it: an engine of the test's own."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from containerssh.auth.hashes import hash_password
from tests.support import server as product
from tests.support.lifecycle import programs
from tests.support.openssh import OpenSSH
from tests.support.services import Engine, busybox_archive, engine_answers, wait_until
from tests.support.tools import tool

pytestmark = [pytest.mark.docker, pytest.mark.root]

USERS = {"alice": {"password": hash_password("secret", "bcrypt")}}


@asynccontextmanager
async def dockerd(folder: Path) -> AsyncIterator[Engine]:
    """A Docker engine whose data lie in *folder*, without a network; it starts with what the one before it left."""
    path = folder / "docker.sock"
    places = {
        "host": f"unix://{path}",
        "data-root": folder / "data",
        "exec-root": folder / "exec",
        "pidfile": folder / "pid",
    }
    options = {**places, "storage-driver": "vfs", "bridge": "none", "iptables": "false", "ip6tables": "false"}
    process = await asyncio.create_subprocess_exec(
        # In a network namespace of its own: an engine without a bridge removes the one of the machine's engine.
        *(tool("unshare"), "--net", tool("dockerd"), *(f"--{name}={value}" for name, value in options.items())),
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        await asyncio.to_thread(wait_until, lambda: engine_answers(path), within=40, what="dockerd answers")
        yield Engine(path, "none")
    finally:
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            await process.wait()


async def test_an_engine_that_restarts_ends_its_sessions_and_keeps_nothing(tmp_path: Path, openssh: OpenSSH) -> None:
    folder = tmp_path / "e"
    folder.mkdir()
    docker: dict[str, Any] = {
        "connection": {"host": f"unix://{folder}/docker.sock"},
        "execution": {
            "container": {"image": "bb:latest"},
            "host": {"NetworkMode": "none"},
            "shellCommand": ["/bin/sh"],
            "imagePullPolicy": "Never",
        },
        "timeouts": {"containerStart": "5s", "containerStop": "5s"},
    }
    async with product.serving({"backend": "docker", "docker": docker}, USERS) as server:
        async with dockerd(folder) as engine:
            engine.docker("import", "-", "bb:latest", stdin=busybox_archive())
            session = asyncio.create_task(openssh.run(server, "echo up; sleep 600"))
            await server.until(lambda: programs(server) > 0, "the program runs")
        done = await session
        assert done.status != 0, done
        assert b"containerssh: " in done.stderr or server.logged("SSH_EXIT_SIGNAL"), "the user is told why"
        assert (await openssh.run(server, "true")).status == 255, "there is no engine"
        async with dockerd(folder) as engine:
            assert (await openssh.run(server, "echo again")).stdout == b"again\n"
            await asyncio.to_thread(
                wait_until, lambda: not engine.docker("ps", "-aq"), within=60, what="nothing is left"
            )
            assert await server.stop() == 0
            assert not engine.docker("ps", "-aq")


async def test_a_server_tells_at_its_start_that_no_engine_answers(tmp_path: Path) -> None:
    config = {"backend": "docker", "docker": {"connection": {"host": f"unix://{tmp_path}/nobody.sock"}}}
    async with product.serving(config, USERS) as server:
        await server.until(lambda: bool(server.logged("DOCKER_ENGINE_UNAVAILABLE")), "the engine is missed")
        (told,) = server.logged("DOCKER_ENGINE_UNAVAILABLE")
    assert told["level"] == "warning"
    assert f"{tmp_path}/nobody.sock is not available (No such file or directory)" in told["message"]
