"""The Docker engine's API through a way that fails: at each request of a login, in each manner."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncssh
import bcrypt
import pytest

from tests.support.clients import good_login, logged_in
from tests.support.docker import Way, way_to
from tests.support.services import Engine
from tests.support.vitals import MIB, Watched, watched

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]

ALICE = {"alice": {"password": bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()}}
LIMIT = 4.0


@asynccontextmanager
async def behind(engine: Engine, folder: Path, label: str) -> AsyncIterator[tuple[Watched, Way]]:
    """A server whose engine is at the end of a way."""
    async with way_to(engine, at=folder / "docker.sock") as way:
        execution = {
            "container": {"image": "bb:latest", "labels": {"soak": label}},
            "host": {"networkMode": "none"},
            "shellCommand": ["/bin/sh"],
            "imagePullPolicy": "Never",
        }
        limit = f"{LIMIT:g}s"
        timeouts = {"containerStart": limit, "containerStop": limit, "commandStart": limit, "http": "2s"}
        docker = {"connection": {"host": way.address}, "execution": execution, "timeouts": timeouts}
        async with watched({"backend": "docker", "docker": docker}, ALICE) as server:
            yield server, way


async def none_left(server: Watched, engine: Engine, label: str) -> None:
    look = ("ps", "-aq", "--filter", f"label=soak={label}")
    await server.server.until(lambda: not engine.docker(*look).split(), "no container is left", 60)


async def attempt(server: Watched) -> Any:
    """Log in and run something; its end."""
    async with logged_in(server) as connection:
        return await connection.run("echo in")


@pytest.mark.parametrize("fault", ["swallow", "hold", "cut"])
async def test_each_request_of_a_login_may_fail(engine: Engine, tmp_path: Path, fault: str) -> None:
    label = f"{fault}-{time.monotonic_ns()}"
    async with behind(engine, tmp_path, label) as (server, way):
        await good_login(server)
        way.requests.clear()
        await good_login(server)
        await none_left(server, engine, label)
        base = await server.settled()
        steps = len(way.requests)
        assert steps >= 3, way.requests
        for step in range(steps):
            _arm(way, fault, step)
            began = time.monotonic()
            try:
                async with asyncio.timeout(3 * LIMIT):
                    done = await attempt(server)
                told = str(done.stderr)
                assert done.stdout == "in\n" or (done.exit_status == 255 and told.startswith("containerssh: ")), done
            except (asyncssh.Error, OSError) as exc:
                told = repr(exc)
            print(f"{fault} {step}: {time.monotonic() - began:.1f} s, {told!r}")
            way.swallow = way.hold = lambda _: False
            way.release.set()
            await none_left(server, engine, label)
            assert await good_login(server) < 5
        await server.back_to(base, growth=8 * MIB)


def _arm(way: Way, fault: str, step: int) -> None:
    """The request number *step* from now on goes wrong."""
    count = -1

    def is_it(_: bytes) -> bool:
        nonlocal count
        count += 1
        if count == step and fault == "cut":
            # In the middle of whatever is under way, on all connections.
            asyncio.get_running_loop().call_later(0.01, way.cut)
            return False
        return count == step

    way.release.clear()
    way.held.clear()
    way.swallow = is_it if fault in ("swallow", "cut") else lambda _: False
    way.hold = is_it if fault == "hold" else lambda _: False
