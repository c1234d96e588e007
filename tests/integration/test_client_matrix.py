"""Every client of the matrix against the whole server: what its user does each day."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from containerssh.auth.hashes import hash_password
from tests.support.server import Server, serving
from tests.support.services import Engine
from tests.support.ssh_programs import CLIENTS, KEEPS_ITS_KEYS, PASSWORD, USER, Ask

pytestmark = pytest.mark.docker

USERS = {USER: {"password": hash_password(PASSWORD, "bcrypt")}}
MIB = 1 << 20


@asynccontextmanager
async def server_for(engine: Engine) -> AsyncIterator[Server]:
    docker: dict[str, Any] = {
        "connection": {"host": engine.address},
        "execution": {
            "container": {"image": "bb:latest"},
            "host": {"NetworkMode": "none"},
            "shellCommand": ["/bin/sh"],
            "imagePullPolicy": "Never",
        },
    }
    async with serving({"backend": "docker", "docker": docker}, USERS) as server:
        yield server


@pytest.mark.parametrize("name", CLIENTS)
async def test_streams_status_shell_terminal_and_much_data(engine: Engine, tmp_path: Path, name: str) -> None:
    client = CLIENTS[name]
    async with server_for(engine) as server:
        data = os.urandom(300_000)
        done = await client(Ask(server, tmp_path, "cat; echo oops >&2; exit 7", data))
        assert (done.status, done.stdout) == (7, data), done.stderr
        assert b"oops\n" in done.stderr

        done = await client(Ask(server, tmp_path, None, b"echo in the shell\nexit 3\n"))
        assert (done.status, done.stdout.splitlines()[-1:]) == (3, [b"in the shell"]), done

        done = await client(Ask(server, tmp_path, "tty; stty size; exit 4", pty=True))
        assert done.status == 4, done
        assert b"/dev/pts/" in done.stdout, done

        done = await client(Ask(server, tmp_path, "seq 1 1000000 | tee /tmp/o; md5sum </tmp/o >&2"))
        assert (done.status, len(done.stdout)) == (0, 6_888_896)
        assert hashlib.md5(done.stdout).hexdigest().encode() in done.stderr


@pytest.mark.parametrize("name", [name for name in CLIENTS if name not in KEEPS_ITS_KEYS])
async def test_new_keys_are_made_while_data_flow_both_ways(engine: Engine, tmp_path: Path, name: str) -> None:
    data = os.urandom(3 * MIB)
    # Paramiko waits for itself if its channel is closed while it exchanges keys, so the end comes a moment later.
    async with server_for(engine) as server:
        done = await CLIENTS[name](Ask(server, tmp_path, "cat; sleep 0.5", data, rekey=MIB))
        assert done.status == 0, done.stderr
        assert done.stdout == data
