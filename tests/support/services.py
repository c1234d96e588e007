"""Real services beside the tests: a Docker engine with the images they use."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from tests.support.tools import tool

SOCKET = Path("/var/run/docker.sock")
IMAGES = ("bb:latest", "guest:latest")
"""Both hold static busybox with every applet, a root user and ``CMD ["/bin/sh"]``."""
START_LIMIT = 60.0
STOP_LIMIT = 30.0


@dataclass(frozen=True)
class Engine:
    """An engine that speaks Docker's API and answers, :data:`IMAGES` loaded."""

    socket: Path
    network: str = "default"
    """What containers of tests have for a network."""

    @property
    def address(self) -> str:
        return f"unix://{self.socket}"

    def docker(self, *arguments: str, stdin: bytes | None = None) -> str:
        """
        Run Docker's own command line; its output without the last line end.

        Raises:
            subprocess.CalledProcessError: it failed; ``stderr`` has its words.
        """
        command = [tool("docker"), "--host", self.address, *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, check=True)
        return done.stdout.decode().rstrip("\n")

    def has_image(self, name: str) -> bool:
        return bool(self.docker("image", "ls", "--quiet", name))


@contextmanager
def running_engine(log: Path) -> Iterator[Engine]:
    """The engine that answers on the usual socket; without one, dockerd is started, its output in *log*, and ended."""
    with _dockerd(log):
        engine = Engine(SOCKET)
        for name in IMAGES:
            if not engine.has_image(name):
                engine.docker("import", "--change", 'CMD ["/bin/sh"]', "-", name, stdin=busybox_archive())
        yield engine


def engine_answers(path: Path = SOCKET) -> bool:
    """Whether a Docker engine answers a ping on the socket *path*."""
    connection = http.client.HTTPConnection("localhost", timeout=5)
    try:
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(5)
        connection.sock.connect(str(path))
        connection.request("GET", "/_ping")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def busybox_archive() -> bytes:
    """A root file system of static busybox as a tar archive; the owner is root."""
    busybox = Path(tool("busybox")).resolve()
    applets = subprocess.run([busybox, "--list"], capture_output=True, check=True, text=True).stdout.split()
    out = BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for folder in (".", "bin", "dev", "etc", "proc", "root", "sys", "tmp", "usr", "usr/bin"):
            entry = tarfile.TarInfo(folder)
            entry.type = tarfile.DIRTYPE
            entry.mode = 0o1777 if folder == "tmp" else 0o755
            archive.addfile(entry)
        _add(archive, "bin/busybox", busybox.read_bytes(), 0o755)
        _add(archive, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n", 0o644)
        _add(archive, "etc/group", b"root:x:0:\n", 0o644)
        for applet in sorted({*applets} - {"busybox"}):
            entry = tarfile.TarInfo(f"bin/{applet}")
            entry.type = tarfile.SYMTYPE
            entry.linkname = "/bin/busybox"
            archive.addfile(entry)
    return out.getvalue()


def wait_until(condition: Callable[[], bool], *, within: float, what: str) -> None:
    """
    Return once *condition* holds.

    Raises:
        TimeoutError: it did not within *within* seconds; the text names *what*.
    """
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {within:g} s")
        time.sleep(0.05)


def _add(archive: tarfile.TarFile, name: str, content: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    entry.mode = mode
    archive.addfile(entry, BytesIO(content))


@contextmanager
def _dockerd(log: Path) -> Iterator[None]:
    if engine_answers():
        yield
        return
    if os.geteuid() != 0:
        raise PermissionError("no Docker engine answers, and only root can start one: run make test")
    # Sockets and mounts of containers last as long as dockerd's; the path stays short for unix sockets' sake.
    state = Path(tempfile.mkdtemp(prefix="dockerd-"))
    with log.open("wb") as output:
        process = subprocess.Popen(
            [tool("dockerd"), "--pidfile", str(state / "pid"), "--exec-root", str(state / "exec")],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        wait_until(lambda: engine_answers() or process.poll() is not None, within=START_LIMIT, what="dockerd")
        if process.poll() is not None:
            last = "\n".join(log.read_text(errors="replace").splitlines()[-8:])
            raise ChildProcessError(f"dockerd ended with status {process.returncode}; its last words:\n{last}")
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(state, ignore_errors=True)
