"""A first start: it does not wait for the host key that takes long, and offers it as soon as it is there."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncssh

from containerssh.app import RunningServer, running
from containerssh.config.app import AppConfig
from containerssh.core.instance import open_instance

NAMES = ("ssh_host_ecdsa_key", "ssh_host_ed25519_key", "ssh_host_rsa_key")


def first_start(folder: Path) -> AppConfig:
    users = folder / "users.yaml"
    users.write_text("users: {}")
    users.chmod(0o600)
    return AppConfig.model_validate(
        {
            "ssh": {"listen": "127.0.0.1:0", "hostKeyDirectory": str(folder / "keys")},
            "auth": {"publicKey": {"method": "users"}, "users": {"file": str(users)}},
            "backend": "oci",
        }
    )


async def shown(server: RunningServer, algorithm: str) -> bytes | None:
    """The host key that a client who wants *algorithm* is shown."""
    key = await asyncssh.get_server_host_key(
        "127.0.0.1", server.addresses[0].port, server_host_key_algs=[algorithm], config=None
    )
    return key.public_data if isinstance(key, asyncssh.SSHKey) else None


async def test_the_rsa_key_of_a_first_start_is_offered_once_it_is_made(tmp_path: Path) -> None:
    config = first_start(tmp_path)
    with open_instance(tmp_path / "state", tmp_path / "run") as instance:
        async with running(config, instance) as server:
            assert await shown(server, "ssh-ed25519")
            async with asyncio.timeout(30):
                while True:
                    try:
                        first = await shown(server, "rsa-sha2-512")
                        break
                    except asyncssh.KeyExchangeFailed:
                        await asyncio.sleep(0.05)
            assert first
        assert tuple(sorted(path.name for path in (tmp_path / "keys").iterdir())) == NAMES
        async with running(config, instance) as server:
            assert await shown(server, "rsa-sha2-512") == first, "it is there from the beginning"


async def test_a_stop_while_the_key_is_made_loses_nothing(tmp_path: Path) -> None:
    config = first_start(tmp_path)
    with open_instance(tmp_path / "state", tmp_path / "run") as instance:
        async with running(config, instance):
            pass
        async with running(config, instance) as server:
            assert await shown(server, "ssh-ed25519")
