"""The reaper of a running server: what an instance that died beside it left goes, on a timer."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from containerssh.app import running
from containerssh.config.app import AppConfig
from containerssh.core.instance import open_instance
from tests.support.oci import image
from tests.support.waiting import until

pytestmark = pytest.mark.oci

DEAD, STRANGER = "d" * 16, "5" * 16


async def test_a_running_server_removes_what_another_one_left_and_forgets_it_at_the_second_look(tmp_path: Path) -> None:
    data = tmp_path / "state/oci/containers"
    users = tmp_path / "users.yaml"
    users.write_text("users: {}")
    users.chmod(0o600)
    tree: dict[str, Any] = {
        "backend": "oci",
        "oci": {"image": str(image())},
        "ssh": {"listen": "127.0.0.1:0"},
        "auth": {"password": {"method": "users"}, "publicKey": {"method": "users"}, "users": {"file": str(users)}},
    }
    config = AppConfig.model_validate(tree)
    with open_instance(tmp_path / "state", tmp_path / "run") as instance:
        locks = tmp_path / "state/instances"
        async with running(config, instance, reap_every=(0.5, 0.6)):
            with open_instance(tmp_path / "state", tmp_path / "run") as other:
                for name in (DEAD, other.id, STRANGER):
                    (data / name / "left").mkdir(parents=True)
                # It died while this one runs; the stranger's lock is on another machine.
                os.close(os.open(locks / DEAD, os.O_CREAT, 0o600))
                await until(lambda: not (data / DEAD).exists(), 20)
                assert (locks / DEAD).exists(), "an engine may still be creating a container for it"
                await until(lambda: not (locks / DEAD).exists(), 20)
                assert (data / other.id / "left").exists()
                assert (data / STRANGER / "left").exists()
                assert (locks / other.id).exists()
