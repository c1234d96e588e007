"""Ten thousand clients cut off at random steps, on both backends."""

from __future__ import annotations

from typing import Any

import asyncssh
import pytest

from tests.soak.scale import scaled
from tests.support.aborts import STAGES, Aborter
from tests.support.clients import good_login
from tests.support.oci import image
from tests.support.services import Engine
from tests.support.vitals import MIB, Watched, oci_leftovers, watched

pytestmark = pytest.mark.timeout(3600)


async def cut_off(server: Watched, key: asyncssh.SSHKey, count: int, *, logins: float) -> None:
    """Cut off *count* clients; the process is afterwards what it was before."""
    aborter = Aborter(server.port, key, seed=count)
    await aborter.run(200, logins=0.5, at_once=16)
    base = await server.settled()
    await aborter.run(count, logins=logins, at_once=16)
    now = await server.back_to(base, growth=8 * MIB, within=90)
    # An engine takes its time: in few tries nobody may have come as far as data.
    assert {*STAGES} - {"data"} <= {*aborter.stages}, aborter.stages
    print(f"{aborter.stages}; {(now.memory - base.memory) / MIB:+.1f} MiB, {len(now.tasks)} tasks")
    for _ in range(3):
        await good_login(server, client_keys=[key])
    assert server.errors() == []


def user(key: asyncssh.SSHKey) -> dict[str, Any]:
    return {"alice": {"authorizedKeys": [key.export_public_key().decode().strip()]}}


@pytest.mark.oci
async def test_ten_thousand_on_oci() -> None:
    key = asyncssh.generate_private_key("ssh-ed25519")
    async with watched({"backend": "oci", "oci": {"image": str(image())}}, user(key)) as server:
        await cut_off(server, key, scaled(10_000), logins=0.1)
        await server.server.until(lambda: not oci_leftovers(server.server), "no container is left", 60)


@pytest.mark.docker
async def test_five_hundred_on_docker(engine: Engine) -> None:
    key = asyncssh.generate_private_key("ssh-ed25519")
    name = f"test-{key.get_fingerprint()[7:20]}"
    execution = {
        "container": {"image": "bb:latest", "labels": {"soak": name}},
        "host": {"networkMode": "none"},
        "shellCommand": ["/bin/sh"],
        "imagePullPolicy": "Never",
    }
    docker = {"connection": {"host": f"unix://{engine.socket}"}, "execution": execution}
    async with watched({"backend": "docker", "docker": docker}, user(key)) as server:
        await cut_off(server, key, scaled(500), logins=0.1)
        look = ("ps", "-aq", "--filter", f"label=soak={name}")
        await server.server.until(lambda: not engine.docker(*look).split(), "no container is left", 60)
