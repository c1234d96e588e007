"""What a client's desktop has: an ssh-agent and an X server."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.agent import until
from tests.support.openssh import OpenSSH, run
from tests.support.tools import tool

LIMIT = 30.0
COOKIE = "0123456789abcdef0123456789abcdef"


@asynccontextmanager
async def ssh_agent(openssh: OpenSSH) -> AsyncIterator[tuple[Path, Path]]:
    """The user's agent with one key: its socket and the private key."""
    socket = openssh.folder / "their-agent"
    process = await asyncio.create_subprocess_exec(
        tool("ssh-agent"), "-D", "-a", str(socket), stdout=asyncio.subprocess.DEVNULL
    )
    try:
        await until(socket.exists, "the agent listens")
        key = await openssh.make_key()
        (await run(tool("ssh-add"), "-q", key, env={"SSH_AUTH_SOCK": str(socket)})).check()
        yield socket, key
    finally:
        process.send_signal(signal.SIGTERM)
        await process.wait()


@asynccontextmanager
async def display(folder: Path) -> AsyncIterator[dict[str, str]]:
    """A real X server without a screen; the variables for its programs."""
    authority = folder / "authority"
    (await run(tool("xauth"), "-q", "-f", authority, "add", ":0", ".", COOKIE[::-1])).check()
    reader, writer = os.pipe()
    argv = [tool("Xvfb"), "-displayfd", str(writer), "-auth", str(authority), "-nolisten", "tcp", "-noreset"]
    quiet = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(*argv, pass_fds=(writer,), stdout=quiet, stderr=quiet)
    os.close(writer)
    try:
        async with asyncio.timeout(LIMIT):
            number = (await asyncio.to_thread(os.read, reader, 16)).decode().strip()
        (await run(tool("xauth"), "-q", "-f", authority, "add", f":{number}", ".", COOKIE[::-1])).check()
        yield {"DISPLAY": f":{number}", "XAUTHORITY": str(authority)}
    finally:
        os.close(reader)
        process.terminate()
        await process.wait()
