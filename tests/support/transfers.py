"""Transfers that are too large to be held, known by their digests."""

from __future__ import annotations

import asyncio
import hashlib
from functools import cache

from tests.support.openssh import OpenSSH
from tests.support.server import Server

MUCH = 128 * 1024 * 1024
_LIMIT = 120.0
_PIECE = 1024 * 1024


@cache
def digest_of_much() -> str:
    """The SHA-256 of what :func:`digest_over_ssh` lets a container write."""
    digest = hashlib.sha256()
    left, number = MUCH, 1
    while left:
        piece = "".join(f"{one}\n" for one in range(number, number + 100_000)).encode()[:left]
        number += 100_000
        left -= len(piece)
        digest.update(piece)
    return digest.hexdigest()


async def digest_over_ssh(openssh: OpenSSH, server: Server, *options: str) -> tuple[int, str]:
    """Let a program in a new container write :data:`MUCH` bytes and end; how many arrived, and their SHA-256."""
    client = await asyncio.create_subprocess_exec(
        *openssh.command(server, *options),
        f"seq 1 100000000 | head -c {MUCH}",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        env=openssh.environment(),
        limit=_PIECE,
    )
    assert client.stdout is not None
    digest, count = hashlib.sha256(), 0
    try:
        async with asyncio.timeout(_LIMIT):
            while piece := await client.stdout.read(_PIECE):
                digest.update(piece)
                count += len(piece)
            assert await client.wait() == 0
    finally:
        if client.returncode is None:
            client.kill()
            await client.wait()
    return count, digest.hexdigest()
