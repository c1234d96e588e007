"""Detection of installed runtimes, and how they must be called."""

from __future__ import annotations

import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

from containerssh.backends.oci.launcher import Launcher, clean_environment
from containerssh.config.oci import OCIConfig
from containerssh.core.codes import OCICode
from containerssh.core.errors import BackendError

_INSTALL = "apt install crun (or runc)"
_SYS_RESOURCE = 24


@dataclass(frozen=True)
class Runtime:
    """A runtime and how to call it on this machine."""

    path: str
    kind: str
    """``crun`` or ``runc``."""
    version: str
    cgroups: bool
    """Whether the runtime can use control groups here; without them, no limits are enforced."""
    hide_unified: bool
    """Whether version 2 of a hybrid control group setup must be hidden from the runtime."""

    @property
    def joins_user_namespaces(self) -> bool:
        """Whether a container's user namespace may be owned by another user than the runtime's."""
        # runc sets RLIMIT_* from outside, which requires CAP_SYS_RESOURCE or ownership of the namespace.
        return self.kind == "crun" or has_capability(_SYS_RESOURCE)

    def argv(self, state: Path, *arguments: str) -> list[str]:
        """The command line for *arguments*, with the runtime's state below *state*."""
        if self.kind == "runc":
            return [self.path, "--root", str(state), *arguments]
        manager = "cgroupfs" if self.cgroups else "disabled"
        return [self.path, "--root", str(state), f"--cgroup-manager={manager}", *arguments]

    def __str__(self) -> str:
        limits = "" if self.cgroups else ", no limits for want of control groups"
        return f"{self.kind} {self.version} ({self.path}{limits})"


async def find_runtimes(launcher: Launcher, config: OCIConfig) -> list[Runtime]:
    """
    The installed runtimes that the configuration allows, those that can use control groups first.

    Raises:
        BackendError: none is installed.
    """
    names = ("crun", "runc") if config.runtime == "auto" else (config.runtime,)
    environment = clean_environment()
    paths = [path for name in names if (path := shutil.which(name, path=environment["PATH"]))]
    found = [(path, *await _ask_version(launcher, path)) for path in paths]
    if not found:
        text = f"no OCI runtime found, looked for {' and '.join(names)}: {_INSTALL}"
        raise BackendError(OCICode.RUNTIME_MISSING, text)
    hybrid = _is_hybrid()
    groups = (True, False) if launcher.ranges is None else (False,)
    return [
        Runtime(path, kind, version, cgroups, hybrid and kind == "crun")
        for cgroups in groups
        for path, kind, version in found
    ]


async def _ask_version(launcher: Launcher, path: str) -> tuple[str, str]:
    ended = await launcher.execute([path, "--version"], clean_environment())
    words = ended.output.split()
    if ended.status != 0 or len(words) < 3 or words[0] not in ("crun", "runc"):
        text = f"{path} is neither crun nor runc ({ended.last_words})"
        raise BackendError(OCICode.RUNTIME_MISSING, text)
    return words[0], words[2]


def _is_hybrid() -> bool:
    return Path("/sys/fs/cgroup/unified/cgroup.procs").exists()


def swap_can_be_limited() -> bool:
    """Whether the kernel accounts swap; otherwise a swap limit would be an error."""
    return any(
        Path(path).exists()
        for path in ("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes", "/sys/fs/cgroup/system.slice/memory.swap.max")
    )


def has_capability(number: int) -> bool:
    """Whether this process, and hence its helper, has the capability (linux/capability.h)."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return bool(int(fields["CapEff"], 16) >> number & 1)


def architecture() -> str:
    """The architecture of this machine in Go's naming."""
    machine = platform.machine()
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


def staging_folder(*used: Path) -> str:
    """
    A folder accessible to every user, in which containers' files can be assembled: only inside their own mount
    namespace, so that nothing is visible elsewhere. It contains none of *used*.

    Raises:
        BackendError: there is none.
    """
    for candidate in map(Path, ("/mnt", "/media", "/srv", "/boot", "/opt", "/var/tmp", "/tmp", "/home")):  # noqa: S108  hidden from all others
        if candidate.resolve() != candidate or not candidate.is_dir():
            continue
        if any(path.resolve().is_relative_to(candidate) for path in used):
            continue
        if all(folder.stat().st_mode & 0o001 for folder in (candidate, *candidate.parents)):
            return str(candidate)
    text = "no folder like /mnt, /media or /srv is free to put containers together in"
    raise BackendError(OCICode.RUNTIME_MISSING, text)
