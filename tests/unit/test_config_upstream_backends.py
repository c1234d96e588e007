"""Every key of upstream's reference manual below ``docker`` and ``kubernetes``: names, defaults, spellings."""

from __future__ import annotations

from typing import Any

import pytest

from containerssh.config.app import AppConfig
from containerssh.config.docker_structures import CONTAINER, HOST, MOUNT, NETWORK, PLATFORM, Structure, settled
from containerssh.config.docker_structures import unknown_keys as keys_without_effect

IDLE = ["/usr/bin/containerssh-agent", "wait-signal", "--signal", "INT", "--signal", "TERM"]
AGENT: dict[str, Any] = {
    "idleCommand": IDLE,
    "shellCommand": ["/bin/bash"],
    "agentPath": "/usr/bin/containerssh-agent",
    "disableAgent": False,
    "subsystems": {"sftp": "/usr/lib/openssh/sftp-server"},
    "mode": "connection",
}
MINUTE = "1m0s"
IMAGE = "containerssh/containerssh-guest-image"
DEFAULTS: dict[str, dict[str, Any]] = {
    "docker.connection": {"host": "unix:///var/run/docker.sock", "cacert": "", "cert": "", "key": ""},
    "docker.execution": {
        **AGENT,
        "containername": "",
        "auth": None,
        "imagePullPolicy": "IfNotPresent",
        "exposeAuthMetadataAsEnv": False,
        "container": {"Image": IMAGE},
    },
    "docker.timeouts": {
        **dict.fromkeys(("containerStart", "containerStop", "commandStart", "signal", "window"), MINUTE),
        "http": "15s",
    },
    "kubernetes.connection": {
        "host": "kubernetes.default.svc",
        "path": "/api",
        **dict.fromkeys(("username", "password", "serverName", "certFile", "keyFile", "cacertFile"), ""),
        **dict.fromkeys(("cert", "key", "cacert", "bearerToken", "bearerTokenFile"), ""),
        "qps": 5.0,
        "burst": 10,
    },
    "kubernetes.pod": {
        **AGENT,
        "metadata": {"namespace": "default", "generateName": "containerssh-"},
        "spec": {"containers": [{"name": "shell", "image": IMAGE}]},
        "consoleContainerNumber": 0,
        "createMissingPods": False,
        "exposeAuthMetadataAsEnv": {},
        "exposeAuthMetadataAsLabels": {},
        "exposeAuthMetadataAsAnnotations": {},
    },
    "kubernetes.timeouts": {
        **dict.fromkeys(("podStart", "podStop", "commandStart", "signal", "window"), MINUTE),
        "http": "15s",
    },
}
KEYS = [(f"{section}.{key}", default) for section, keys in DEFAULTS.items() for key, default in keys.items()]

STRUCTURES: dict[str, tuple[Structure, str]] = {
    "container": (
        CONTAINER,
        (
            "hostname domainname user attachstdin attachstdout attachstderr exposedports tty openstdin stdinonce env"
            " cmd healthcheck argsescaped image volumes workingdir entrypoint networkdisabled macaddress onbuild labels"
            " stopsignal stoptimeout shell"
        ),
    ),
    "host": (
        HOST,
        (
            "binds containeridfile logconfig networkmode portbindings restartpolicy autoremove volumedriver volumesfrom"
            " consolesize annotations capadd capdrop cgroupnsmode dns dnsoptions dnssearch extrahosts groupadd ipcmode"
            " cgroup links oomscoreadj pidmode privileged publishallports readonlyrootfs securityopt storageopt tmpfs"
            " utsmode usernsmode shmsize sysctls runtime isolation resources mounts maskedpaths readonlypaths init"
            # What is below resources in YAML is flat in JSON.
            " cpushares memory nanocpus cgroupparent blkioweight blkioweightdevice blkiodevicereadbps"
            " blkiodevicewritebps blkiodevicereadiops blkiodevicewriteiops cpuperiod cpuquota cpurealtimeperiod"
            " cpurealtimeruntime cpusetcpus cpusetmems"
            " devices devicecgrouprules devicerequests kernelmemory kernelmemorytcp memoryreservation"
            " memoryswap memoryswappiness oomkilldisable pidslimit ulimits cpucount cpupercent iomaximumiops"
            " iomaximumbandwidth"
        ),
    ),
    "mount": (
        MOUNT,
        "type source target readonly consistency bindoptions volumeoptions imageoptions tmpfsoptions clusteroptions",
    ),
    "network": (NETWORK, "endpointsconfig"),
    "platform": (PLATFORM, "architecture os osversion osfeatures variant os.version os.features"),
}
NESTED: list[tuple[Structure, dict[str, Any]]] = [
    (
        CONTAINER,
        {
            "healthcheck": {
                "test": ["CMD"],
                "retries": 1,
                **dict.fromkeys(("interval", "timeout", "startperiod", "startinterval"), "1s"),
            }
        },
    ),
    (
        HOST,
        {"logconfig": {"type": "none", "config": {"a": "b"}}, "restartpolicy": {"name": "", "maximumretrycount": 1}},
    ),
    (HOST, {"portbindings": {"80/tcp": [{"hostip": "::1", "hostport": "80"}]}}),
    (
        HOST,
        {
            "resources": {
                "devices": [dict.fromkeys(("pathonhost", "pathincontainer", "cgrouppermissions"), "r")],
                "devicerequests": [
                    {"driver": "x", "count": 1, "deviceids": ["0"], "capabilities": [["gpu"]], "options": {"a": "b"}}
                ],
                "ulimits": [{"name": "nofile", "hard": 2, "soft": 1}],
            }
        },
    ),
    (
        MOUNT,
        {
            "bindoptions": {
                "propagation": "rprivate",
                **dict.fromkeys(
                    ("nonrecursive", "createmountpoint", "readonlynonrecursive", "readonlyforcerecursive"), True
                ),
            },
            "volumeoptions": {
                "nocopy": True,
                "labels": {"a": "b"},
                "subpath": "x",
                "driverconfig": {"name": "n", "options": {"a": "b"}},
            },
            "imageoptions": {"subpath": "x"},
            "tmpfsoptions": {"sizebytes": 1, "mode": 448, "options": [["noexec"]]},
        },
    ),
    (
        NETWORK,
        {
            "endpointsconfig": {
                "lab": {
                    "ipamconfig": {"ipv4address": "10.0.0.2", "ipv6address": "::2", "linklocalips": ["169.254.0.1"]},
                    "links": ["a"],
                    "aliases": ["b"],
                    "driveropts": {"a": "b"},
                    "gwpriority": 1,
                    "dnsnames": ["c"],
                    "ipprefixlen": 24,
                    "globalipv6prefixlen": 64,
                    **dict.fromkeys(
                        (
                            *("macaddress", "networkid", "endpointid", "gateway", "ipaddress"),
                            *("ipv6gateway", "globalipv6address"),
                        ),
                        "x",
                    ),
                }
            }
        },
    ),
]


def value_at(path: str, config: AppConfig) -> Any:
    value: Any = config.model_dump(mode="json", by_alias=True)
    for key in path.split("."):
        value = value[key]
    return value


@pytest.mark.parametrize(("path", "default"), KEYS, ids=[path for path, _ in KEYS])
def test_each_key_has_upstreams_name_and_default(path: str, default: object) -> None:
    assert value_at(path, AppConfig.model_validate({})) == default


@pytest.mark.parametrize("path", [path for path, default in KEYS if default in (MINUTE, "15s")])
def test_timeouts_are_texts_or_nanoseconds(path: str) -> None:
    backend, _, key = path.split(".")
    for value in ("1m30s", 90_000_000_000):
        config = AppConfig.model_validate({backend: {"timeouts": {key: value}}})
        assert value_at(path, config) == "1m30s"


@pytest.mark.parametrize("name", STRUCTURES)
def test_each_key_of_the_engines_structures_is_known_in_lower_case(name: str) -> None:
    shape, keys = STRUCTURES[name]
    for key in keys.split():
        assert not keys_without_effect(shape, {key: fitting(shape, key)}), key


def fitting(shape: Structure, key: str) -> object:
    """A value that the key takes."""
    candidates: tuple[object, ...] = ("1s", 1, True, [], {})
    for value in candidates:
        try:
            settled(shape, {key: value})
        except ValueError:
            continue
        return value
    raise AssertionError(key)


@pytest.mark.parametrize(("shape", "value"), NESTED)
def test_the_keys_below_them_are_known_too(shape: Structure, value: dict[str, Any]) -> None:
    assert keys_without_effect(shape, value) == []
    assert len(settled(shape, value)) >= len(value)


def test_what_is_given_joins_or_replaces_the_defaults_as_in_upstream() -> None:
    config = AppConfig.model_validate(
        {
            "docker": {"execution": {"subsystems": {"other": "/o"}}},
            "kubernetes": {
                "pod": {
                    "subsystems": {"other": "/o"},
                    "metadata": {"name": "mine"},
                    "spec": {"containers": [{"tty": True}, {"name": "second", "image": "b"}]},
                }
            },
        }
    )
    assert value_at("docker.execution.subsystems", config) == {"other": "/o"}
    assert value_at("kubernetes.pod.subsystems", config) == {**AGENT["subsystems"], "other": "/o"}
    assert value_at("kubernetes.pod.metadata", config) == {
        "namespace": "default",
        "generateName": "containerssh-",
        "name": "mine",
    }
    first, second = value_at("kubernetes.pod.spec.containers", config)
    assert first == {"name": "shell", "image": IMAGE, "tty": True}
    assert second == {"name": "second", "image": "b"}
