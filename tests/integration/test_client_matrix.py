"""Every client of the matrix against the whole server: what its user does each day."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import bcrypt
import paramiko
import pytest

from tests.support.server import Server, serving
from tests.support.services import Engine
from tests.support.shared_folder import complaints
from tests.support.ssh_programs import ASKS, CLIENTS, KEEPS_ITS_KEYS, PASSWORD, SENDS_SIGNALS, USER, Ask

pytestmark = pytest.mark.docker

# Many logins at once, which are to take little of a busy machine.
USERS = {USER: {"password": bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()}}
MIB = 1 << 20
LIMIT = 30.0
KILLED = {
    "openssh": 255,
    "plink": 128,
    "dbclient": 0,
    "paramiko": -1,
    "libssh": 255,
    "asyncssh": -9,
    "go": 128 + 9,
}
"""How each tells its user of a program that a signal ended."""


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


@pytest.mark.parametrize("name", CLIENTS)
async def test_statuses_signals_and_questions_whether_we_live(engine: Engine, tmp_path: Path, name: str) -> None:
    client = CLIENTS[name]
    caught = "trap 'echo caught; exit 9' USR1; echo ready; while :; do sleep 0.05; done"
    asked: dict[str, tuple[dict[str, Any], int, bytes]] = {
        "true": ({}, 0, b""),
        "false": ({}, 1, b""),
        "exit 42": ({}, 42, b""),
        "no-such-program": ({}, 127, b""),
        "echo words; kill -9 $$": ({}, KILLED[name], b"words\n"),
    }
    if name in SENDS_SIGNALS:
        asked[caught] = ({"signal": "USR1"}, 9, b"ready\ncaught\n")
    if name in ASKS:
        asked["sleep 1.5; echo still here"] = ({"asking": True}, 0, b"still here\n")

    async def answer(number: int, command: str) -> tuple[int, bytes]:
        home = tmp_path / f"{number}"
        home.mkdir()
        done = await client(Ask(server, home, command, **asked[command][0]))
        assert done.status == asked[command][1], (command, done)
        return done.status, done.stdout

    async with server_for(engine) as server:
        answers = await asyncio.gather(*(answer(number, command) for number, command in enumerate(asked)))
        assert dict(zip(asked, answers, strict=True)) == {command: wanted[1:] for command, wanted in asked.items()}
        assert complaints(server) == []


async def test_sizes_arrive_before_the_shell_and_while_output_flows(engine: Engine) -> None:
    def work(port: int) -> tuple[list[str], int]:
        with paramiko.SSHClient() as client:
            client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
            client.connect("127.0.0.1", port, USER, PASSWORD, allow_agent=False, look_for_keys=False)
            transport = client.get_transport()
            assert transport is not None
            channel = transport.open_session()
            channel.settimeout(LIMIT)
            channel.get_pty("xterm", 80, 24)
            # Others have hung here: the program is not there yet.
            channel.resize_pty(101, 31)
            lasting = "n=0; while [ $n -lt 20 ]; do sleep 0.1; n=$((n+1)); done"
            channel.exec_command(f"trap 'stty size' WINCH; stty size; yes & {lasting}; kill %1; exit 5")
            sizes, rest, seen = [], b"", 0
            while data := channel.recv(65536):
                *lines, rest = (rest + data).split(b"\r\n")
                sizes += [line.decode() for line in lines if line.strip() not in (b"y", b"")]
                if seen < len(sizes) < 4:
                    seen = len(sizes)
                    channel.resize_pty(101 + seen, 31 + seen)
            return sizes, channel.recv_exit_status()

    async with server_for(engine) as server:
        sizes, status = await asyncio.to_thread(work, server.port)
        assert (sizes[:4], status) == (["31 101", "32 102", "33 103", "34 104"], 5)
        assert complaints(server) == []
