# Plain system calls: this runs in a child between fork and exec.
# ruff: noqa: PTH101, PTH102, PTH112, PTH116, PTH123
"""Assembly of a container's files and namespaces in the helper process (:mod:`.worker`)."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import Any

from containerssh.backends.oci import syscalls

_FIRST_USER_NAMESPACE = 0xEFFF_FFFD


def new_user_namespace(base: int, size: int, owner: int = 0) -> int:
    """Create a user namespace with the map 0 -> *base*, owned by the user *owner*; return a descriptor."""
    pid = os.fork()
    if pid == 0:
        try:
            if owner:
                syscalls.keep_capabilities()
                os.setresuid(owner, owner, owner)
            syscalls.unshare(syscalls.CLONE_NEWUSER)
            os.kill(os.getpid(), signal.SIGSTOP)
        finally:
            os._exit(1)
    try:
        _, status = os.waitpid(pid, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            raise OSError(
                "no user namespace can be created here: the kernel, a chroot or an outer container forbids it"
            )
        for name in ("uid_map", "gid_map"):
            with open(f"/proc/{pid}/{name}", "w") as file:
                file.write(f"0 {base} {size}\n")
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def hide_unified() -> None:
    """
    Hide the unified hierarchy from crun up to 1.8, which refuses hybrid control groups. With another file system
    mounted there it uses version 1; folders that it creates there disappear with the mount.
    """
    syscalls.mount("none", "/sys/fs/cgroup/unified", "tmpfs", 0, "size=64k")


def assemble(order: dict[str, Any]) -> None:
    """
    Assemble a container's files below ``order["at"]``, a folder that is accessible to every user.

    It then contains ``root`` (the overlay, or the copy), and ``0``, ``1``... for everything that is bind-mounted. All
    sources are opened first, with the gateway's privileges and before anything is mounted over them.
    """
    at, container, base = order["at"], order["container"], order["base"]
    bound = [os.open(source, os.O_PATH | os.O_CLOEXEC) for source in order["binds"]]
    lower = os.open(order["lower"], os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    own = os.open(container, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    syscalls.mount("none", at, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, "size=1m,mode=0711")
    root = f"{at}/root"
    for folder in (root, f"{at}/lower", f"{at}/own"):
        os.mkdir(folder, 0o700)
    syscalls.mount(f"/proc/self/fd/{own}", f"{at}/own", "", syscalls.MS_BIND)
    if namespace := order.get("user_namespace"):
        # Created before the mounts, since idmapped mounts use the container's own map.
        order["namespace_fd"] = new_user_namespace(*namespace)
        if "idmap" in order:
            order["idmap_fd"] = order["namespace_fd"]
    if "idmap_fd" in order:
        syscalls.mount_idmapped(f"/proc/self/fd/{lower}", f"{at}/lower", order["idmap_fd"])
    else:
        syscalls.mount(f"/proc/self/fd/{lower}", f"{at}/lower", "", syscalls.MS_BIND)
    _mount_root(order["storage"], at, root, base)
    if "namespace_fd" in order:
        _mount_user_namespace(f"{at}/user", order["namespace_fd"])
    for number, descriptor in enumerate(bound):
        target = f"{at}/{number}"
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            os.mkdir(target, 0o700)
        else:
            os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        syscalls.mount(f"/proc/self/fd/{descriptor}", target, "", syscalls.MS_BIND | syscalls.MS_REC)


def _mount_user_namespace(place: str, descriptor: int) -> None:
    """
    Create the container's user namespace, with its own owner, and bind it to *place* for the runtime.

    The kernel also charges what the users of a namespace hold (inotify instances, timers, message queues...) to the
    owner of the namespace. If root were the owner, one guest could exhaust the limits of root and of all other guests.
    """
    os.close(os.open(place, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    syscalls.mount(f"/proc/self/fd/{descriptor}", place, "", syscalls.MS_BIND)
    os.close(descriptor)


def _mount_root(storage: str, at: str, root: str, base: int) -> None:
    if storage == "copy":
        syscalls.mount(f"{at}/own/copy", root, "", syscalls.MS_BIND)
        return
    found = os.stat(f"{at}/lower")
    for folder in ("upper", "work"):
        os.mkdir(f"{at}/own/{folder}", 0o700)
    os.chown(f"{at}/own/upper", found.st_uid, found.st_gid)
    # Some tools create images whose root folder only root may enter; other users could not start programs there.
    mode = found.st_mode & 0o1777 | 0o555
    os.chmod(f"{at}/own/upper", mode)
    os.chown(f"{at}/own/work", base, base)
    options = f"lowerdir={at}/lower,upperdir={at}/own/upper,workdir={at}/own/work"
    if os.stat("/proc/self/ns/user").st_ino != _FIRST_USER_NAMESPACE:
        options += ",userxattr"
    try:
        # The data does not outlive the container, so sync calls need not reach the disk (Linux 5.10).
        syscalls.mount("overlay", root, "overlay", syscalls.MS_NODEV, f"{options},volatile")
    except OSError:
        syscalls.mount("overlay", root, "overlay", syscalls.MS_NODEV, options)
