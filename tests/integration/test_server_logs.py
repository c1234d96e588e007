"""The log of a whole server: levels and labels of one login, with OpenSSH as the client."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from containerssh.auth.hashes import hash_password
from tests.support import server as product
from tests.support.oci import image
from tests.support.openssh import OpenSSH

pytestmark = pytest.mark.oci

PASSWORD = hash_password("secret", "bcrypt")


async def test_the_level_and_the_labels_of_a_login_apply_to_its_sessions_and_forwards(tmp_path: Path) -> None:
    config = {"backend": "oci", "oci": {"image": str(image())}}
    users: dict[str, Any] = {
        "bob": {"password": PASSWORD, "config": {"log": {"level": "info"}}},
        "alice": {"password": PASSWORD},
    }
    async with product.serving(config, users) as server:
        for name in users:
            (await OpenSSH(tmp_path, name).run(server, "exit 0", "-R", "0:127.0.0.1:9")).check()
        told = [
            *await server.told("SSH_CHANNEL_REQUEST"),
            *await server.told("SSH_EXIT"),
            *await server.told("SECURITY_REVERSE_FORWARDING_REJECTED"),
        ]
        await server.told("SSH_DISCONNECTED", 2)
    for line in told:
        assert line["details"].items() >= {"username": "alice", "backend": "oci"}.items(), line
    of_bob = [line for line in server.log if line["details"].get("username") == "bob"]
    assert [line for line in of_bob if line["level"] == "debug" and "channelId" in line["details"]] == []


async def test_the_lines_of_start_and_stop_have_upstreams_modules() -> None:
    async with product.serving({"backend": "oci", "oci": {"image": str(image())}}, {}) as server:
        await server.stop()
        modules = {line["code"]: line["details"].get("module") for line in server.log}
    for code in ("SERVICE_POOL_STARTING", "SERVICE_POOL_STOPPED", "SERVICE_STARTING", "SERVICE_STOPPED"):
        assert modules[code] == "service", code
    assert modules["SSH_AVAILABLE"] == "ssh"
    assert modules["CORE_CONFIG_FILE"] is None
