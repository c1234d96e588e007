"""The server killed at random moments in the middle of twenty logins: its next start leaves nothing of them."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import suppress
from typing import Any

import asyncssh
import bcrypt
import pytest

from tests.soak.scale import scaled
from tests.support.clients import good_login, logged_in
from tests.support.oci import image
from tests.support.services import Engine
from tests.support.vitals import Watched, oci_leftovers, watched

pytestmark = pytest.mark.timeout(1800)

ALICE = {"alice": {"password": bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()}}
LOGINS = 20


async def use(server: Watched, chance: random.Random) -> None:
    """Log in again and again, until the server is no more."""
    with suppress(OSError, asyncssh.Error, TimeoutError):
        while True:
            async with logged_in(server) as connection, asyncio.timeout(chance.random() * 2):
                await connection.run(chance.choice(("sleep 100", "echo in", "cat /dev/zero | head -c 1000000")))


async def killed(server: Watched, chance: random.Random) -> None:
    users = [asyncio.create_task(use(server, chance)) for _ in range(LOGINS)]
    await asyncio.sleep(chance.random() * 2)
    await server.server.kill()
    for user in users:
        user.cancel()
    await asyncio.gather(*users, return_exceptions=True)
    server.server.log_file.unlink()
    await server.server.start()


@pytest.mark.oci
async def test_kills_with_oci() -> None:
    chance = random.Random(11)
    async with watched({"backend": "oci", "oci": {"image": str(image())}}, ALICE) as server:
        for _ in range(scaled(40, least=3)):
            await killed(server, chance)
            await server.server.until(lambda: not oci_leftovers(server.server), "nothing is left", 30)
            await good_login(server)


@pytest.mark.docker
async def test_kills_with_docker(engine: Engine) -> None:
    chance = random.Random(12)
    label = f"kill-{time.monotonic_ns()}"
    execution: dict[str, Any] = {
        "container": {"image": "bb:latest", "labels": {"soak": label}},
        "host": {"networkMode": "none"},
        "shellCommand": ["/bin/sh"],
        "imagePullPolicy": "Never",
    }
    docker = {"connection": {"host": f"unix://{engine.socket}"}, "execution": execution}
    look = ("ps", "-aq", "--filter", f"label=soak={label}")
    async with watched({"backend": "docker", "docker": docker}, ALICE) as server:
        for _ in range(scaled(20, least=2)):
            await killed(server, chance)
            await server.server.until(lambda: not engine.docker(*look).split(), "nothing is left", 60)
            await good_login(server)
