"""Detection of restrictions that an engine silently dropped: Podman does that, Docker refuses or warns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from containerssh.backends.docker.answers import ContainerState

_LIMITS = ("Memory", "PidsLimit", "NanoCpus", "CpuQuota", "CpusetCpus")


def missing_isolation(wanted: Mapping[str, Any], found: ContainerState) -> list[str]:
    """The isolation keys of the HostConfig *wanted* that were not applied to the container *found*."""
    keys = []
    runtime = wanted.get("Runtime")
    if runtime and PurePath(runtime).name != PurePath(found.runtime or _text(found.host.get("Runtime"))).name:
        keys.append("Runtime")
    for key in ("MaskedPaths", "ReadonlyPaths"):
        there = _list(found.host.get(key))
        if any(path not in there for path in wanted.get(key) or ()):
            keys.append(key)
    return keys


def missing_limits(wanted: Mapping[str, Any], found: ContainerState) -> list[str]:
    """The resource limits of the HostConfig *wanted* that were not applied to the container *found*."""
    has = {**found.host, "NanoCpus": found.host.get("NanoCpus") or found.host.get("CpuQuota")}
    keys = [key for key in _LIMITS if wanted.get(key) and wanted[key] != -1 and not has.get(key)]
    names = {
        str(limit.get("Name")).lower().removeprefix("rlimit_")
        for limit in _list(found.host.get("Ulimits"))
        if isinstance(limit, dict)
    }
    if any(limit.get("Name", "").lower() not in names for limit in wanted.get("Ulimits") or ()):
        keys.append("Ulimits")
    return keys


def _list(value: object) -> list[Any]:
    return [entry for entry in value if isinstance(entry, str | dict)] if isinstance(value, list) else []


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
