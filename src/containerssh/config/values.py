"""Values that sections share: sizes, paths, variables, capabilities."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, PlainSerializer, WithJsonSchema

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_LARGEST = 2**63 - 1


def parse_size(value: object) -> int:
    """
    A number of bytes, or Docker's way of writing one: ``512m``, ``1.5g``, ``64k`` (powers of 1024).

    Raises:
        ValueError: neither, or more than a kernel can count.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    elif isinstance(value, str) and (match := _SIZE.fullmatch(value.strip())):
        try:
            size = int(Decimal(match.group(1)) * 1024 ** _POWERS[match.group(2).lower()])
        except InvalidOperation as exc:
            raise ValueError("the size is too large") from exc
    else:
        raise ValueError("a size is a number of bytes, or a string such as 512m or 1.5g")
    if not 0 <= size <= _LARGEST:
        raise ValueError("a size is between 0 and 2^63-1 bytes")
    return size


def format_size(size: int) -> str:
    """The size in the largest unit that needs no fraction: ``512m``, ``1g``, ``1000``."""
    for unit in ("t", "g", "m", "k"):
        if size and size % 1024 ** _POWERS[unit] == 0:
            return f"{size // 1024 ** _POWERS[unit]}{unit}"
    return str(size)


Size = Annotated[
    int,
    BeforeValidator(parse_size),
    PlainSerializer(format_size, return_type=str),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "integer", "minimum": 0}]}),
]


def without_nul(text: str) -> str:
    """*text*; raises ValueError."""
    if "\0" in text:
        raise ValueError("the text contains a NUL byte")
    return text


def absolute_path(path: str) -> str:
    """*path*; raises ValueError."""
    if not path.startswith("/") or ".." in PurePosixPath(path).parts:
        raise ValueError("must be an absolute path without '..'")
    return without_nul(path)


def _variable(entry: str) -> str:
    name, equals, _ = entry.partition("=")
    if not name or not equals:
        raise ValueError("an environment entry is NAME=value")
    return without_nul(entry)


Text = Annotated[str, AfterValidator(without_nul)]
Variable = Annotated[str, AfterValidator(_variable)]

CAPABILITIES = [
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "PERFMON",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
]
"""What capabilities(7) names, without ``CAP_``."""


def _capability(name: str) -> str:
    short = name.upper().removeprefix("CAP_")
    if short != "ALL" and short not in CAPABILITIES:
        raise ValueError(f"there is no capability {name!r}")
    return short


Capability = Annotated[str, AfterValidator(_capability)]


def is_missing(path: Path) -> bool:
    """Whether nothing is at *path*. Not where a folder on the way may not be entered: whoever opens it tells that."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):
        return False
    return False


def is_folder(path: Path) -> bool:
    """Whether *path* is a folder, as far as that can be told."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False
