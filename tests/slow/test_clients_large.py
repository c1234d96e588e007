"""Much data in one piece, by the clients that send and fetch it."""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.clients import Peak
from tests.support.oci import image
from tests.support.openssh import Done, OpenSSH, run, ssh_options
from tests.support.services import Engine
from tests.support.shared_folder import PASSWORD, complaints, sharing, shell_of
from tests.support.tools import tool
from tests.support.vitals import Watched, watched

pytestmark = [pytest.mark.root, pytest.mark.docker, pytest.mark.oci, pytest.mark.timeout(240)]

LIMIT = 150.0
MIB = 1 << 20
GIB = 1024 * MIB
BLOCK = secrets.token_bytes(MIB)


@asynccontextmanager
async def memory_watched(where: Engine | None) -> AsyncIterator[Watched]:
    backend: dict[str, Any] = {"backend": "oci", "oci": {"image": str(image()), "network": "none"}}
    if where is not None:
        execution = {"container": {"image": "bb:latest"}, "host": {"NetworkMode": "none"}, "shellCommand": ["/bin/sh"]}
        backend = {"backend": "docker", "docker": {"connection": {"host": where.address}, "execution": execution}}
    async with watched(backend, {"alice": PASSWORD}) as server:
        yield server


async def through(openssh: OpenSSH, server: Watched, command: str, *options: str) -> tuple[int, bool, bytes]:
    """
    Send a GiB of noise to *command*, in pieces that all differ, then the end of the input.

    What came back: its size, whether it was the same, and the standard error.
    """
    pipe = asyncio.subprocess.PIPE
    client = await asyncio.create_subprocess_exec(
        *openssh.command(server, *options),
        command,
        env=openssh.environment(),
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        limit=MIB,
    )
    assert client.stdin is not None
    assert client.stdout is not None
    assert client.stderr is not None
    sent, received, count = hashlib.sha256(), hashlib.sha256(), 0

    async def send(stdin: asyncio.StreamWriter) -> None:
        for number in range(GIB // MIB):
            piece = number.to_bytes(4, "big") + BLOCK[4:]
            sent.update(piece)
            stdin.write(piece)
            await stdin.drain()
        stdin.close()

    sending = asyncio.create_task(send(client.stdin))
    try:
        async with asyncio.timeout(LIMIT):
            while piece := await client.stdout.read(MIB):
                received.update(piece)
                count += len(piece)
            await sending
            complained = await client.stderr.read()
            assert await client.wait() == 0, complained
    finally:
        sending.cancel()
        if client.returncode is None:
            client.kill()
            await client.wait()
    return count, sent.digest() == received.digest(), complained


async def test_a_gib_of_input_comes_back_whole_and_leaves_no_memory_behind(engine: Engine, openssh: OpenSSH) -> None:
    async with memory_watched(engine) as server:
        (await openssh.run(server, "true")).check()
        async with Peak(server) as peak:
            assert await through(openssh, server, "cat; echo E >&2") == (GIB, True, b"E\n")
        assert peak.growth < 64 * MIB, f"{peak.growth / MIB:.1f} MiB more"
        assert complaints(server.server) == []


async def test_a_gib_each_way_with_new_keys_every_64_mib_and_a_client_that_would_compress(openssh: OpenSSH) -> None:
    options = ssh_options("RekeyLimit=64M", "Compression=yes", "LogLevel=DEBUG1")
    async with memory_watched(None) as server:
        (await openssh.run(server, "true")).check()
        async with Peak(server) as peak:
            count, same, told = await through(openssh, server, "cat", *options)
        assert (count, same) == (GIB, True)
        assert peak.growth < 64 * MIB, f"{peak.growth / MIB:.1f} MiB more"
        assert told.count(b"debug1: rekeying in progress") + told.count(b"SSH2_MSG_NEWKEYS received") >= 16
        assert complaints(server.server) == []


async def test_git_pushes_and_clones_a_pack_of_200_mib(engine: Engine, openssh: OpenSSH, tmp_path: Path) -> None:
    data, work, clone = tmp_path / "data", tmp_path / "work", tmp_path / "clone"

    def make() -> None:
        work.mkdir()
        for number in range(20):
            (work / f"part {number}").write_bytes(os.urandom(10 * MIB))

    await asyncio.to_thread(make)

    async def git(*words: str | Path) -> bytes:
        who = {f"GIT_{role}_{what}": "a@b" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        env = {**openssh.environment(), **who, "GIT_CONFIG_NOSYSTEM": "1"}
        # Nothing can be won by compressing noise.
        done: Done = await run(tool("git"), "-c", "core.compression=0", *words, env=env, limit=LIMIT)
        return done.check().stdout

    async def objects(folder: Path) -> list[bytes]:
        return sorted((await git("-C", folder, "cat-file", "--batch-all-objects", "--batch-check")).splitlines())

    await git("-C", work, "init", "-q")
    await git("-C", work, "add", ".")
    await git("-C", work, "commit", "-q", "-m", "one")
    async with sharing(engine, data, "tools") as server:
        ssh = ("-c", f"core.sshCommand={shell_of(openssh, server)}")
        # Otherwise a push of few objects is unpacked.
        packing = "git -C /data/it.git config receive.unpackLimit 1"
        (await openssh.run(server, f"git init -q --bare /data/it.git && {packing}")).check()
        address = "ssh://alice@127.0.0.1/data/it.git"
        await git("-C", work, *ssh, "push", "-q", address, "HEAD:refs/heads/main")
        packed = [path.stat().st_size for path in data.glob("it.git/objects/pack/*.pack")]
        assert sum(packed) > 200 * MIB
        await git(*ssh, "clone", "-q", "-b", "main", address, clone)
        assert complaints(server) == []
    assert await objects(clone) == await objects(work)
    assert await git("-C", clone, "status", "--porcelain") == b""
