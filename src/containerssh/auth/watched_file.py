"""A file that is read again when it changes."""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import time
from pathlib import Path

from containerssh.core.codes import AuthCode
from containerssh.core.errors import ConfigError, reason_of
from containerssh.core.messages import Event
from containerssh.core.writers import other_writers

logger = logging.getLogger(__name__)

LARGEST_FILE = 4 << 20
"""Bytes that a file may have."""

_SETTLED = 2_000_000_000
"""Nanoseconds after which a file's time says whether it changed: clocks of file systems are that coarse."""

_NEAR = frozenset({"btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "ramfs", "tmpfs", "xfs", "zfs"})
"""File systems that no other machine and no program has to answer for."""


class WatchedFile:
    """A file, and whether it changed since it was looked at last."""

    def __init__(self, path: Path) -> None:
        self.writable_by_others = ""
        """Who else may write to it, or put another file in its place, apart from its owner and root."""
        self._path = path
        self._seen: tuple[int, ...] | None = None
        self._settled = True
        self._digest = b""
        self._problem = ""
        self._is_near = False

    def unchanged(self) -> bool:
        """
        Whether it is what :meth:`changed` has seen last, found out without waiting for anybody; False also where only
        that method can tell.
        """
        if not (self._is_near and self._settled and self._seen is not None):
            return False
        try:
            return _state(self._path.stat()) == self._seen
        except OSError:
            return False

    def changed(self) -> bytes | None:
        """
        The content if it is another than at the last call. The file's disk may take its time.

        Raises:
            ConfigError: the file cannot be read, is too large, or anybody may write to it; once for each such state.
        """
        try:
            state = self._path.stat()
            seen = _state(state)
            if seen == self._seen and self._settled:
                return None
            content = self._read()
        except (OSError, ValueError) as exc:
            self._seen, self._digest = None, b""
            problem = reason_of(exc)
            if problem == self._problem:
                return None
            self._problem = problem
            raise ConfigError(AuthCode.CONFIG_ERROR, f"Cannot use {self._path}: {problem}") from exc
        self._problem = ""
        # A second change within the clock's tick would leave no trace but in the content.
        self._seen, self._settled = seen, abs(time.time_ns() - state.st_mtime_ns) > _SETTLED
        self._is_near = _is_near(self._path)
        digest = hashlib.sha256(content).digest()
        if digest == self._digest:
            return None
        self._digest = digest
        return content

    def _read(self) -> bytes:
        # Not blocking, since nobody may be writing to a named pipe.
        descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            state = os.fstat(descriptor)
            if not stat.S_ISREG(state.st_mode):
                raise ValueError("it is not a regular file")
            if state.st_mode & stat.S_IWOTH:
                raise ValueError("anybody may write to it; change that with: chmod o-w")
            self.writable_by_others = other_writers(self._path, state)
            content = file.read(LARGEST_FILE + 1)
        if len(content) > LARGEST_FILE:
            raise ValueError(f"it has more than {LARGEST_FILE >> 20} MiB")
        return content


def tell_of_others(path: Path, what: str) -> None:
    """Warn if others may write to a file that is read by a library, or read what is secret in it. Blocks."""
    try:
        found = path.stat()
        who, verb = other_writers(path, found), "written"
    except OSError:
        # Whoever needs the file tells that.
        return
    if not who and found.st_mode & stat.S_IROTH:
        who, verb = "anybody", "read"
    if who:
        text = f"The {what} {path} can be {verb} by {who}"
        logger.warning(Event(AuthCode.FILE_PERMISSIONS, text, file=str(path)))


def _state(found: os.stat_result) -> tuple[int, ...]:
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _is_near(path: Path) -> bool:
    """Whether the file and all its parent folders are on file systems whose operations do not block for long."""
    try:
        kinds = _kinds_of_devices()
        places = {path, *path.absolute().parents, *path.resolve().parents}
        return all(kinds.get(place.stat().st_dev) in _NEAR for place in places)
    except (OSError, ValueError, RuntimeError):
        return False


def _kinds_of_devices() -> dict[int, str]:
    """The kind of each mounted file system, by device number (proc_pid_mountinfo(5))."""
    kinds = {}
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        fields = line.split(" ")
        major, _, minor = fields[2].partition(":")
        kinds[os.makedev(int(major), int(minor))] = fields[fields.index("-", 6) + 1]
    return kinds
