"""What tests of the server's life look at from outside."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from pathlib import Path
from typing import Any

from tests.support.server import Server


def refuses(port: int) -> bool:
    """Whether the loopback port *port* is free."""
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex(("127.0.0.1", port)) != 0


def programs(server: Server) -> int:
    """How many channel requests were granted: the last one of a session starts its program."""
    return len(server.logged("SSH_CHANNEL_REQUEST_SUCCESSFUL"))


def held(server: Server) -> list[str]:
    """What the oci backend still holds of logins: mounts, and files of containers."""
    mounts = [line for line in Path("/proc/mounts").read_text().splitlines() if str(server.folder) in line]
    # Not rglob, which fails on folders that vanish meanwhile.
    found = os.walk(server.folder / "state/oci/containers")
    return mounts + [str(Path(folder, name)) for folder, folders, files in found for name in (*folders, *files)]


def written(server: Server) -> dict[str, Any]:
    """The configuration file's content."""
    found = json.loads((server.folder / "config.yaml").read_text())
    assert isinstance(found, dict)
    return found


def write(server: Server, config: object) -> None:
    """Replace the configuration file, whole; a text is written as it is."""
    new = server.folder / "config.new"
    new.write_text(config if isinstance(config, str) else json.dumps(config))
    new.rename(server.folder / "config.yaml")


async def ended(server: Server, limit: float = 30.0) -> int:
    """The exit status, once the process has ended by itself."""
    async with asyncio.timeout(limit):
        return await server.process.wait()
