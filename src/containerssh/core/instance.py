"""Records which process owns a container, so that the next start removes exactly what a dead process has left.

Every server process has a random id, which its containers carry as a label, and holds a lock on a file named after it.
The kernel releases the lock when the process ends. An id whose file exists and is unlocked is dead. An id without a
file belongs to another machine and is ignored.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from containerssh.core.errors import reason_of

_ID = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class Instance:
    """This server process."""

    id: str
    """16 hexadecimal digits."""
    state: Path
    """The folder for files that must outlast the process (images, locks); mode 0700."""
    runtime: Path
    """The folder for sockets, removed at the end; a short path (sockets allow 107 bytes), mode 0700."""

    def dead(self) -> list[str]:
        """Ids of instances with this state folder that have ended without cleaning up."""
        ids = []
        for lock in sorted(self._locks.iterdir()):
            if lock.name == self.id or not _ID.fullmatch(lock.name):
                continue
            with suppress(FileNotFoundError), lock.open("rb") as file:
                # One that ends properly removes its file first.
                if _try_lock(file.fileno()) and os.fstat(file.fileno()).st_nlink:
                    ids.append(lock.name)
        return ids

    def knows(self, other_id: str) -> bool:
        """Whether *other_id* is an instance with this state folder, alive or dead, that is not forgotten yet."""
        return bool(_ID.fullmatch(other_id)) and (self._locks / other_id).exists()

    def note(self, text: str) -> None:
        """Record *text*, one line, for the process that cleans up after this instance; each text is recorded once."""
        if text not in self.notes(self.id):
            with (self._locks / self.id).open("a") as file:
                file.write(f"{text}\n")

    def notes(self, instance_id: str) -> list[str]:
        """The notes of this or a dead instance."""
        if not _ID.fullmatch(instance_id):
            return []
        with suppress(OSError, UnicodeDecodeError):
            return (self._locks / instance_id).read_text().splitlines()
        return []

    def forget(self, dead_id: str) -> None:
        """Remove the sockets and the lock of *dead_id*, after everything else of it was removed."""
        if not _ID.fullmatch(dead_id) or dead_id == self.id:
            raise ValueError(f"not another instance's id: {dead_id!r}")
        shutil.rmtree(self.runtime.parent / dead_id, ignore_errors=True)
        (self._locks / dead_id).unlink(missing_ok=True)

    @property
    def _locks(self) -> Path:
        return self.state / "instances"


def default_state_folder() -> Path:
    """systemd's ``StateDirectory=``, ``/var/lib/containerssh`` for root, else below XDG_STATE_HOME."""
    if given := os.environ.get("STATE_DIRECTORY"):
        return Path(given.split(":", 1)[0])
    if os.geteuid() == 0:
        return Path("/var/lib/containerssh")
    home = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local/state")
    return Path(home) / "containerssh"


def default_runtime_folder() -> Path:
    """
    systemd's ``RuntimeDirectory=``, ``/run/containerssh`` for root, else below XDG_RUNTIME_DIR, else the user's own in
    the temporary folder.
    """
    if given := os.environ.get("RUNTIME_DIRECTORY"):
        return Path(given.split(":", 1)[0])
    if os.geteuid() == 0:
        return Path("/run/containerssh")
    base = os.environ.get("XDG_RUNTIME_DIR")
    return Path(base or tempfile.gettempdir()) / ("containerssh" if base else f"containerssh-{os.geteuid()}")


@contextmanager
def open_instance(state: Path | None = None, runtime: Path | None = None) -> Iterator[Instance]:
    """
    This process's identity; its runtime folder and its lock are removed at the end.

    Raises:
        OSError: a folder cannot be created, or others can access it.
    """
    state = state or default_state_folder()
    runtime = runtime or default_runtime_folder()
    for folder, variable in (
        (state, "STATE_DIRECTORY"),
        (state / "instances", "STATE_DIRECTORY"),
        (runtime, "RUNTIME_DIRECTORY"),
    ):
        try:
            make_private(folder)
        except OSError as exc:
            text = f"{folder} cannot be used: {reason_of(exc)}; another folder can be named by {variable}"
            raise OSError(exc.errno, text) from exc
    identity = secrets.token_hex(8)
    instance = Instance(identity, state, runtime / identity)
    lock = state / "instances" / instance.id
    unlocked = lock.with_suffix(".new")
    descriptor = os.open(unlocked, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        _try_lock(descriptor)
        # Under the id only now: others would take an instance without a lock for dead.
        unlocked.rename(lock)
        instance.runtime.mkdir(mode=0o700)
        try:
            yield instance
        finally:
            shutil.rmtree(instance.runtime, ignore_errors=True)
            lock.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def make_private(folder: Path) -> None:
    """Create *folder* if it is missing; check that it is a real folder, owned by this user, that nobody else can
    enter."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not folder.is_dir() or folder.is_symlink() or found.st_uid != os.geteuid():
        raise PermissionError(f"{folder} is not a folder of this user")
    if found.st_mode & 0o077:
        folder.chmod(0o700)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
