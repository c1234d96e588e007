# Names are relative to descriptors, which pathlib does not support.
# ruff: noqa: PTH101, PTH106, PTH118, PTH208
"""
Copying, shifting the owners of, and removing whole folders, whose contents a guest may have created.

Nothing here follows symbolic links, recurses, or builds paths from names in the tree: a guest can nest folders deeper
than Python's stack or PATH_MAX allow.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import stat
from pathlib import Path

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# File systems typically have one inode for about this many bytes.
_ENTRY = 16 * 1024


def remove(folder: str) -> None:
    """Remove *folder* and its contents; it need not exist. To handle any depth, subfolders are moved up first."""
    try:
        top = os.open(folder, _FOLDER)
    except FileNotFoundError:
        return
    try:
        count = 0
        while names := os.listdir(top):
            for name in names:
                if not _unlink(name, top):
                    count = _hoist(name, top, count)
    finally:
        os.close(top)
    os.rmdir(folder)


def _unlink(name: str, folder: int) -> bool:
    try:
        os.unlink(name, dir_fd=folder)
    except IsADirectoryError:
        return False
    return True


def _hoist(name: str, top: int, count: int) -> int:
    """Empty and remove the folder *name* in *top*; its subfolders are moved to *top*."""
    try:
        inner = os.open(name, _FOLDER, dir_fd=top)
    except PermissionError:
        os.chmod(name, 0o700, dir_fd=top)
        inner = os.open(name, _FOLDER, dir_fd=top)
    try:
        if os.fstat(inner).st_mode & 0o700 != 0o700 and os.geteuid() != 0:
            os.fchmod(inner, 0o700)
        for entry in os.listdir(inner):
            if not _unlink(entry, inner):
                count = _move_up(entry, inner, top, count)
    finally:
        os.close(inner)
    os.rmdir(name, dir_fd=top)
    return count


def _move_up(name: str, folder: int, top: int, count: int) -> int:
    while True:
        count += 1
        try:
            os.rename(name, f".removing-{count}", src_dir_fd=folder, dst_dir_fd=top)
        except OSError as exc:
            # A guest may have used this name; try the following ones.
            if exc.errno not in (errno.EEXIST, errno.ENOTDIR, errno.ENOTEMPTY):
                raise
        else:
            return count


def copy(source: str, target: str) -> None:
    """
    Copy the folder *source* to the new folder *target*, with symbolic links, owners and modes, without devices and
    sockets.
    """
    shutil.copytree(source, target, symlinks=True, ignore=_special_files)
    for folder, folders, files in os.walk(target):
        original = os.path.join(source, os.path.relpath(folder, target))
        for name in (".", *folders, *files):
            found = os.lstat(os.path.join(original, name))
            path = os.path.join(folder, name)
            os.chown(path, found.st_uid, found.st_gid, follow_symlinks=False)
            if not stat.S_ISLNK(found.st_mode):
                os.chmod(path, stat.S_IMODE(found.st_mode))


def _special_files(folder: str, names: list[str]) -> list[str]:
    wanted = (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK)
    return [name for name in names if stat.S_IFMT(os.lstat(os.path.join(folder, name)).st_mode) not in wanted]


def shift(folder: str, base: int, size: int) -> None:
    """
    Change each owner id n to *base* + n; setuid bits, which chown clears, are restored.

    Raises:
        ValueError: an owner id is not below *size*.
    """
    seen: set[tuple[int, int]] = set()
    for path, _, names, handle in os.fwalk(folder, follow_symlinks=False):
        for name in (".", *names):
            _shift_one(path, name, handle, base, size, seen)
        for entry in os.scandir(handle):
            if entry.is_symlink() and entry.is_dir():
                _shift_one(path, entry.name, handle, base, size, seen)


def _shift_one(path: str, name: str, handle: int, base: int, size: int, seen: set[tuple[int, int]]) -> None:
    found = os.stat(name, dir_fd=handle, follow_symlinks=False)
    identity = (found.st_dev, found.st_ino)
    if identity in seen:
        return
    if found.st_nlink > 1 or stat.S_ISDIR(found.st_mode) or stat.S_ISLNK(found.st_mode):
        seen.add(identity)
    if found.st_uid >= size or found.st_gid >= size:
        raise ValueError(f"{path}/{name} belongs to {found.st_uid}:{found.st_gid}: give userNamespace a larger size")
    os.chown(name, base + found.st_uid, base + found.st_gid, dir_fd=handle, follow_symlinks=False)
    if found.st_mode & (stat.S_ISUID | stat.S_ISGID) and not stat.S_ISLNK(found.st_mode):
        os.chmod(name, stat.S_IMODE(found.st_mode), dir_fd=handle)


def bound(folder: str, most: int) -> None:
    """
    Measure the disk usage of *folder* while others write to it. Each file counts as at least 16 KiB, because inodes are
    limited as well.

    Raises:
        ValueError: the usage exceeds *most* bytes.
    """
    total, seen = 0, set()
    for _, folders, files, handle in os.fwalk(folder, follow_symlinks=False):
        for name in (*folders, *files):
            with contextlib.suppress(FileNotFoundError):
                found = os.stat(name, dir_fd=handle, follow_symlinks=False)
                if found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode):
                    if found.st_ino in seen:
                        continue
                    seen.add(found.st_ino)
                total += max(found.st_blocks * 512, _ENTRY)
        if total > most:
            raise ValueError(f"{total} bytes and more")


def signature(folder: Path) -> str:
    """A hash over names, types, sizes, owners and times of the whole tree, to detect changes."""
    digest = hashlib.sha256()
    for path, folders, files in os.walk(folder):
        folders.sort()
        for name in (".", *folders, *sorted(files)):
            found = os.lstat(os.path.join(path, name))
            line = (
                f"{path}/{name}\0{found.st_mode}\0{found.st_size}\0{found.st_uid}\0{found.st_gid}\0{found.st_mtime_ns}"
            )
            digest.update(os.fsencode(line) + b"\0\0")
    return digest.hexdigest()
