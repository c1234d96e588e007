"""``containerssh demo``: a server with one user, and a login with the real ``ssh``, in one command."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

START_LIMIT = 60.0
"""Seconds that the server may take to listen, and the login to answer."""

QUESTION = 'echo "host name  $(hostname)"; echo "user       $(id)"; echo "kernel     $(uname -sr)"; ps'


class DemoError(Exception):
    """The demo cannot go on; the text tells why and what would help."""


@dataclass(frozen=True)
class Demo:
    """What was asked for on the command line."""

    backend: str = "oci"
    image: str = ""
    port: int = 0
    once: bool = False

    async def run(self) -> int:
        """Run it to its end; the exit status."""
        stay = sys.stdin.isatty() and not self.once
        try:
            with _folder() as folder:
                demo = await _Prepared.make(self, folder)
                print(f"Configuration  {folder}/config.yaml")
                async with demo.server():
                    print(f"Server         127.0.0.1:{demo.port}, backend {self.backend}")
                    status = await demo.log_in()
                    print("\nTry it by hand:\n\n    " + shlex.join(demo.ssh("alice@127.0.0.1")))
                    print(f"\nor with the password {demo.password} from any SSH client, user alice, port {demo.port}.")
                    if stay:
                        print("Ctrl-C ends the demo and removes what it made.")
                        await _interrupt()
                    else:
                        print("(Run it on a terminal, without --once, and the server stays up for that.)")
            return status
        except DemoError as exc:
            print(f"containerssh demo: {exc}", file=sys.stderr)
            return 1


@dataclass(frozen=True)
class _Prepared:
    """Files written, port chosen: ready to start."""

    folder: Path
    port: int
    password: str

    @classmethod
    async def make(cls, demo: Demo, folder: Path) -> _Prepared:
        for tool, package in (("ssh", "openssh-client"), ("ssh-keygen", "openssh-client")):
            if shutil.which(tool) is None:
                raise DemoError(f"{tool} is missing; install it with: apt-get install {package}")
        port = demo.port or _free_port()
        password = secrets.token_urlsafe(9)
        await _call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "demo", "-f", str(folder / "id_ed25519"))
        from containerssh.auth.hashes import hash_password

        users = {
            "users": {
                "alice": {
                    "password": hash_password(password),
                    "authorizedKeys": [(folder / "id_ed25519.pub").read_text().strip()],
                }
            }
        }
        # JSON is YAML too, and needs no writer of its own.
        _write(folder / "users.yaml", users)
        _write(folder / "config.yaml", _config(demo, folder, port))
        return cls(folder, port, password)

    def ssh(self, *rest: str) -> list[str]:
        """The ssh command line that trusts this server only."""
        options = [
            "-i", f"{self.folder}/id_ed25519",
            "-o", f"UserKnownHostsFile={self.folder}/known_hosts",
            "-o", "StrictHostKeyChecking=accept-new",
        ]  # fmt: skip
        return ["ssh", "-p", str(self.port), *options, *rest]

    @asynccontextmanager
    async def server(self) -> AsyncIterator[None]:
        """The real server as a process of its own, ended with SIGTERM."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "containerssh", "--config", str(self.folder / "config.yaml"),
            stdin=asyncio.subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            await self._listening(process)
            yield
        finally:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            await process.wait()

    async def log_in(self) -> int:
        command = self.ssh("-F", "none", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR", "alice@127.0.0.1", QUESTION)
        print(f"\n$ ssh -p {self.port} alice@127.0.0.1 {shlex.quote(QUESTION)}", flush=True)
        began = time.monotonic()
        try:
            status = await asyncio.wait_for(_status(command), START_LIMIT)
        except TimeoutError:
            raise DemoError(f"no answer within {START_LIMIT:g} s\n{self._log()}") from None
        if status:
            raise DemoError(f"ssh ended with status {status}\n{self._log()}")
        print(f"\nLogged in, answered and gone in {time.monotonic() - began:.2f} s; the container is removed.")
        return status

    async def _listening(self, process: asyncio.subprocess.Process) -> None:
        deadline = time.monotonic() + START_LIMIT
        while time.monotonic() < deadline:
            if process.returncode is not None:
                raise DemoError(f"the server ended with status {process.returncode}\n{self._log()}")
            with socket.socket() as probe:
                probe.setblocking(False)
                try:
                    await asyncio.get_running_loop().sock_connect(probe, ("127.0.0.1", self.port))
                    return
                except ConnectionRefusedError:
                    await asyncio.sleep(0.05)
        raise DemoError(f"the server did not listen within {START_LIMIT:g} s\n{self._log()}")

    def _log(self) -> str:
        with suppress(OSError):
            return (self.folder / "server.log").read_text(errors="replace")[-4000:]
        return ""


def _config(demo: Demo, folder: Path, port: int) -> dict[str, object]:
    config: dict[str, object] = {
        "ssh": {"listen": f"127.0.0.1:{port}", "hostKeyDirectory": str(folder / "hostkeys")},
        "auth": {
            "password": {"method": "users"},
            "publicKey": {"method": "users"},
            "users": {"file": str(folder / "users.yaml")},
        },
        "log": {"level": "info", "format": "text", "destination": "file", "file": str(folder / "server.log")},
        "backend": demo.backend,
    }
    if demo.backend in ("oci", "auto"):
        config["oci"] = {"image": demo.image or _busybox()}
    if demo.backend in ("docker", "auto"):
        container = {"image": demo.image or _imported(_busybox())}
        config["docker"] = {"execution": {"container": container, "shellCommand": ["/bin/sh"]}}
    return config


def _busybox() -> str:
    from containerssh.backends.oci.demo import demo_image
    from containerssh.core.errors import ContainerSSHError
    from containerssh.core.instance import default_state_folder, make_private

    state = default_state_folder()
    try:
        make_private(state)
        return str(demo_image(state))
    except (ContainerSSHError, OSError) as exc:
        raise DemoError(str(exc)) from exc


def _imported(rootfs: str) -> str:
    """The same image for the engine, as its own command line client brings it there."""
    name = "containerssh-demo:latest"
    if shutil.which("docker") is None:
        raise DemoError("without the docker command the demo cannot make an image; name one with --image")
    made = subprocess.run(
        ["sh", "-c", 'tar -C "$1" -c . | docker import --change \'CMD ["/bin/sh"]\' - "$2"', "sh", rootfs, name],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if made.returncode:
        raise DemoError(f"the engine did not take the demo's image: {made.stderr.strip()}")
    return name


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


async def _interrupt() -> None:
    done = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, done.set)
    await done.wait()
