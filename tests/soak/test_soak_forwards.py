"""Fifty forwards at once, all of them busy in both directions."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from containerssh.auth.hashes import hash_password
from tests.soak.scale import scaled
from tests.support import server as product
from tests.support.forwarding import echo, listening
from tests.support.oci import image, needs_root
from tests.support.openssh import OpenSSH, ssh_options

pytestmark = [needs_root, pytest.mark.root, pytest.mark.oci, pytest.mark.timeout(3600)]

MODES = ("forwardingMode", "reverseForwardingMode", "socketForwardingMode", "socketListenMode")
CONFIG: dict[str, Any] = {
    "backend": "oci",
    "oci": {"image": str(image())},
    "security": {"forwarding": dict.fromkeys(MODES, "enable")},
}
USERS = {"alice": {"password": hash_password("secret")}}
FORWARDS = 50
PIECE = 1024 * 1024
LIMIT = 3000.0


async def send_and_compare(path: Path, number: int, pieces: int) -> tuple[int, bool]:
    """Send so many pieces that no other connection sends, then the end; how much came back, and whether it was that."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    sent, received = hashlib.sha256(), hashlib.sha256()
    block = os.urandom(PIECE - 8)
    count = 0

    async def send() -> None:
        for index in range(pieces):
            piece = number.to_bytes(4, "big") + index.to_bytes(4, "big") + block
            sent.update(piece)
            writer.write(piece)
            await writer.drain()
        writer.write_eof()

    sending = asyncio.create_task(send())
    try:
        while data := await reader.read(PIECE):
            received.update(data)
            count += len(data)
        await sending
    finally:
        sending.cancel()
        writer.close()
    return count, sent.digest() == received.digest()


async def test_fifty_forwards_of_100_mib_each_at_once_carry_every_byte(tmp_path: Path) -> None:
    openssh = OpenSSH(tmp_path)
    local, pieces = openssh.folder / "local", scaled(100)
    async with product.serving(CONFIG, USERS) as server, listening(echo) as here:
        # Into the container, to a socket there that leads back to the client: a hundred channels.
        options = ("-L", f"{local}:/tmp/inside", "-R", f"/tmp/inside:127.0.0.1:{here}")
        client = await asyncio.create_subprocess_exec(
            *openssh.command(server, *options, *ssh_options("ExitOnForwardFailure=yes")),
            "echo ready; cat",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=openssh.environment(),
        )
        assert client.stdin is not None
        assert client.stdout is not None
        try:
            async with asyncio.timeout(LIMIT):
                assert await client.stdout.readline() == b"ready\n"
                talks = (send_and_compare(local, number, pieces) for number in range(FORWARDS))
                assert await asyncio.gather(*talks) == [(pieces * PIECE, True)] * FORWARDS
                client.stdin.close()
                assert await client.wait() == 0
        finally:
            if client.returncode is None:
                client.kill()
                await client.wait()
        assert not [line for line in server.log if line["level"] == "error"]
