"""What an engine left out of a HostConfig, and which of Podman's refusals last."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containerssh.backends.docker.answers import ContainerState
from containerssh.backends.docker.engine_error import Cure, refusal
from containerssh.backends.docker.restrictions import missing_isolation, missing_limits
from containerssh.core.codes import DockerCode


def state(host: dict[str, Any] | None = None, runtime: str = "") -> ContainerState:
    return ContainerState(False, 0, "", False, host or {}, runtime)


@pytest.mark.parametrize(
    ("wanted", "found", "missing"),
    [
        ({}, state(), []),
        ({"Runtime": "crun"}, state({"Runtime": "oci"}, "crun"), []),
        ({"Runtime": "crun"}, state({"Runtime": "oci"}, "/usr/bin/crun"), []),
        ({"Runtime": "crun"}, state({"Runtime": "oci"}, "runc"), ["Runtime"]),
        ({"Runtime": "runsc"}, state({"Runtime": "runsc"}), []),
        ({"MaskedPaths": []}, state({"MaskedPaths": None}), []),
        ({"MaskedPaths": ["/a"]}, state({"MaskedPaths": None}), ["MaskedPaths"]),
        ({"ReadonlyPaths": ["/a"]}, state({"ReadonlyPaths": ["/b", "/a"]}), []),
    ],
)
def test_walls_that_are_missing_are_found(wanted: dict[str, Any], found: ContainerState, missing: list[str]) -> None:
    assert missing_isolation(wanted, found) == missing


@pytest.mark.parametrize(
    ("wanted", "found", "missing"),
    [
        ({"Memory": 1, "PidsLimit": 2}, {"Memory": 1, "PidsLimit": 2}, []),
        ({"Memory": 1, "PidsLimit": 2}, {"Memory": 0, "PidsLimit": 0}, ["Memory", "PidsLimit"]),
        ({"Memory": 0, "PidsLimit": -1}, {}, []),
        ({"NanoCpus": 10**9}, {"NanoCpus": 0, "CpuQuota": 100000}, []),
        ({"Ulimits": [{"Name": "nofile"}]}, {"Ulimits": [{"Name": "RLIMIT_NOFILE"}]}, []),
        ({"Ulimits": [{"Name": "nofile"}]}, {"Ulimits": [{"Name": "RLIMIT_NPROC"}]}, ["Ulimits"]),
    ],
)
def test_limits_that_are_missing_are_found(wanted: dict[str, Any], found: dict[str, Any], missing: list[str]) -> None:
    assert missing_limits(wanted, state(found)) == missing


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
)
KEYS = st.sampled_from(["Runtime", "MaskedPaths", "ReadonlyPaths", "Memory", "NanoCpus", "CpuQuota", "Ulimits", "Name"])


@given(st.dictionaries(KEYS, JSON | st.lists(st.dictionaries(KEYS, JSON))), st.text())
def test_any_description_of_a_container_is_read(host: dict[str, Any], runtime: str) -> None:
    wanted = {"Runtime": "crun", "MaskedPaths": ["/a"], "Memory": 1, "Ulimits": [{"Name": "nofile"}]}
    found = state(host, runtime)
    assert set(missing_isolation(wanted, found) + missing_limits(wanted, found)) <= set(wanted)


@pytest.mark.parametrize(
    ("cause", "cure"),
    [
        ("network not found", Cure.NOTHING),
        ("OCI permission denied", Cure.NOTHING),
        ("no matching entries in passwd file", Cure.NOTHING),
        ("database is locked", Cure.FEW_TRIES),
    ],
)
def test_podmans_status_500_with_a_cause_that_lasts_is_not_tried_again(cause: str, cure: Cure) -> None:
    body = json.dumps({"cause": cause, "message": f"it failed: {cause}", "response": 500}).encode()
    error = refusal(DockerCode.CONTAINER_START_FAILED, "starting", 500, body)
    assert (error.cure, error.explanation) == (cure, f"starting failed: it failed: {cause}")
    assert refusal(DockerCode.CONTAINER_REMOVE_FAILED, "removing", 500, body).cure is Cure.FEW_TRIES


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()), st.integers(100, 599))
def test_any_refusal_is_understood(body: bytes, status: int) -> None:
    assert refusal(DockerCode.CONTAINER_START_FAILED, "starting", status, body).explanation.startswith(
        "starting failed"
    )
