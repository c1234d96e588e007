"""Users of programs, resolved by the image's /etc/passwd and /etc/group; and safe lookup of paths inside an image."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from containerssh.backends.oci import syscalls
from containerssh.core.codes import OCICode
from containerssh.core.errors import BackendError

_LARGEST = 1024 * 1024
_LARGEST_ID = 2**32 - 2
_MOST_GROUPS = 256
# The kernel's PATH_MAX. Longer paths could not be opened anyway, and resolving them would take long.
_LONGEST_PATH = 4095


@dataclass(frozen=True)
class User:
    """A user inside a container."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    name: str = ""
    home: str = "/"
    shell: str = ""


def find_user(root: Path, wanted: str) -> User:
    """
    Resolve ``name``, ``uid``, ``name:group`` ... in the image at *root*; empty means root.

    Raises:
        BackendError: the image does not define the name.
    """
    name, _, group = (wanted or "0").partition(":")
    user = _find(root, name)
    if not group:
        return user
    return User(user.uid, _find_group(root, group), (), user.name, user.home, user.shell)


def _find(root: Path, wanted: str) -> User:
    number = _id(wanted)
    for fields in _entries(root, "etc/passwd", 7):
        if fields[0] == wanted or (number is not None and fields[2] == str(number)):
            uid, gid = _id(fields[2]), _id(fields[3])
            if uid is None or gid is None:
                continue
            home = fields[5] if fields[5].startswith("/") else "/"
            return User(uid, gid, _groups_of(root, fields[0], gid), fields[0], home, fields[6])
    if number is not None:
        return User(number, 0, name="root" if number == 0 else "", home="/root" if number == 0 else "/")
    raise BackendError(OCICode.CONFIG_ERROR, f"the image has no user {wanted[:100]!r}")


def _find_group(root: Path, wanted: str) -> int:
    for fields in _entries(root, "etc/group", 4):
        if fields[0] == wanted and (gid := _id(fields[2])) is not None:
            return gid
    if (gid := _id(wanted)) is not None:
        return gid
    raise BackendError(OCICode.CONFIG_ERROR, f"the image has no group {wanted[:100]!r}")


def _groups_of(root: Path, name: str, own: int) -> tuple[int, ...]:
    found = set()
    for fields in _entries(root, "etc/group", 4):
        gid = _id(fields[2])
        if gid is not None and gid != own and name in fields[3].split(","):
            found.add(gid)
    return tuple(sorted(found)[:_MOST_GROUPS])


def _id(text: str) -> int | None:
    return int(text) if text.isdecimal() and len(text) <= 10 and int(text) <= _LARGEST_ID else None


def _entries(root: Path, name: str, count: int) -> Iterator[list[str]]:
    for line in _read(root, name).splitlines():
        fields = line.split(":")
        if len(fields) == count:
            yield fields


def _read(root: Path, name: str) -> str:
    """
    Read the beginning of a regular file of the image; empty if it does not exist. Symbolic links cannot lead out of the
    image.
    """
    try:
        found = open_inside(root, name, os.O_PATH)
    except OSError:
        return ""
    try:
        # The path may be a device node, and merely opening a device can have effects on the host.
        if not stat.S_ISREG(os.fstat(found).st_mode):
            return ""
        with Path(f"/proc/self/fd/{found}").open("rb") as file:
            return file.read(_LARGEST).decode(errors="surrogateescape")
    except OSError:
        return ""
    finally:
        os.close(found)


def open_inside(root: Path, name: str, flags: int) -> int:
    """Open *name* below *root*, which is the root folder for all symbolic links on the way; return a descriptor."""
    folder = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return syscalls.open_in_root(folder, name, flags)
    finally:
        os.close(folder)


def has_program(root: Path, path: str) -> bool:
    """Whether the image contains the program *path*."""
    try:
        descriptor = open_inside(root, path, os.O_PATH)
    except OSError:
        return False
    try:
        found = os.fstat(descriptor).st_mode
    finally:
        os.close(descriptor)
    return stat.S_ISREG(found) and bool(found & 0o111)


def shell_of(root: Path, user: User) -> str:
    """The user's shell if it exists in the image, otherwise /bin/bash or /bin/sh."""
    for shell in (user.shell, "/bin/bash"):
        if shell.startswith("/") and has_program(root, shell):
            return shell
    return "/bin/sh"


def _exists(root: Path, path: str) -> bool:
    """Whether *path* itself exists, dangling links included."""
    try:
        os.close(open_inside(root, path, os.O_PATH | os.O_NOFOLLOW))
    except OSError:
        return False
    return True


def resolve_folder(root: Path, path: str) -> str:
    """
    The path without symbolic links in the image of the working directory *path*.

    runc up to 1.1.11 can be led out of the container by a working directory below /proc, which a link in the image
    could refer to.

    Raises:
        BackendError: the path is below /proc, /sys or /dev, or is not a folder.
    """
    if len(path) > _LONGEST_PATH:
        raise BackendError(
            OCICode.CONFIG_ERROR, f"the working directory {path[:100]!r}... is longer than a path can be"
        )
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise BackendError(OCICode.CONFIG_ERROR, f"the working directory {path!r} contains '..'")
    missing: list[str] = []
    while True:
        try:
            descriptor = open_inside(root, "/".join(parts) or ".", os.O_PATH | os.O_DIRECTORY)
        except OSError as exc:
            if not parts:
                raise BackendError(OCICode.IMAGE_FAILED, f"image {root} cannot be looked into") from exc
            if _exists(root, "/".join(parts)):
                text = f"the working directory {path!r} is not a folder of the image"
                raise BackendError(OCICode.CONFIG_ERROR, text) from None
            missing.insert(0, parts.pop())
            continue
        try:
            found = Path(f"/proc/self/fd/{descriptor}").readlink()
        finally:
            os.close(descriptor)
        real_root = root.resolve()
        settled = "/" + str(found.relative_to(real_root)) if found != real_root else "/"
        break
    settled = "/" + "/".join(part for part in (*settled.split("/"), *missing) if part)
    if settled.split("/")[1] in ("proc", "sys", "dev"):
        raise BackendError(OCICode.CONFIG_ERROR, f"the working directory {path!r} leads to {settled}")
    return settled
