"""The Docker Engine's own structures in the configuration: every spelling of their keys, settled to the API's.

Upstream reads them by the lower-cased names of its Go fields in YAML, and by the Engine API's names in JSON
(``config.md`` section 7.3). Here any letter case does in both, and ``host.resources`` may be nested or flat.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from containerssh.config.model import parse_duration


@dataclass
class _Walk:
    """What is done about keys that the engine does not know: they have no effect, as upstream."""

    keep: bool = True
    unknown: list[str] = field(default_factory=list)


class Shape(ABC):
    """What a value looks like in the Engine API."""

    @abstractmethod
    def settle(self, value: Any, path: str, walk: _Walk) -> Any:
        """*value* in the API's spelling; raises ValueError that names *path*."""


def settled(shape: Shape, value: object) -> Any:
    """
    *value* in the API's spelling; unknown keys are kept as they are. Settling twice changes nothing.

    Raises:
        ValueError: a value has the wrong type, or a key comes in two spellings.
    """
    return shape.settle(value, "", _Walk())


def known(shape: Shape, value: object) -> Any:
    """A settled *value* for the engine: without the keys that it does not know."""
    return shape.settle(value, "", _Walk(keep=False))


def unknown_keys(shape: Shape, value: object) -> list[str]:
    """The keys in *value* that have no effect, each with its path and the key that may have been meant."""
    walk = _Walk()
    shape.settle(value, "", walk)
    return walk.unknown


class _Text(Shape):
    def settle(self, value: Any, path: str, walk: _Walk) -> str:
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, int | float):
            return str(value)
        if not isinstance(value, str):
            raise _wrong(path, "a string is expected")
        if "\0" in value:
            raise _wrong(path, "a text cannot contain NUL")
        return value


class _Whole(Shape):
    def settle(self, value: Any, path: str, walk: _Walk) -> int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise _wrong(path, "a whole number is expected")
        if not -(2**63) <= value < 2**64:
            raise _wrong(path, "the number is too large")
        return value


class _Flag(Shape):
    def settle(self, value: Any, path: str, walk: _Walk) -> bool:
        if isinstance(value, bool):
            return value
        # YAML 1.2 has them as text, and upstream's reader (YAML 1.1) as what they mean.
        if isinstance(value, str) and value.lower() in _WORDS:
            return _WORDS[value.lower()]
        raise _wrong(path, "true or false is expected")


_WORDS = {"yes": True, "on": True, "no": False, "off": False}


class _Nanoseconds(Shape):
    """A duration: text such as ``30s``, or a number of nanoseconds, which is what the engine gets."""

    def settle(self, value: Any, path: str, walk: _Walk) -> int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        try:
            duration = parse_duration(value)
        except ValueError as exc:
            raise _wrong(path, str(exc)) from None
        return (duration.days * 86_400 + duration.seconds) * 10**9 + duration.microseconds * 1000


class _Empty(Shape):
    """Go's ``struct{}``: the values of sets such as ``volumes``."""

    def settle(self, value: Any, path: str, walk: _Walk) -> dict[str, Any]:
        if value not in ({}, None, ""):
            raise _wrong(path, "nothing but {} is expected")
        return {}


@dataclass(frozen=True)
class _List(Shape):
    item: Shape

    def settle(self, value: Any, path: str, walk: _Walk) -> list[Any]:
        if isinstance(value, str | bytes | Mapping) or not isinstance(value, list | tuple):
            raise _wrong(path, "a list is expected")
        return [self.item.settle(item, f"{path}[{number}]", walk) for number, item in enumerate(value)]


class _Command(Shape):
    """A list of arguments, or one text, which the engine's JSON takes for a list of one."""

    def settle(self, value: Any, path: str, walk: _Walk) -> list[str]:
        if isinstance(value, str):
            return [value]
        return _List(TEXT).settle(value, path, walk)


@dataclass(frozen=True)
class _Map(Shape):
    item: Shape

    def settle(self, value: Any, path: str, walk: _Walk) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise _wrong(path, "a map is expected")
        result = {}
        for key, item in value.items():
            name = TEXT.settle(key, path, walk)
            if item is not None or isinstance(self.item, _Empty):
                result[name] = self.item.settle(item, _join(path, name), walk)
        return result


class Structure(Shape):
    """An object with named fields; *flattened* names a group of them that may also stand in an object of its own."""

    def __init__(self, fields: Mapping[str, Shape], *, flattened: tuple[str, Structure] | None = None) -> None:
        self._flattened = flattened
        self.fields: dict[str, Shape] = {**fields, **(flattened[1].fields if flattened else {})}
        self._names = {_fold(name): name for name in self.fields}

    def settle(self, value: Any, path: str, walk: _Walk) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise _wrong(path, "a map is expected")
        result: dict[str, Any] = {}
        for key, item in value.items():
            if item is None:
                continue
            folded = _fold(str(key))
            if self._flattened and folded == self._flattened[0]:
                parts = self._flattened[1].settle(item, _join(path, str(key)), walk)
            elif name := self._names.get(folded):
                parts = {name: self.fields[name].settle(item, _join(path, str(key)), walk)}
            else:
                walk.unknown.append(self._describe(str(key), path))
                parts = {str(key): item} if walk.keep else {}
            for name, part in parts.items():
                if name in result:
                    raise _wrong(_join(path, str(key)), f"{name} is given twice")
                result[name] = part
        return result

    def _describe(self, key: str, path: str) -> str:
        close = get_close_matches(_fold(key), self._names, 1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        return _join(path, key) + hint


def _fold(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _wrong(path: str, what: str) -> ValueError:
    return ValueError(f"{path}: {what}" if path else what)


TEXT, WHOLE, FLAG, NANOSECONDS, EMPTY, COMMAND = _Text(), _Whole(), _Flag(), _Nanoseconds(), _Empty(), _Command()
TEXTS, TEXT_MAP, SET = _List(TEXT), _Map(TEXT), _Map(EMPTY)


def _fields(shape: Shape, names: str) -> dict[str, Shape]:
    return dict.fromkeys(names.split(), shape)


CONTAINER = Structure(
    _fields(TEXT, "Hostname Domainname User Image WorkingDir MacAddress StopSignal")
    | _fields(FLAG, "AttachStdin AttachStdout AttachStderr Tty OpenStdin StdinOnce ArgsEscaped NetworkDisabled")
    | _fields(TEXTS, "Env OnBuild")
    | _fields(COMMAND, "Cmd Entrypoint Shell")
    | _fields(SET, "ExposedPorts Volumes")
    | {
        "Healthcheck": Structure(
            {"Test": TEXTS, "Retries": WHOLE} | _fields(NANOSECONDS, "Interval Timeout StartPeriod StartInterval")
        ),
        "Labels": TEXT_MAP,
        "StopTimeout": WHOLE,
    }
)
"""``docker.execution.container``: the Engine API's ContainerConfig."""

_RATES = _List(Structure({"Path": TEXT, "Rate": WHOLE}))

RESOURCES = Structure(
    _fields(
        WHOLE,
        "CpuShares Memory NanoCpus BlkioWeight CpuPeriod CpuQuota CpuRealtimePeriod CpuRealtimeRuntime KernelMemory"
        " KernelMemoryTCP MemoryReservation MemorySwap MemorySwappiness PidsLimit CpuCount CpuPercent IOMaximumIOps"
        " IOMaximumBandwidth",
    )
    | _fields(TEXT, "CgroupParent CpusetCpus CpusetMems")
    | _fields(_RATES, "BlkioDeviceReadBps BlkioDeviceWriteBps BlkioDeviceReadIOps BlkioDeviceWriteIOps")
    | {
        "BlkioWeightDevice": _List(Structure({"Path": TEXT, "Weight": WHOLE})),
        "Devices": _List(Structure(_fields(TEXT, "PathOnHost PathInContainer CgroupPermissions"))),
        "DeviceCgroupRules": TEXTS,
        "DeviceRequests": _List(
            Structure(
                {
                    "Driver": TEXT,
                    "Count": WHOLE,
                    "DeviceIDs": TEXTS,
                    "Capabilities": _List(TEXTS),
                    "Options": TEXT_MAP,
                }
            )
        ),
        "OomKillDisable": FLAG,
        "Ulimits": _List(Structure({"Name": TEXT, "Hard": WHOLE, "Soft": WHOLE})),
    }
)
"""``docker.execution.host.resources``; the API has these fields in HostConfig itself."""

_DRIVER = Structure({"Name": TEXT, "Options": TEXT_MAP})

MOUNT = Structure(
    _fields(TEXT, "Type Source Target Consistency")
    | {
        "ReadOnly": FLAG,
        "BindOptions": Structure(
            {"Propagation": TEXT}
            | _fields(FLAG, "NonRecursive CreateMountpoint ReadOnlyNonRecursive ReadOnlyForceRecursive")
        ),
        "VolumeOptions": Structure({"NoCopy": FLAG, "Labels": TEXT_MAP, "Subpath": TEXT, "DriverConfig": _DRIVER}),
        "ImageOptions": Structure({"Subpath": TEXT}),
        "TmpfsOptions": Structure({"SizeBytes": WHOLE, "Mode": WHOLE, "Options": _List(TEXTS)}),
        "ClusterOptions": Structure({}),
    }
)

HOST = Structure(
    _fields(
        TEXT,
        "ContainerIDFile NetworkMode VolumeDriver CgroupnsMode IpcMode Cgroup PidMode UTSMode UsernsMode Runtime"
        " Isolation",
    )
    | _fields(FLAG, "AutoRemove Privileged PublishAllPorts ReadonlyRootfs Init")
    | _fields(
        TEXTS,
        "Binds VolumesFrom CapAdd CapDrop Dns DnsOptions DnsSearch ExtraHosts GroupAdd Links SecurityOpt MaskedPaths"
        " ReadonlyPaths",
    )
    | _fields(TEXT_MAP, "Annotations StorageOpt Tmpfs Sysctls")
    | _fields(WHOLE, "OomScoreAdj ShmSize")
    | {
        "LogConfig": Structure({"Type": TEXT, "Config": TEXT_MAP}),
        "PortBindings": _Map(_List(Structure(_fields(TEXT, "HostIp HostPort")))),
        "RestartPolicy": Structure({"Name": TEXT, "MaximumRetryCount": WHOLE}),
        "ConsoleSize": _List(WHOLE),
        "Mounts": _List(MOUNT),
    },
    flattened=("resources", RESOURCES),
)
"""``docker.execution.host``: the Engine API's HostConfig."""

NETWORK = Structure(
    {
        "EndpointsConfig": _Map(
            Structure(
                _fields(
                    TEXT,
                    "MacAddress NetworkID EndpointID Gateway IPAddress IPv6Gateway GlobalIPv6Address",
                )
                | _fields(TEXTS, "Links Aliases DNSNames")
                | _fields(WHOLE, "GwPriority IPPrefixLen GlobalIPv6PrefixLen")
                | {
                    "IPAMConfig": Structure(_fields(TEXT, "IPv4Address IPv6Address") | {"LinkLocalIPs": TEXTS}),
                    "DriverOpts": TEXT_MAP,
                }
            )
        )
    }
)
"""``docker.execution.network``: the Engine API's NetworkingConfig."""

PLATFORM = Structure(_fields(TEXT, "architecture os os.version variant") | {"os.features": TEXTS})
"""``docker.execution.platform``: the OCI image specification's platform."""

STRUCTURES: Mapping[str, Structure] = {
    "container": CONTAINER,
    "host": HOST,
    "network": NETWORK,
    "platform": PLATFORM,
}
"""The keys of ``docker.execution`` whose values are the engine's structures."""
