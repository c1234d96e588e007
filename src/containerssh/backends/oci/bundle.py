"""The runtime's ``config.json`` for one container (OCI runtime specification 1.0.2)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from containerssh.backends.oci.seccomp import default_profile
from containerssh.backends.oci.users import User
from containerssh.config.oci import OCIConfig, OCINetwork, split_bind
from containerssh.config.values import CAPABILITIES
from containerssh.core.codes import OCICode
from containerssh.core.errors import BackendError

# Docker's default set, the maximum unless more is configured.
_DEFAULT = (
    "AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE NET_RAW SETFCAP SETGID SETPCAP SETUID "
    "SYS_CHROOT"
)
DEFAULT_CAPABILITIES = tuple(_DEFAULT.split())

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# Files and folders below /proc and /sys that reveal or affect the host.
_MASKED = (
    "/proc/acpi /proc/asound /proc/interrupts /proc/kcore /proc/keys /proc/kmsg /proc/kpagecgroup /proc/kpagecount "
    "/proc/kpageflags /proc/latency_stats /proc/sched_debug /proc/scsi /proc/timer_list /proc/timer_stats "
    "/proc/vmallocinfo /sys/devices/virtual/powercap /sys/firmware /sys/fs/selinux /sys/kernel/debug"
)
_READ_ONLY = "/proc/bus /proc/fs /proc/irq /proc/sys /proc/sysrq-trigger"

# If the machine runs out of memory, guests are killed before the server.
_FIRST_TO_GO = 300

_CPU_PERIOD = 100_000

# All containers of a machine share some 3000 terminals (/proc/sys/kernel/pty): one must not use them all.
_MOST_TERMINALS = 256
_LARGEST_SETTING = 2 * 1024 * 1024


@dataclass(frozen=True)
class Limits:
    """The resource limits to be enforced by control groups; None: no limit."""

    memory: int | None
    pids: int | None
    cpus: float | None
    swap_can_be_limited: bool


@dataclass(frozen=True)
class IdMap:
    """The id map: container id 0 is *base* in the helper's user namespace, for *size* consecutive ids."""

    base: int
    size: int


@dataclass(frozen=True)
class BundleSpec:
    """The inputs of a ``config.json``, apart from the configuration itself."""

    root: str
    argv: Sequence[str]
    environment: Mapping[str, str]
    user: User
    working_directory: str
    hostname: str
    id_map: IdMap | None
    user_namespace: str | None
    """The path of an existing user namespace with this map; None: the runtime creates one."""
    cgroup: str | None
    """The path of the container's control group; None if control groups are unavailable."""
    limits: Limits
    mounts: Sequence[tuple[str, str, bool]]
    """Mounts beyond the configured binds: source (as the runtime sees it), target, read-only."""
    binds: Sequence[str]
    """The sources of the configured binds."""
    annotations: Mapping[str, str]


def write_bundle(folder: Path, config: OCIConfig, spec: BundleSpec) -> None:
    """
    Write ``config.json`` into *folder*.

    Raises:
        BackendError: the configured seccomp profile cannot be used.
    """
    text = json.dumps(runtime_config(config, spec), separators=(",", ":"))
    target = folder / "config.json"
    target.touch(mode=0o600)
    target.write_text(text, encoding="utf-8", errors="surrogateescape")


def runtime_config(config: OCIConfig, spec: BundleSpec) -> dict[str, Any]:
    """The ``config.json`` document of the runtime specification."""
    capabilities = wanted_capabilities(config, devices_are_guarded=bool(spec.id_map or spec.cgroup))
    namespaces = [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "cgroup")]
    if config.network is OCINetwork.NONE:
        namespaces.append({"type": "network"})
    linux: dict[str, Any] = {
        "maskedPaths": _MASKED.split(),
        "readonlyPaths": _READ_ONLY.split(),
        "resources": _resources(spec.limits) if spec.cgroup else {},
    }
    if spec.id_map:
        namespaces.append({"type": "user", **({"path": spec.user_namespace} if spec.user_namespace else {})})
        mapping = [{"containerID": 0, "hostID": spec.id_map.base, "size": spec.id_map.size}]
        linux |= {"uidMappings": mapping, "gidMappings": mapping}
    linux["namespaces"] = namespaces
    if spec.cgroup:
        linux["cgroupsPath"] = spec.cgroup
    if profile := _seccomp(config, capabilities):
        linux["seccomp"] = profile
    return {
        "ociVersion": "1.0.2",
        "process": _process(config, spec, capabilities),
        "root": {"path": spec.root, "readonly": config.read_only_root},
        "hostname": spec.hostname,
        "mounts": _mounts(config, spec),
        "annotations": dict(spec.annotations),
        "linux": linux,
    }


def wanted_capabilities(config: OCIConfig, *, devices_are_guarded: bool = True) -> list[str]:
    """
    Docker's default capabilities, minus ``capDrop``, plus ``capAdd``, with ``CAP_``.

    *devices_are_guarded*: whether a user namespace or a control group prevents the use of device files that the
    container creates. Without either, ``CAP_MKNOD`` requires a ``capAdd``.
    """
    usual = set(DEFAULT_CAPABILITIES) - (set() if devices_are_guarded else {"MKNOD"})
    wanted = set() if "ALL" in config.cap_drop else usual - set(config.cap_drop)
    wanted |= set(CAPABILITIES) - set(config.cap_drop) if "ALL" in config.cap_add else set(config.cap_add)
    return sorted(f"CAP_{name}" for name in wanted)


def _process(config: OCIConfig, spec: BundleSpec, capabilities: list[str]) -> dict[str, Any]:
    # Programs of other users than root have no capabilities; the bounding set limits what setuid programs can gain.
    held = capabilities if spec.user.uid == 0 else []
    process: dict[str, Any] = {
        "terminal": False,
        "user": {"uid": spec.user.uid, "gid": spec.user.gid, "additionalGids": list(spec.user.groups), "umask": 0o022},
        "args": list(spec.argv),
        "env": [f"{name}={value}" for name, value in spec.environment.items()],
        "cwd": spec.working_directory,
        "noNewPrivileges": config.no_new_privileges,
        "oomScoreAdj": _FIRST_TO_GO,
        "capabilities": {"bounding": capabilities, "effective": held, "permitted": held},
        "rlimits": [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}],
    }
    if files := config.resources.open_files:
        process["rlimits"].append({"type": "RLIMIT_NOFILE", "soft": files, "hard": files})
    return process


def _mounts(config: OCIConfig, spec: BundleSpec) -> list[dict[str, Any]]:
    terminals = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", f"max={_MOST_TERMINALS}"]
    if spec.id_map is None or spec.id_map.size > 5:
        terminals.append("gid=5")
    mounts = [
        _mount("/proc", "proc", ["nosuid", "noexec", "nodev"]),
        _mount("/dev", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=64k"]),
        _mount("/dev/pts", "devpts", terminals),
        _mount("/dev/shm", "tmpfs", ["nosuid", "noexec", "nodev", "mode=1777", f"size={config.resources.shm_size}"]),  # noqa: S108  a mount point
        _mount("/dev/mqueue", "mqueue", ["nosuid", "noexec", "nodev"]),
    ]
    if config.network is OCINetwork.NONE:
        mounts.append(_mount("/sys", "sysfs", ["nosuid", "noexec", "nodev", "ro"]))
    else:
        # A user namespace cannot mount the host network's sysfs, and binding the host's own would reveal too much.
        mounts.append(_mount("/sys", "tmpfs", ["nosuid", "noexec", "nodev", "ro", "size=0"]))
    if spec.cgroup and config.network is OCINetwork.NONE:
        # Programs read their limits here.
        mounts.append(_mount("/sys/fs/cgroup", "cgroup", ["nosuid", "noexec", "nodev", "relatime", "ro"]))
    for point, options in config.tmpfs.items():
        mounts.append(_mount(point, "tmpfs", [*filter(None, options.split(",")), "nosuid", "nodev"]))
    for source, (_, target, read_only) in zip(spec.binds, map(split_bind, config.binds), strict=True):
        mounts.append(_bind(source, target, read_only))
    mounts += [_bind(*mount) for mount in spec.mounts]
    return mounts


def _mount(target: str, kind: str, options: list[str]) -> dict[str, Any]:
    return {"destination": target, "type": kind, "source": kind, "options": options}


def _bind(source: str, target: str, read_only: bool) -> dict[str, Any]:
    options = ["rbind", "ro" if read_only else "rw", "nosuid", "nodev", "rprivate"]
    return {"destination": target, "type": "bind", "source": source, "options": options}


def _resources(limits: Limits) -> dict[str, Any]:
    resources: dict[str, Any] = {"devices": [{"allow": False, "access": "rwm"}]}
    if limits.memory:
        resources["memory"] = {"limit": limits.memory}
        if limits.swap_can_be_limited:
            resources["memory"]["swap"] = limits.memory
    if limits.pids:
        resources["pids"] = {"limit": limits.pids}
    if limits.cpus:
        resources["cpu"] = {"quota": max(1000, int(limits.cpus * _CPU_PERIOD)), "period": _CPU_PERIOD}
    return resources


def _seccomp(config: OCIConfig, capabilities: list[str]) -> dict[str, Any] | None:
    if config.seccomp == "unconfined":
        return None
    if config.seccomp == "default":
        return default_profile(capabilities)
    try:
        # A config server can set the path: opening a named pipe, for example, would block the server.
        if not Path(config.seccomp).is_file():
            raise FileNotFoundError(config.seccomp)
        with Path(config.seccomp).open("rb") as file:
            profile = json.loads(file.read(_LARGEST_SETTING))
    except (OSError, ValueError, RecursionError) as exc:
        raise BackendError(OCICode.CONFIG_ERROR, f"seccomp: {config.seccomp} cannot be read") from exc
    if not isinstance(profile, dict) or not isinstance(profile.get("defaultAction"), str):
        raise BackendError(OCICode.CONFIG_ERROR, f"seccomp: {config.seccomp} has no defaultAction")
    if "archMap" in profile or any("includes" in rule or "excludes" in rule for rule in profile.get("syscalls") or ()):
        text = (
            f"seccomp: {config.seccomp} is in Docker's format (archMap, includes, excludes), which runtimes do not read"
        )
        raise BackendError(OCICode.CONFIG_ERROR, text)
    return profile
