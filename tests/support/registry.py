"""A private image registry (Debian's docker-registry) on loopback, where Docker and skopeo accept plain HTTP."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import bcrypt

from tests.support.server import free_port
from tests.support.services import wait_until
from tests.support.tools import tool

START_LIMIT = 30.0


@dataclass(frozen=True)
class Registry:
    """A registry that answers to one user only."""

    address: str
    """Host and port: what an image name begins with."""
    username: str
    password: str


HARD_PASSWORD = 'a password: with "signs" and ü'


@contextmanager
def running_registry(folder: Path, *, password: str = HARD_PASSWORD, port: int = 0) -> Iterator[Registry]:
    """
    A registry with its images below *folder*, ended with the scope; by itself on a free port. With an empty *password*
    it asks for none.
    """
    registry = Registry(f"127.0.0.1:{port or free_port()}", "puller", password)
    hashed = bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()
    (folder / "htpasswd").write_text(f"{registry.username}:{hashed}\n")
    auth = f"auth: {{htpasswd: {{realm: tests, path: {folder}/htpasswd}}}}" if password else ""
    (folder / "config.yml").write_text(
        f"""\
version: 0.1
log: {{level: warn}}
storage: {{filesystem: {{rootdirectory: {folder}/images}}}}
http: {{addr: {registry.address}}}
{auth}
"""
    )
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [tool("docker-registry"), "serve", str(folder / "config.yml")],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        wait_until(
            lambda: _listens(registry.address) or process.poll() is not None,
            within=START_LIMIT,
            what="docker-registry",
        )
        if process.poll() is not None:
            raise ChildProcessError(f"docker-registry ended: {log.read_text(errors='replace')[-2000:]}")
        yield registry
    finally:
        process.kill()
        process.wait()


def _listens(address: str) -> bool:
    host, _, port = address.partition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0
