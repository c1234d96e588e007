"""The ``oci`` section: the embedded backend, which drives crun or runc itself, without a daemon."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    model_validator,
)

from containerssh.config.model import ConfigModel, Duration, Secret, seconds
from containerssh.config.values import Capability, Size, Text, Variable, absolute_path


class OCIMode(StrEnum):
    """How long a container lives."""

    CONNECTION = "connection"
    SESSION = "session"


class OCIPullPolicy(StrEnum):
    """When an image is fetched from its registry."""

    IF_NOT_PRESENT = "IfNotPresent"
    ALWAYS = "Always"
    NEVER = "Never"


class OCINetwork(StrEnum):
    """The network that a container sees."""

    NONE = "none"
    HOST = "host"


class OCIResources(ConfigModel):
    """Limits of one container, enforced by the kernel's control groups. Without root there are no control groups:
    limits that are set here are then an error, and the default limits do not exist."""

    memory: Size | None = None
    """The most memory, swap included. Unset means 2g where limits can be enforced; 0 means no limit."""

    pids: Annotated[int, Field(ge=0, le=4_194_304)] | None = None
    """The most processes and threads. Unset means 1024 where limits can be enforced; 0 means no limit."""

    cpus: Annotated[float, Field(ge=0, le=4096, allow_inf_nan=False)] | None = None
    """CPU time in processors, such as 1.5. Unset, like 0, means no limit."""

    shm_size: Annotated[Size, Field(ge=4096)] = 64 * 1024 * 1024
    """The size of /dev/shm."""

    open_files: Annotated[int, Field(ge=16, le=1_048_576)] | None = None
    """The most open files per process (RLIMIT_NOFILE). Unset means the server's own limit."""


# Above the ids of systemd's own containers; from the second on come its "foreign" ones (systemd.io/UIDS-GIDS).
_FIRST_ID = 0x7000_0000
_SYSTEMD_IDS = 0x7FFE_0000


class OCIUserNamespace(ConfigModel):
    """Users inside the container are different users outside: root inside is unprivileged outside."""

    enabled: bool = True
    """Turn it off only for what cannot work otherwise: root inside is then root outside, and isolation is weaker. A
    server without root needs it."""

    base: Annotated[int, Field(ge=1, le=2**32 - 2)] = _FIRST_ID
    """The user and group id outside that is 0 inside. The default lies above every range that Linux distributions give
    to users and services. A server without root uses its ranges in /etc/subuid and /etc/subgid instead."""

    size: Annotated[int, Field(ge=1000, le=2**24)] = 65_536
    """The number of ids inside."""

    ranges: Annotated[int, Field(ge=1, le=65_536)] | None = None
    """The number of ranges of `size` ids from `base` on: each container gets its own, so that nothing which the kernel
    counts per user is shared. Containers with `binds` share the first one, as do all where the image cannot be mounted
    with shifted owners. Unset: as many as systemd leaves free with the default `base`, else 1."""

    @property
    def range_count(self) -> int:
        """``ranges``, or what stands for it."""
        if self.ranges is not None:
            return self.ranges
        return max(1, (_SYSTEMD_IDS - self.base) // self.size) if self.base == _FIRST_ID else 1

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.base + self.size * self.range_count > 2**32 - 1:
            raise ValueError("base, size and ranges together go beyond the largest user id")
        return self


class OCITimeouts(ConfigModel):
    """How long each step may take."""

    container_start: Duration = seconds(60)
    """Fetching the image, creating and starting the container, until its agent answers."""

    container_stop: Duration = seconds(60)
    """Removing the container."""

    command_start: Duration = seconds(60)
    """Starting one program, and writing one file."""

    signal: Duration = seconds(60)
    window: Duration = seconds(60)

    @model_validator(mode="after")
    def _are_positive(self) -> Self:
        for name in type(self).model_fields:
            if getattr(self, name).total_seconds() <= 0:
                raise ValueError(f"{name} must be longer than 0")
        return self


class OCIAuth(ConfigModel):
    """Credentials for the image's registry."""

    username: Annotated[str, Field(min_length=1)]
    password: Secret


_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\$?(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,61}[A-Za-z0-9])?")
_REFERENCE = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9._-]*(:[0-9]+)?(/[a-z0-9][a-z0-9._-]*)*(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?"
    r"(@sha256:[0-9a-f]{64})?"
)
RESERVED = ("/", "/proc", "/sys", "/dev", "/.containerssh")
"""Mount points that belong to the backend."""


def split_bind(bind: str) -> tuple[str, str, bool]:
    """
    Docker's ``source:target[:ro|rw]`` as source, target, and whether it is read-only.

    Raises:
        ValueError: it is written differently.
    """
    parts = bind.split(":")
    if len(parts) not in (2, 3) or (len(parts) == 3 and parts[2] not in ("ro", "rw")):
        raise ValueError("a bind is /outside:/inside, /outside:/inside:ro or /outside:/inside:rw")
    return absolute_path(parts[0]), _mount_point(parts[1]), parts[2:] == ["ro"]


def _mount_point(path: str) -> str:
    point = absolute_path(path)
    tidy = "/" + "/".join(part for part in point.split("/") if part not in ("", "."))
    if tidy == "/" or any(tidy == taken or tidy.startswith(taken + "/") for taken in RESERVED[1:] if taken != "/dev"):
        raise ValueError(f"nothing can be mounted over {tidy}")
    return tidy


def _bind(bind: str) -> str:
    split_bind(bind)
    return bind


_TMPFS_OPTION = re.compile(
    r"ro|rw|exec|noexec|nosuid|nodev|mode=[0-7]{3,4}|size=\d+[kmgKMG]?|nr_inodes=\d+[kmgKMG]?|uid=\d+|gid=\d+"
)


def _tmpfs(mounts: Mapping[str, str]) -> dict[str, str]:
    tidy = {}
    for point, options in mounts.items():
        for option in filter(None, options.split(",")):
            if not _TMPFS_OPTION.fullmatch(option):
                raise ValueError(f"{option!r} is not an option for a tmpfs")
        tidy[_mount_point(point)] = options
    return tidy


class OCIConfig(ConfigModel):
    """The embedded backend: a container for each login, made by crun or runc without a daemon."""

    image: Text = ""
    """The container's image: a folder with a root file system (`/srv/rootfs`), an OCI layout (`oci:/path` or
    `oci:/path:tag`), a file from `docker save` (`docker-archive:/path`, `docker-archive:/path:name:tag`, or any path
    that ends in `.tar`), or an image in a registry (`docker://alpine:3.20` or just `alpine:3.20`)."""

    image_pull_policy: OCIPullPolicy = OCIPullPolicy.IF_NOT_PRESENT
    """When to ask the registry. Files and folders are checked for changes at each login, whatever this says."""

    auth: OCIAuth | None = None
    """Credentials for the registry."""

    image_size_max: Size = 20 * 1024**3
    """The most disk space that an image may take while it is fetched and unpacked, packed and unpacked together; 0
    means no limit. It does not apply to folders, which are not copied."""

    image_expiry: Duration = seconds(30 * 24 * 3600)
    """How long an unpacked image is kept after its last use; 0 means forever. It cannot be changed for a login."""

    runtime: Text = "auto"
    """`auto` (whichever works, crun first), `crun`, `runc`, or the absolute path of one of the two. It cannot be
    changed for a login."""

    data_directory: Text = ""
    """Where unpacked images and the changes of running containers live. Empty: `oci` in the server's state folder. It
    cannot be changed for a login."""

    mode: OCIMode = OCIMode.CONNECTION
    """`connection`: one container per login; `session`: one per session channel."""

    env: tuple[Variable, ...] = ()
    """Environment variables, `NAME=value`, in addition to the image's."""

    user: Text = ""
    """Who programs run as: `name`, `name:group`, or numbers. Empty: as the image says, else root."""

    working_directory: Text = ""
    """Where programs start. Empty: as the image says, else /."""

    hostname: Text = ""
    """Empty: the first twelve digits of the connection id."""

    entrypoint: tuple[Text, ...] | None = None
    """What starts the agent, which is the container's first process otherwise. Unset: the image's own entrypoint, which
    must then run the command it is given, as most do; `[]`: none."""

    shell_command: tuple[Text, ...] = ()
    """What a session without a command runs. Empty: the user's shell in the image's /etc/passwd, else /bin/bash, else
    /bin/sh. (The docker backend has /bin/bash here, which small images lack.)"""

    subsystems: dict[Text, Text] = Field(default_factory=lambda: {"sftp": "/usr/lib/openssh/sftp-server"})
    """The program of each subsystem."""

    background_processes: Literal["hangUp", "end", "keep"] = "hangUp"
    """What happens to processes that are still running when their session ends. `hangUp`: they receive SIGHUP; those
    that ignore it (`nohup`) or have a session of their own (`setsid`, daemons) live until the login ends. `end`: all of
    them are ended, wherever they went. `keep`: all of them live until the login ends."""

    expose_auth_metadata_as_env: Annotated[bool, Field(alias="exposeAuthMetadataAsEnv")] = False
    """Pass the metadata of the authentication to programs as environment variables."""

    read_only_root: bool = False
    """Make the container's own file system read-only; use `tmpfs` for what must be writable."""

    binds: tuple[Annotated[str, AfterValidator(_bind)], ...] = ()
    """Folders and files of the host: `/outside:/inside`, or `/outside:/inside:ro`. With a user namespace, what belongs
    to nobody inside (such as root's files outside) can be read there as others can."""

    tmpfs: Annotated[dict[str, str], AfterValidator(_tmpfs)] = Field(default_factory=dict)
    """Folder inside to options (`size=64m,mode=1777`, also empty): memory file systems, never setuid, no devices."""

    network: OCINetwork = OCINetwork.NONE
    """`none`: only a loopback of its own. `host`: the host's network, all its local services included, and no /sys."""

    resources: OCIResources = OCIResources.default()

    cap_add: tuple[Capability, ...] = ()
    """Capabilities in addition to Docker's default set; `ALL` for all."""

    cap_drop: tuple[Capability, ...] = ()
    """Capabilities to remove; `ALL` for all, which leaves only `capAdd`."""

    no_new_privileges: bool = True
    """Setuid programs and file capabilities have no effect. If turned off, `sudo` works inside."""

    seccomp: Text = "default"
    """`default` (system calls a container needs), `unconfined`, or a file with a profile as in the OCI runtime
    specification's `linux.seccomp`."""

    user_namespace: OCIUserNamespace = OCIUserNamespace.default()

    timeouts: OCITimeouts = OCITimeouts.default()

    @model_validator(mode="after")
    def _is_well_written(self) -> Self:
        if self.runtime not in ("auto", "crun", "runc") and not self.runtime.startswith("/"):
            raise ValueError("runtime is auto, crun, runc, or an absolute path")
        if self.seccomp not in ("default", "unconfined") and not self.seccomp.startswith("/"):
            raise ValueError("seccomp is default, unconfined, or an absolute path")
        for name, path in (("workingDirectory", self.working_directory), ("dataDirectory", self.data_directory)):
            if path and (not path.startswith("/") or ".." in PurePosixPath(path).parts):
                raise ValueError(f"{name} must be an absolute path without '..'")
        if self.user and not _USER.fullmatch(self.user):
            raise ValueError("user is name, name:group, uid or uid:gid")
        if self.hostname and not _HOST.fullmatch(self.hostname):
            raise ValueError("hostname has letters, digits, dots and dashes, at most 63 of them")
        if self.shell_command and not self.shell_command[0]:
            raise ValueError("shellCommand names no program")
        if self.image:
            parse_image(self.image)
        return self


class ImageKind(StrEnum):
    """Where an image comes from; the values are skopeo's names of transports, apart from the folder."""

    FOLDER = "folder"
    LAYOUT = "oci"
    ARCHIVE = "docker-archive"
    REGISTRY = "docker"


def parse_image(image: str) -> tuple[ImageKind, str, str]:
    """
    The kind of *image*, its path (or its registry reference), and what to take from a layout or archive (or empty).

    Raises:
        ValueError: it cannot be an image.
    """
    for kind in (ImageKind.LAYOUT, ImageKind.ARCHIVE):
        if image.startswith(f"{kind}:"):
            path, _, name = image.removeprefix(f"{kind}:").partition(":")
            if name and not _REFERENCE.fullmatch(name):
                raise ValueError(f"{name!r} is not an image name")
            return kind, absolute_path(path), name
    if image.startswith("/"):
        return (ImageKind.ARCHIVE if image.endswith(".tar") else ImageKind.FOLDER), absolute_path(image), ""
    reference = image.removeprefix("docker://")
    if not _REFERENCE.fullmatch(reference):
        raise ValueError("image is a path, oci:/path, docker-archive:/path, or a name such as alpine:3.20")
    return ImageKind.REGISTRY, reference, ""
