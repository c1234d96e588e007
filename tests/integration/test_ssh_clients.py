"""Other clients than OpenSSH, and every algorithm that is offered."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import asyncssh
import paramiko
import pytest

from containerssh.core.codes import SSHCode
from containerssh.ssh.algorithms import DEFAULTS, Kind
from tests.support.openssh import Done, OpenSSH, run, ssh_options
from tests.support.ssh_front import Front, host_key, serving
from tests.support.tools import tool

KINDS = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa")


async def dbclient(server: Front, home: Path, command: str, stdin: bytes = b"") -> Done:
    env = {"DROPBEAR_PASSWORD": "secret", "HOME": str(home)}
    return await run(
        tool("dbclient"), "-y", "-y", "-p", str(server.port), "alice@127.0.0.1", command, stdin=stdin, env=env
    )


@pytest.mark.parametrize("kinds", [*((kind,) for kind in KINDS), KINDS, KINDS[::-1]], ids="+".join)
async def test_dropbears_guess_works_with_every_host_key(tmp_path: Path, kinds: tuple[str, ...]) -> None:
    async with serving(host_keys=[host_key(kind) for kind in kinds]) as server:
        done = await dbclient(server, tmp_path, "cat; exit 7", stdin=b"data\n")
    assert (done.status, done.stdout) == (7, b"data\n"), done


async def plink(server: Front, home: Path, *words: str, stdin: bytes = b"") -> Done:
    key = asyncssh.import_private_key(host_key("ssh-ed25519")).get_fingerprint()
    argv = [tool("plink"), "-batch", "-P", str(server.port), "-hostkey", key, "-pw", "secret", "alice@127.0.0.1"]
    return await run(*argv, *words, stdin=stdin, env={"HOME": str(home)})


async def test_plink_gets_streams_and_status(tmp_path: Path) -> None:
    async with serving() as server:
        done = await plink(server, tmp_path, "echo out; echo err >&2; exit 5")
        data = os.urandom(300_000)
        assert (await plink(server, tmp_path, "cat", stdin=data)).stdout == data
    assert (done.status, done.stdout, done.stderr.splitlines()[-1]) == (5, b"out\n", b"err")


async def test_paramiko_runs_commands_on_one_connection() -> None:
    def session(port: int) -> list[tuple[bytes, int]]:
        with paramiko.SSHClient() as client:
            client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
            client.connect("127.0.0.1", port, "alice", "secret", allow_agent=False, look_for_keys=False)
            results = []
            for number in range(3):
                _, stdout, _ = client.exec_command(f"echo {number}; exit {number}")
                results.append((stdout.read(), stdout.channel.recv_exit_status()))
            return results

    async with serving() as server:
        results = await asyncio.to_thread(session, server.port)
    assert results == [(b"0\n", 0), (b"1\n", 1), (b"2\n", 2)]


async def test_asyncssh_sees_streams_status_and_signal() -> None:
    async with (
        serving() as server,
        asyncssh.connect("127.0.0.1", server.port, username="alice", password="secret", known_hosts=None) as client,
    ):
        done = await client.run("echo o; echo e >&2; exit 4")
        assert (done.stdout, done.stderr, done.exit_status) == ("o\n", "e\n", 4)
        killed = await client.run("kill -TERM $$")
        assert killed.exit_signal is not None
        assert killed.exit_signal[0] == "TERM"


@pytest.mark.parametrize("cipher", DEFAULTS[Kind.CIPHERS])
async def test_every_default_cipher_works(openssh: OpenSSH, cipher: str) -> None:
    data = os.urandom(200_000)
    async with serving() as server:
        done = await openssh.run(server, "cat", *ssh_options(f"Ciphers={cipher}"), stdin=data)
    assert done.check().stdout == data


@pytest.mark.parametrize("mac", DEFAULTS[Kind.MACS])
async def test_every_default_mac_works(openssh: OpenSSH, mac: str) -> None:
    async with serving() as server:
        done = await openssh.run(server, "echo ok", *ssh_options(f"MACs={mac}", "Ciphers=aes128-ctr"))
    assert done.check().stdout == b"ok\n"


@pytest.mark.parametrize("kex", [name for name in DEFAULTS[Kind.KEX] if not name.startswith("mlkem")])
async def test_every_default_key_exchange_works(openssh: OpenSSH, kex: str) -> None:
    async with serving() as server:
        done = await openssh.run(server, "echo ok", *ssh_options(f"KexAlgorithms={kex}"))
    assert done.check().stdout == b"ok\n"


async def test_the_post_quantum_key_exchange_works() -> None:
    """With asyncssh, since OpenSSH has it from 9.9 on."""
    async with (
        serving() as server,
        asyncssh.connect(
            "127.0.0.1",
            server.port,
            username="alice",
            password="secret",
            known_hosts=None,
            kex_algs=["mlkem768x25519-sha256"],
        ) as client,
    ):
        assert (await client.run("echo ok")).stdout == "ok\n"


async def test_the_post_quantum_key_exchange_works_with_paramiko() -> None:
    def echoed(port: int) -> bytes:
        wanted = "mlkem768x25519-sha256"
        preferred: Any = vars(paramiko.Transport)["_preferred_kex"]
        assert preferred[0] == wanted, "it is what paramiko uses by itself"
        with paramiko.SSHClient() as client:
            client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
            login: dict[str, Any] = {"allow_agent": False, "look_for_keys": False}
            client.connect("127.0.0.1", port, "alice", "secret", disabled_algorithms={"kex": preferred[1:]}, **login)
            return client.exec_command("echo ok")[1].read()

    async with serving() as server:
        assert await asyncio.to_thread(echoed, server.port) == b"ok\n"


@pytest.mark.filterwarnings("ignore:Diffie-Hellman over finite fields")
async def test_weak_algorithms_are_offered_when_asked_for_by_name(openssh: OpenSSH) -> None:
    weak: dict[str, Any] = {
        "kex": ["diffie-hellman-group14-sha1"],
        "ciphers": ["aes128-cbc"],
        "macs": ["hmac-sha1"],
    }
    options = ssh_options("KexAlgorithms=diffie-hellman-group14-sha1", "Ciphers=aes128-cbc", "MACs=hmac-sha1")
    data = os.urandom(100_000)
    async with serving(**weak) as server:
        assert (await openssh.run(server, "cat", *options, stdin=data)).check().stdout == data
    async with serving() as server:
        refused = await openssh.run(server, "true", *options)
    assert refused.status == 255
    assert "No matching key exchange" in server.log.of(SSHCode.HANDSHAKE_FAILED)[0][1]["reason"]


async def test_compression_is_not_offered_and_strict_key_exchange_is(openssh: OpenSSH) -> None:
    async with serving() as server:
        done = await openssh.run(server, "true", "-vv", "-o", "Compression=yes")
    log = done.stderr.decode()
    peer = log.split("peer server KEXINIT proposal")[1].split("algorithm: ")[0]
    assert "kex-strict-s-v00@openssh.com" in peer
    assert "compression ctos: none" in peer
    assert "sha1" not in peer
    assert "cbc" not in peer
    assert "diffie-hellman" not in peer


async def test_banner_and_version_are_shown(openssh: OpenSSH) -> None:
    async with serving(banner="Welcome, stranger.\n", server_version="SSH-2.0-Test_1 mine") as server:
        done = await openssh.run(server, "true", *ssh_options("LogLevel=DEBUG1"))
    assert b"Welcome, stranger." in done.stderr
    assert b"Test_1 mine" in done.stderr
