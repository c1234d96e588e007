"""Real services beside the tests: a Docker engine with the images they use."""

from __future__ import annotations

import fcntl
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
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from select import select

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
def running_engine() -> Iterator[Engine]:
    """The engine that answers on the usual socket; without one, dockerd is started, and ended with the scope."""
    # The path stays short for unix sockets' sake.
    run = Path(tempfile.mkdtemp(prefix="dockerd-"))
    try:
        yield engine_of(run)
    finally:
        end_engine_of(run)


def engine_of(run: Path) -> Engine:
    """
    The same for all processes of a run, which share the folder *run*: the first that needs an engine starts one.

    Raises:
        ChildProcessError: it ended at once; the text has its last words.
        PermissionError: only root can start one.
    """
    with (run / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not engine_answers():
            _start_dockerd(run)
        engine = Engine(SOCKET)
        for name in IMAGES:
            if not engine.has_image(name):
                engine.docker("import", "--change", 'CMD ["/bin/sh"]', "-", name, stdin=busybox_archive())
    return engine


def end_engine_of(run: Path) -> None:
    """End what :func:`engine_of` started and remove the folder; no process of the run uses it any more."""
    with suppress(FileNotFoundError, ProcessLookupError):
        process = os.pidfd_open(int((run / "started").read_text()))
        try:
            signal.pidfd_send_signal(process, signal.SIGTERM)
            if not select([process], [], [], STOP_LIMIT)[0]:
                signal.pidfd_send_signal(process, signal.SIGKILL)
                select([process], [], [], STOP_LIMIT)
        finally:
            os.close(process)
    shutil.rmtree(run, ignore_errors=True)


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


def _start_dockerd(run: Path) -> None:
    if os.geteuid() != 0:
        raise PermissionError("no Docker engine answers, and only root can start one: run make test")
    log = run / "log"
    # Nobody's child: it outlives the process that was the first to need it. Sockets and mounts of containers last as
    # long as it does.
    script = '"$@" </dev/null >"$0" 2>&1 & echo $!'
    dockerd = [tool("dockerd"), "--pidfile", str(run / "pid"), "--exec-root", str(run / "exec")]
    told = subprocess.run(["/bin/sh", "-c", script, log, *dockerd], stdout=subprocess.PIPE, start_new_session=True)
    (run / "started").write_bytes(told.stdout)
    process = os.pidfd_open(int(told.stdout))
    try:
        wait_until(
            lambda: engine_answers() or bool(select([process], [], [], 0)[0]), within=START_LIMIT, what="dockerd"
        )
        if select([process], [], [], 0)[0]:
            last = "\n".join(log.read_text(errors="replace").splitlines()[-8:])
            raise ChildProcessError(f"dockerd ended; its last words:\n{last}")
    finally:
        os.close(process)
