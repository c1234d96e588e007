"""What a container is allowed, as the runtime is told."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from containerssh.backends.oci.bundle import BundleSpec, IdMap, Limits, runtime_config, wanted_capabilities
from containerssh.backends.oci.seccomp import ALLOWED, BY_CAPABILITY, REFUSED, default_profile
from containerssh.backends.oci.users import User
from containerssh.config.oci import OCIConfig
from containerssh.core.errors import BackendError


def made(config: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "root": "/mnt/root",
        "argv": ["/x"],
        "environment": {"A": "b"},
        "user": User(0, 0),
        "working_directory": "/",
        "hostname": "h",
        "id_map": IdMap(1000000, 65536),
        "user_namespace": None,
        "cgroup": "/containerssh/i/c",
        "limits": Limits(1 << 30, 100, 1.5, swap_can_be_limited=True),
        "mounts": [("/mnt/1", "/.containerssh", True)],
        "binds": [],
        "annotations": {},
    }
    return runtime_config(OCIConfig.model_validate(config or {}), BundleSpec(**(spec | changes)))


def test_a_seccomp_profile_that_is_a_pipe_holds_nobody_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BackendError, match="cannot be read"):
        made({"seccomp": str(tmp_path / "pipe")})


def test_a_container_has_every_namespace_of_its_own() -> None:
    kinds = {entry["type"] for entry in made()["linux"]["namespaces"]}
    assert kinds == {"pid", "ipc", "uts", "mount", "cgroup", "network", "user"}


def test_only_the_network_is_shared_when_it_is_asked_for() -> None:
    linux = made({"network": "host"})["linux"]
    assert "network" not in {entry["type"] for entry in linux["namespaces"]}
    assert {"user", "pid"} <= {entry["type"] for entry in linux["namespaces"]}


def test_no_capability_is_inherited_or_ambient() -> None:
    assert set(made()["process"]["capabilities"]) == {"bounding", "effective", "permitted"}


def test_another_user_than_root_holds_no_capability() -> None:
    held = made(user=User(1000, 1000))["process"]["capabilities"]
    assert held["effective"] == held["permitted"] == []


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"capDrop": ["ALL"]}, []),
        ({"capDrop": ["ALL"], "capAdd": ["chown"]}, ["CAP_CHOWN"]),
        ({"capDrop": ["CHOWN", "KILL"]}, None),
    ],
)
def test_capabilities_can_be_dropped_and_added(section: dict[str, Any], expected: list[str] | None) -> None:
    got = wanted_capabilities(OCIConfig.model_validate(section))
    if expected is None:
        assert "CAP_CHOWN" not in got
        assert "CAP_SETUID" in got
    else:
        assert got == expected


@pytest.mark.parametrize("guard", [{"id_map": IdMap(1000000, 65536)}, {"cgroup": "/containerssh/i/c"}])
def test_devices_are_made_only_where_something_keeps_the_container_from_them(guard: dict[str, Any]) -> None:
    nothing = {"id_map": None, "cgroup": None}
    assert "CAP_MKNOD" not in made(**nothing)["process"]["capabilities"]["bounding"]
    assert "CAP_MKNOD" in made({"capAdd": ["MKNOD"]}, **nothing)["process"]["capabilities"]["bounding"]
    assert "CAP_MKNOD" in made(**(nothing | guard))["process"]["capabilities"]["bounding"]


def test_the_default_capabilities_are_none_that_reach_the_host() -> None:
    dangerous = {"CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_SYS_MODULE", "CAP_NET_ADMIN", "CAP_DAC_READ_SEARCH", "CAP_BPF"}
    assert not dangerous & set(wanted_capabilities(OCIConfig()))


def test_limits_reach_the_control_groups() -> None:
    resources = made()["linux"]["resources"]
    assert resources["memory"] == {"limit": 1 << 30, "swap": 1 << 30}
    assert resources["pids"] == {"limit": 100}
    assert resources["cpu"] == {"quota": 150000, "period": 100000}
    assert resources["devices"][0] == {"allow": False, "access": "rwm"}


def test_without_control_groups_there_is_no_word_of_them() -> None:
    linux = made(cgroup=None)["linux"]
    assert "cgroupsPath" not in linux
    assert linux["resources"] == {}


def test_what_is_bound_is_never_setuid_and_the_agent_read_only() -> None:
    config = made({"binds": ["/a:/b", "/c:/d:ro"]}, binds=["/mnt/0", "/mnt/1"], mounts=[("/mnt/2", "/x", True)])
    bound = {mount["destination"]: mount for mount in config["mounts"] if mount["type"] == "bind"}
    assert bound["/b"]["source"] == "/mnt/0"
    assert "rw" in bound["/b"]["options"]
    assert "ro" in bound["/d"]["options"]
    assert "ro" in bound["/x"]["options"]
    assert all({"nosuid", "nodev"} <= set(mount["options"]) for mount in bound.values())


def test_a_tmpfs_is_never_setuid_whatever_its_options() -> None:
    mounts = made({"tmpfs": {"/x": "exec,size=1m"}})["mounts"]
    [tmpfs] = [mount for mount in mounts if mount["destination"] == "/x"]
    assert tmpfs["options"] == ["exec", "size=1m", "nosuid", "nodev"]


def test_the_profile_allows_and_refuses_different_calls() -> None:
    assert not ALLOWED & REFUSED
    assert {"mount", "unshare", "setns", "bpf", "keyctl", "io_uring_setup", "userfaultfd"} <= REFUSED
    assert {"read", "execve", "ptrace", "arch_prctl", "rseq", "fchmodat2"} <= ALLOWED
    assert not {"clone", "clone3", "socket", "personality"} & ALLOWED


def test_a_capability_brings_the_calls_it_is_for() -> None:
    def allowed(*capabilities: str) -> set[str]:
        return {
            name
            for rule in default_profile(capabilities)["syscalls"]
            if rule["action"] == "SCMP_ACT_ALLOW" and "args" not in rule
            for name in rule["names"]
        }

    for capability, calls in BY_CAPABILITY.items():
        assert set(calls.split()) <= allowed(capability)
    assert "mount" not in allowed("CAP_CHOWN")


def test_a_new_namespace_cannot_be_cloned() -> None:
    [rule] = [rule for rule in default_profile([])["syscalls"] if rule["names"] == ["clone"]]
    [arg] = rule["args"]
    for flag in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert arg["value"] & flag


def test_an_own_profile_is_used_as_it_is(tmp_path: Path) -> None:
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": []}
    (tmp_path / "p.json").write_text(json.dumps(profile))
    assert made({"seccomp": str(tmp_path / "p.json")})["linux"]["seccomp"] == profile


@pytest.mark.parametrize("text", ["", "[]", "{}", "[" * 100_000, '{"defaultAction": "X", "archMap": []}'])
def test_a_profile_that_no_runtime_reads_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(BackendError, match="seccomp"):
        made({"seccomp": str(tmp_path / "p.json")})


def test_unconfined_means_no_profile() -> None:
    assert "seccomp" not in made({"seccomp": "unconfined"})["linux"]
