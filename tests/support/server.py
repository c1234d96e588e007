"""The whole product as its users meet it: ``containerssh --config FILE`` in a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.services import wait_until

LIMIT = 40.0


@dataclass(eq=False)
class Server:
    """A started server; its files are in *folder*."""

    folder: Path
    port: int
    environment: Mapping[str, str]
    prefix: Sequence[str] = ()
    """A program that becomes the server, with its arguments: ``prlimit`` for instance."""
    arguments: Sequence[str] = ()
    """What follows on its command line."""
    process: asyncio.subprocess.Process = field(init=False)
    log_file: Path = field(init=False)

    @property
    def log(self) -> list[dict[str, Any]]:
        """What it has logged so far."""
        text = self.log_file.read_text() if self.log_file.exists() else ""
        # The last line may still be on its way.
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def logged(self, code: str) -> list[dict[str, Any]]:
        return [line for line in self.log if line["code"] == code]

    async def told(self, code: str, count: int = 1) -> list[dict[str, Any]]:
        """The lines with *code*, once there are *count*: a thread writes them, maybe after a client has its answer."""
        await self.until(lambda: len(self.logged(code)) >= count, f"{code} is logged")
        return self.logged(code)

    async def start(self) -> None:
        """Start the process; returns when its port listens."""
        self.process = await asyncio.create_subprocess_exec(
            *self.prefix,
            sys.executable,
            *("-m", "containerssh", "--config", str(self.folder / "config.yaml"), *self.arguments),
            stdin=asyncio.subprocess.DEVNULL,
            env={**os.environ, **self.environment},
            start_new_session=True,
        )
        await self.until(self._listening, "it listens")

    async def stop(self) -> int:
        """SIGTERM, and the exit status."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(LIMIT):
            return await self.process.wait()

    async def kill(self) -> None:
        """SIGKILL to the server and whatever processes it started, as a power cut would."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        await self.process.wait()

    async def until(self, condition: Callable[[], bool], what: str, limit: float = LIMIT) -> None:
        """Wait for *condition*."""
        await asyncio.to_thread(wait_until, condition, within=limit, what=what)

    def _listening(self) -> bool:
        assert self.process.returncode is None, (self.process.returncode, self.log[-5:])
        return bool(self.logged("SSH_AVAILABLE"))


def free_port() -> int:
    """
    A loopback port that nobody listens on at this moment. It is none of those that the kernel gives to outgoing
    connections, and to who binds port 0: one of them could take it before it is used.
    """
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    candidates = range(max(1024, lowest - 20_000), lowest) or range(1024, 65536)
    while True:
        with socket.socket() as probe, suppress(OSError):
            # Not the module random: tests that run beside this one may have the same seed.
            probe.bind(("127.0.0.1", secrets.choice(candidates)))
            return int(probe.getsockname()[1])


@asynccontextmanager
async def serving(
    config: Mapping[str, Any],
    users: Mapping[str, Any] | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    prefix: Sequence[str] = (),
    arguments: Sequence[str] = (),
) -> AsyncIterator[Server]:
    """
    A server with *config* over sensible defaults for a test, and *users* as its users file; *environment* comes on top
    of ours, *prefix* before its command line, *arguments* after it.

    Its state and its sockets lie in a folder of its own, so that it neither sees nor removes what others run.
    """
    with tempfile.TemporaryDirectory(prefix="cs-", dir="/tmp") as name:
        folder = Path(name)
        server = Server(folder, free_port(), {"STATE_DIRECTORY": str(folder / "state"), **(environment or {})}, prefix)
        server.arguments = arguments
        if users is not None:
            write_users(server, users)
        settings = _config(server, config)
        server.log_file = Path(settings["log"]["file"])
        (folder / "config.yaml").write_text(json.dumps(settings))
        await server.start()
        try:
            yield server
        finally:
            with suppress(TimeoutError):
                await server.stop()
            await server.kill()


def write_users(server: Server, users: Mapping[str, Any]) -> None:
    """Replace the users file, whole."""
    path = server.folder / "users.yaml"
    path.with_suffix(".new").write_text(json.dumps({"users": users}))
    path.with_suffix(".new").chmod(0o600)
    path.with_suffix(".new").rename(path)


def _config(server: Server, config: Mapping[str, Any]) -> dict[str, Any]:
    base: dict[str, Any] = {
        "ssh": {"listen": f"127.0.0.1:{server.port}"},
        "log": {"level": "debug", "destination": "file", "file": str(server.folder / "server.log")},
        "auth": {
            "password": {"method": "users"},
            "publicKey": {"method": "users"},
            "users": {"file": str(server.folder / "users.yaml")},
        },
    }
    return {**base, **config, "ssh": {**base["ssh"], **config.get("ssh", {})}}
