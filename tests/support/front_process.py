"""The SSH front with the local backend in a process of its own, so that its memory can be measured.

Run as ``python -m tests.support.front_process``: prints its port, and serves until its standard input ends. A password
check of the user ``slow`` never comes to an end.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from containerssh.core.metadata import AuthAttempt

ROOT = Path(__file__).parents[2]


@dataclass
class FrontProcess:
    """A front that runs elsewhere."""

    port: int
    pid: int

    @property
    def memory(self) -> int:
        """Its resident memory, in bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) * 1024


@asynccontextmanager
async def front_process() -> AsyncIterator[FrontProcess]:
    """Start one, and end it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.support.front_process"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'src'}", "PATH": "/usr/bin:/bin"},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            yield FrontProcess(int(await process.stdout.readline()), process.pid)
    finally:
        process.stdin.close()
        try:
            async with asyncio.timeout(10):
                await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def _serve() -> None:
    from containerssh.ssh.options import ServerOptions
    from containerssh.ssh.server import SSHServer
    from tests.support.local_backend import LocalBackend
    from tests.support.ssh_front import host_key

    async def never(attempt: AuthAttempt, _: object) -> None:
        if attempt.username == "slow":
            await asyncio.Event().wait()

    options = ServerOptions(host_keys=[host_key("ssh-ed25519")], host="127.0.0.1", port=0)
    async with SSHServer(LocalBackend(on_auth=never), options).serving() as server:
        print(server.port, flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_serve())
