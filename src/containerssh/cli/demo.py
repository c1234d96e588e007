"""``containerssh demo``: starts a server with one user and logs in with the real ``ssh``, in one command."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shlex
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from containerssh.auth.hashes import hash_password
from containerssh.backends.oci.demo import demo_archive, demo_image
from containerssh.backends.registry import Backends, DockerLogins
from containerssh.config.app import AppConfig
from containerssh.core.codes import BackendCode, SSHCode
from containerssh.core.errors import ContainerSSHError, describe
from containerssh.core.instance import default_state_folder, make_private, open_instance

START_LIMIT = 60.0
"""The time limit in seconds for the server to listen, and for the login."""

_LOG_PATIENCE = 40
_HARMLESS = ("debug", "info", "notice", "warning")

EXIT_INTERRUPTED = 130
"""The exit status that shells report for a command ended by Ctrl-C."""

ENGINE_IMAGE = "containerssh-demo:latest"

QUESTION = 'echo "host name  $(hostname)"; echo "user       $(id)"; echo "kernel     $(uname -sr)"; ps'


class DemoError(Exception):
    """The demo failed; the text explains the reason and a remedy."""


@dataclass(frozen=True)
class Demo:
    """The options of the command line."""

    backend: str = "oci"
    image: str = ""
    port: int = 0
    once: bool = False
    stay: bool = False

    async def run(self) -> int:
        """Run the demo; return the exit status."""
        stay = self.stay or (sys.stdin.isatty() and not self.once)
        staying = False
        _cancel_when_interrupted()
        try:
            with _folder() as folder:
                demo = await _Prepared.make(self, folder)
                print(f"Configuration  {folder}/config.yaml")
                async with demo.server() as what:
                    print(f"Server         127.0.0.1:{demo.port}, {what}")
                    await demo.log_in()
                    print("\nTry it by hand:\n\n    " + shlex.join(demo.ssh("alice@127.0.0.1")))
                    print(f"\nor with the password {demo.password} from any SSH client, user alice, port {demo.port}.")
                    if stay:
                        print("Ctrl-C ends the demo and removes what it made.", flush=True)
                        staying = True
                        await asyncio.Event().wait()
                    else:
                        print("(The server ends now; on a terminal, or with --stay, it stays up for that.)")
            return 0
        except asyncio.CancelledError:
            return 0 if staying else EXIT_INTERRUPTED
        except (DemoError, ContainerSSHError, OSError) as exc:
            print(f"containerssh demo: {describe(exc)}", file=sys.stderr)
            return 1


@dataclass(frozen=True)
class _Prepared:
    """The prepared files and the port."""

    folder: Path
    backend: str
    port: int
    password: str

    @classmethod
    async def make(cls, demo: Demo, folder: Path) -> _Prepared:
        for tool in ("ssh", "ssh-keygen"):
            if shutil.which(tool) is None:
                raise DemoError(f"{tool} is missing; install it with: apt install openssh-client")
        port = demo.port or _free_port()
        password = secrets.token_urlsafe(9)
        await _call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "demo", "-f", str(folder / "id_ed25519"))
        users = {
            "users": {
                "alice": {
                    "password": hash_password(password),
                    "authorizedKeys": [(folder / "id_ed25519.pub").read_text().strip()],
                }
            }
        }
        # JSON is valid YAML.
        _write(folder / "users.yaml", users)
        _write(folder / "config.yaml", await _config(demo, folder, port))
        return cls(folder, demo.backend, port, password)

    def ssh(self, *rest: str) -> list[str]:
        """The ssh command line, which trusts only this server."""
        options = [
            "-i", f"{self.folder}/id_ed25519",
            "-o", "IdentitiesOnly=yes",
            "-o", f"UserKnownHostsFile={self.folder}/known_hosts",
            "-o", "StrictHostKeyChecking=accept-new",
        ]  # fmt: skip
        return ["ssh", "-p", str(self.port), *options, *rest]

    @asynccontextmanager
    async def server(self) -> AsyncIterator[str]:
        """Run the server as a separate process, ended with SIGTERM; yields a description of its backend."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "containerssh", "--config", str(self.folder / "config.yaml"),
            stdin=asyncio.subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            yield await self._listening(process)
        finally:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            await process.wait()

    async def log_in(self) -> None:
        command = self.ssh("-F", "none", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR", "alice@127.0.0.1", QUESTION)
        print(f"\n$ ssh -p {self.port} alice@127.0.0.1 {shlex.quote(QUESTION)}", flush=True)
        began = time.monotonic()
        try:
            status = await asyncio.wait_for(_status(command), START_LIMIT)
        except TimeoutError:
            raise DemoError(f"no answer within {START_LIMIT:g} s{await self._told()}") from None
        if status:
            raise DemoError(f"ssh ended with status {status}{await self._told()}")
        print(f"\nLogged in, answered and logged out in {time.monotonic() - began:.2f} s; the container is gone.")

    async def _listening(self, process: asyncio.subprocess.Process) -> str:
        deadline = time.monotonic() + START_LIMIT
        while time.monotonic() < deadline:
            ended = process.returncode is not None
            log = self._log()
            if any(line["code"] == SSHCode.AVAILABLE for line in log):
                chosen = (line["message"] for line in log if line["code"] == BackendCode.CHOSEN)
                return next(chosen, f"backend {self.backend}")
            if ended:
                raise DemoError(f"the server ended with status {process.returncode}{await self._told()}")
            await asyncio.sleep(0.05)
        raise DemoError(f"the server did not listen within {START_LIMIT:g} s{await self._told()}")

    def _log(self) -> list[dict[str, Any]]:
        """The complete lines that the server has logged so far."""
        try:
            text = (self.folder / "server.log").read_text()
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    async def _told(self) -> str:
        """The end of the log in a readable form."""
        # A client may see a failure before the server has written its log.
        for _ in range(_LOG_PATIENCE):
            if any(line["level"] not in _HARMLESS for line in self._log()):
                break
            await asyncio.sleep(0.05)
        worth = [line for line in self._log() if line["level"] not in ("debug", "info")] or self._log()
        return "".join(f"\n  {line['level']}: {line['message']}" for line in worth[-10:])


async def _config(demo: Demo, folder: Path, port: int) -> dict[str, Any]:
    config: dict[str, Any] = {
        "ssh": {"listen": f"127.0.0.1:{port}", "hostKeyDirectory": str(folder / "hostkeys")},
        "auth": {
            "password": {"method": "users"},
            "publicKey": {"method": "users"},
            "users": {"file": str(folder / "users.yaml")},
        },
        "log": {"level": "info", "destination": "file", "file": str(folder / "server.log")},
        "backend": demo.backend,
    }
    rootfs = None if demo.image else _busybox()
    if demo.backend in ("oci", "auto"):
        config["oci"] = {"image": demo.image or str(rootfs)}
    if demo.backend in ("docker", "auto"):
        container = {"image": demo.image or ENGINE_IMAGE}
        config["docker"] = {"execution": {"container": container, "shellCommand": ["/bin/sh"]}}
        if rootfs is not None:
            await _bring(rootfs, AppConfig.model_validate(config))
    return config


def _busybox() -> Path:
    state = default_state_folder()
    make_private(state)
    return demo_image(state)


async def _bring(rootfs: Path, config: AppConfig) -> None:
    """Import the image into the engine, if the containers run on one."""
    with open_instance() as instance:
        async with Backends.opened(instance) as backends:
            logins = (await backends.choose(config))[config.backend]
            if isinstance(logins, DockerLogins):
                await logins.backend.import_image(logins.section(config), ENGINE_IMAGE, demo_archive(rootfs))


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="containerssh-demo-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write(path: Path, content: object) -> None:
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(content, file, indent=2)
        file.write("\n")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _call(*command: str) -> None:
    status = await _status(list(command))
    if status:
        raise DemoError(f"{command[0]} ended with status {status}")


async def _status(command: list[str]) -> int:
    process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.DEVNULL)
    try:
        return await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def _cancel_when_interrupted() -> None:
    """Make Ctrl-C, SIGTERM and SIGHUP cancel this task once, so that it cleans up."""
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()

    def cancel() -> None:
        if not task.cancelling():
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, cancel)
