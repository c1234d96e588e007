"""Podman's service, which speaks Docker's API: as root, or as an ordinary user made for it."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.services import IMAGES, STOP_LIMIT, Engine, busybox_archive, engine_answers, wait_until
from tests.support.tools import tool
from tests.support.users import as_user, ordinary_user

ENGINES = (
    "docker",
    pytest.param("podman", marks=[pytest.mark.podman, pytest.mark.root]),
    pytest.param("podman_rootless", marks=[pytest.mark.podman, pytest.mark.root]),
)
"""Fixtures that give an :class:`~tests.support.services.Engine`, for the parameters of ``engine``."""


def on(*engines: str) -> pytest.MarkDecorator:
    """The test runs on *engines* only, of :data:`ENGINES`."""
    known = {str(entry if isinstance(entry, str) else entry.values[0]): entry for entry in ENGINES}
    return pytest.mark.parametrize("engine", [known[name] for name in engines], indirect=True)


def engine_of(request: pytest.FixtureRequest) -> Engine:
    """The engine that the parameter of the fixture ``engine`` names."""
    name = "docker_engine" if request.param == "docker" else request.param
    found: Engine = request.getfixturevalue(name)
    return found


@dataclass(frozen=True)
class Podman(Engine):
    """A service with a store of its own. Its containers have no network: rootless ones would need ``/dev/net/tun``."""

    network: str = "none"
    state: Path = Path()
    user: str = ""
    """Whose service it is; empty for root's."""
    registry_port: int = 0
    """A registry on this port of 127.0.0.1 is talked to without TLS."""
    environment: dict[str, str] = field(default_factory=dict)

    def command(self, *arguments: str) -> list[str]:
        """Podman's own command line on the service's store."""
        own = ["--root", str(self.state / "root"), "--runroot", str(self.state / "run"), "--storage-driver", "vfs"]
        return [*self.as_user(), tool("podman"), *own, *arguments]

    def as_user(self) -> list[str]:
        """What begins the command line of a program that its user runs."""
        return as_user(self.user) if self.user else []

    def run(self, *arguments: str, stdin: bytes | None = None) -> None:
        subprocess.run(
            self.command(*arguments), input=stdin, capture_output=True, check=True, env=self.environment, cwd="/"
        )


@contextmanager
def running_podman(*, rootless: bool = False) -> Iterator[Podman]:
    """Podman's service, root's or that of a new user; it, its containers, its store and the user go at the end."""
    with ordinary_user() if rootless else nullcontext("") as user:
        state = Path(tempfile.mkdtemp(prefix="podman-", dir="/tmp"))
        try:
            podman = _prepared(state, user)
            with _service(podman):
                archive = busybox_archive()
                for name in IMAGES:
                    podman.run("import", "--change", 'CMD ["/bin/sh"]', "-", name, stdin=archive)
                yield podman
        finally:
            shutil.rmtree(state)


def _prepared(state: Path, user: str) -> Podman:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # Podman asks for a million open files by itself, which fails where the hard limit is lower.
    (state / "containers.conf").write_text(
        '[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]\n'
        '[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
        # Else root's services share these with one another, and with the machine's own.
        f'lock_type = "file"\ntmp_dir = "{state}/tmp"\n'
    )
    (state / "registries.conf").write_text(f'[[registry]]\nlocation = "127.0.0.1:{port}"\ninsecure = true\n')
    runtime = state / "xdg"
    (runtime / "podman").mkdir(parents=True, mode=0o700)
    environment = {
        "HOME": pwd.getpwnam(user).pw_dir if user else str(state),
        "PATH": f"{os.environ['PATH']}:/usr/local/sbin:/usr/sbin:/sbin",
        "CONTAINERS_CONF": str(state / "containers.conf"),
        "CONTAINERS_REGISTRIES_CONF": str(state / "registries.conf"),
        "XDG_RUNTIME_DIR": str(runtime),
    }
    if user:
        for path in (state, runtime, runtime / "podman"):
            shutil.chown(path, user)
    return Podman(
        runtime / "podman/podman.sock",
        state=state,
        user=user,
        registry_port=port,
        environment=environment,
    )


@contextmanager
def _service(podman: Podman) -> Iterator[None]:
    log = podman.state / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            podman.command("system", "service", "--time", "0", podman.address),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=podman.environment,
            cwd="/",
            start_new_session=True,
        )
    try:
        answers = lambda: engine_answers(podman.socket) or process.poll() is not None  # noqa: E731  read once
        wait_until(answers, within=30, what="Podman's service")
        if process.poll() is not None:
            raise ChildProcessError(f"podman ended with status {process.returncode}: {log.read_text()[-1000:]}")
        yield
    finally:
        with suppress(subprocess.CalledProcessError):
            podman.run("rm", "--force", "--all", "--time", "0")
        process.terminate()
        try:
            process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        _end_helpers(podman)


def _end_helpers(podman: Podman) -> None:
    """Podman's monitors stay for five minutes after a program beside a main one; its keeper of namespaces for ever."""
    deadline = time.monotonic() + STOP_LIMIT
    while left := list(_helpers(podman)):
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes of Podman do not end: {left}")
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def _helpers(podman: Podman) -> Iterator[int]:
    uid = pwd.getpwnam(podman.user).pw_uid if podman.user else -1
    for folder in Path("/proc").iterdir():
        with suppress(OSError, IndexError):
            if not folder.name.isdigit() or (folder / "stat").read_text().rpartition(")")[2].split()[0] == "Z":
                continue
            mine = f"{podman.state}/".encode() in (folder / "cmdline").read_bytes()
            if mine or folder.stat().st_uid == uid:
                yield int(folder.name)
