"""``security.maxLoginTime``: logins that end by themselves, and the labels of their containers."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pexpect
import pytest

from containerssh.auth.hashes import hash_password
from containerssh.backends.docker.backend import DockerBackend
from containerssh.config.docker import DockerConfig
from containerssh.core.instance import Instance
from containerssh.core.metadata import LoginSpan
from tests.support import server as product
from tests.support.docker import Seen, a_login, containers_of
from tests.support.lifecycle import programs
from tests.support.oci import image
from tests.support.openssh import OpenSSH
from tests.support.services import Engine

OCI: dict[str, Any] = {"backend": "oci", "oci": {"image": str(image())}}
HASH = hash_password("secret")
USERS = {"alice": {"password": HASH}, "bob": {"password": HASH, "config": {"security": {"maxLoginTime": 0}}}}


def bundles(server: product.Server) -> list[dict[str, Any]]:
    found = (server.folder / "state/oci/containers").glob("*/*/config.json")
    return [json.loads(path.read_text()) for path in found]


@pytest.mark.oci
async def test_a_login_ends_after_its_time_and_its_user_is_warned(openssh: OpenSSH) -> None:
    async with product.serving({**OCI, "security": {"maxLoginTime": "6s"}}, USERS) as server:
        began = time.monotonic()
        terminal = openssh.spawn(server, "echo up; sleep 60")
        await terminal.expect(b"up", async_=True)
        (bundle,) = bundles(server)
        expires = datetime.fromisoformat(bundle["annotations"]["containerssh_expires"])
        # 60 seconds are containerStop.
        assert timedelta(seconds=60) < expires - datetime.now(UTC) < timedelta(seconds=67)
        await terminal.expect(rb"The time for this login is over in 1 seconds\.\r\n", async_=True)
        assert time.monotonic() - began > 4
        await terminal.expect(b"The time for this login is over", async_=True)
        await terminal.expect(pexpect.EOF, async_=True)
        terminal.close()
        assert terminal.exitstatus == 255
        assert 5 < time.monotonic() - began < 20
        await server.until(lambda: bundles(server) == [], "the container is gone")
        await server.told("SSH_LIMIT_LOGIN_TIME")


@pytest.mark.oci
async def test_a_login_of_its_own_time_stays(openssh: OpenSSH, tmp_path: Path) -> None:
    async with product.serving({**OCI, "security": {"maxLoginTime": "2s"}}, USERS) as server:
        short = asyncio.create_task(openssh.run(server, "sleep 60"))
        long = asyncio.create_task(OpenSSH(tmp_path, "bob").run(server, "sleep 5; echo there"))
        await server.until(lambda: programs(server) == 2, "both run")
        done = await short
        assert done.status == 255
        assert b"The time for this login is over" in done.stderr
        assert (await long).stdout == b"there\n"


def config(engine: Engine) -> DockerConfig:
    return DockerConfig.model_validate(
        {
            "connection": {"host": engine.address},
            "execution": {"container": {"image": "bb:latest"}, "host": {"networkmode": engine.network}},
            "timeouts": {"containerStop": "20s"},
        }
    )


def left(engine: Engine, owner: str, expires: datetime) -> str:
    """A container that somebody left; its id."""
    labels = {"instance": owner, "expires": expires.isoformat(), "lifetime": "0", "launch": "left"}
    options = [f"--label=containerssh_{name}={value}" for name, value in labels.items()]
    return engine.docker("create", "--label=containerssh-test", *options, "bb:latest", "true").strip()


def exists(engine: Engine, container: str) -> bool:
    try:
        engine.docker("inspect", container)
    except subprocess.CalledProcessError:
        return False
    return True


@pytest.mark.docker
async def test_what_was_lost_goes_and_what_is_held_stays_whatever_its_label_says(
    engine: Engine, backend: DockerBackend, instance: Instance
) -> None:
    past = datetime.now(UTC) - timedelta(hours=1)
    # As after a jump of the clock by a day: the login has only just begun.
    login = replace(a_login(), span=LoginSpan(timedelta(minutes=5), past))
    async with backend.login(login, config(engine), Seen()):
        (container,) = containers_of(engine, login)
        text = engine.docker("inspect", "--format", "{{json .Config.Labels}}", container)
        assert datetime.fromisoformat(json.loads(text)["containerssh_expires"]) - past < timedelta(seconds=21)
        lost, strangers = left(engine, instance.id, past), left(engine, "5" * 16, past)
        try:
            # The configuration names no engine: this one is known from the login.
            await backend.reap_outlived(None)
            assert exists(engine, container)
            assert not exists(engine, lost)
            assert exists(engine, strangers), "seen once is not seen for long"
            await asyncio.sleep(0.01)
            await backend.reap_outlived(config(engine))
            assert not exists(engine, strangers)
        finally:
            for one in (lost, strangers):
                if exists(engine, one):
                    engine.docker("rm", "--force", one)
        assert exists(engine, container)
    assert not containers_of(engine, login)
