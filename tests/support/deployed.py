"""What deploy/ makes: images built once in a run, and clients for servers on other addresses than 127.0.0.1."""

from __future__ import annotations

import asyncio
import atexit
import shutil
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.support.openssh import Done, OpenSSH, run
from tests.support.tools import tool

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
VERSION = str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])
SERVER_IMAGE = f"localhost/containerssh:{VERSION}"
AGENT_IMAGE = f"localhost/containerssh-agent:{VERSION}"


@cache
def image_file(kind: str) -> Path:
    """The archive of the image *kind* (``server``, ``agent``), built from this checkout."""
    folder = Path(tempfile.mkdtemp(prefix="cs-image-", dir="/var/tmp"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    file = folder / f"{kind}.tar"
    tool("uv")
    done = subprocess.run(
        [sys.executable, DEPLOY / "image/build", kind, file], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return file


@dataclass(frozen=True)
class Place:
    """Where a server listens."""

    host: str
    port: int = 2222


class Client(OpenSSH):
    """``ssh`` to servers anywhere."""

    def at(self, place: Place) -> list[str]:
        return [*self.command(place)[:-1], f"{self.user}@{place.host}"]

    async def log_in(self, place: Place, command: str, limit: float = 40) -> Done:
        """Log in at *place* and run *command*."""
        return await run(*self.at(place), command, env=self.environment(), limit=limit)

    async def stay(self, place: Place, command: str) -> asyncio.subprocess.Process:
        """The same, with output to a pipe; the caller ends it."""
        return await asyncio.create_subprocess_exec(
            *self.at(place),
            command,
            env=self.environment(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
