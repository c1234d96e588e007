"""The oci section: what it accepts, and what it says about the rest."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from containerssh.config.oci import (
    ImageKind,
    OCIConfig,
    parse_image,
    split_bind,
)
from containerssh.config.values import format_size, parse_size


def test_everything_has_a_default_but_the_image() -> None:
    config = OCIConfig()
    assert config.image == ""
    assert config.user_namespace.enabled
    assert config.network == "none"
    assert config.no_new_privileges


def test_what_is_dumped_can_be_read_again() -> None:
    config = OCIConfig.model_validate(
        {
            "image": "alpine:3.20",
            "resources": {"memory": "512m", "cpus": 1.5, "shmSize": "1g"},
            "tmpfs": {"/tmp": "size=5m"},
            "binds": ["/srv:/data:ro"],
            "capDrop": ["all"],
            "capAdd": ["CAP_NET_RAW"],
            "timeouts": {"containerStart": "5s"},
        }
    )
    assert OCIConfig.model_validate(config.model_dump(mode="json", by_alias=True)) == config


@pytest.mark.parametrize(
    ("written", "size"),
    [
        ("512m", 512 << 20),
        ("1.5G", 3 << 29),
        ("64k", 65536),
        ("10", 10),
        (10, 10),
        ("2 GiB", 2 << 30),
        ("1tb", 1 << 40),
    ],
)
def test_sizes_are_written_as_docker_has_them(written: object, size: int) -> None:
    assert parse_size(written) == size


@pytest.mark.parametrize("written", ["", "m", "-1", -1, "1x", "1e9", True, None, 1.5, "9999999t", "1" * 400])
def test_other_sizes_are_refused(written: object) -> None:
    with pytest.raises(ValueError, match="size"):
        parse_size(written)


@given(st.integers(0, 2**63 - 1))
def test_a_size_survives_being_written(size: int) -> None:
    assert parse_size(format_size(size)) == size


@given(st.text())
def test_any_text_as_a_size_is_a_size_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert parse_size(text) >= 0


@pytest.mark.parametrize(
    ("written", "parsed"),
    [
        ("/srv/rootfs", (ImageKind.FOLDER, "/srv/rootfs", "")),
        ("/srv/image.tar", (ImageKind.ARCHIVE, "/srv/image.tar", "")),
        ("oci:/srv/layout", (ImageKind.LAYOUT, "/srv/layout", "")),
        ("oci:/srv/layout:v1", (ImageKind.LAYOUT, "/srv/layout", "v1")),
        ("docker-archive:/a.tar:bb:latest", (ImageKind.ARCHIVE, "/a.tar", "bb:latest")),
        ("docker://alpine:3.20", (ImageKind.REGISTRY, "alpine:3.20", "")),
        ("alpine", (ImageKind.REGISTRY, "alpine", "")),
        ("localhost:5000/a/b:c", (ImageKind.REGISTRY, "localhost:5000/a/b:c", "")),
        ("ghcr.io/a/b@sha256:" + "0" * 64, (ImageKind.REGISTRY, "ghcr.io/a/b@sha256:" + "0" * 64, "")),
    ],
)
def test_an_image_says_where_it_comes_from(written: str, parsed: tuple[ImageKind, str, str]) -> None:
    assert parse_image(written) == parsed


@pytest.mark.parametrize(
    "written", ["-v", "oci:relative", "/a/../b", "docker://--all", "a b", "oci:/x:-y", "docker://"]
)
def test_what_a_tool_could_take_for_an_option_is_no_image(written: str) -> None:
    with pytest.raises(ValueError):
        parse_image(written)


@given(st.text())
def test_any_text_as_an_image_is_an_image_or_a_value_error(text: str) -> None:
    try:
        _, source, name = parse_image(text)
    except ValueError:
        return
    assert not source.startswith("-")
    assert not name.startswith("-")


def test_binds_are_written_as_docker_has_them() -> None:
    assert split_bind("/a:/b") == ("/a", "/b", False)
    assert split_bind("/a:/b/:ro") == ("/a", "/b", True)


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({"image": "a b"}, "image"),
        ({"runtime": "podman"}, "runtime"),
        ({"seccomp": "relative"}, "seccomp"),
        ({"binds": ["/a"]}, "bind"),
        ({"binds": ["/a:b"]}, "absolute"),
        ({"binds": ["/a:/proc/x"]}, "over /proc"),
        ({"binds": ["/a:/.containerssh"]}, "over /.containerssh"),
        ({"binds": ["/a:/./sys"]}, "over /sys"),
        ({"binds": ["/a:/b:exec"]}, "bind"),
        ({"tmpfs": {"/": ""}}, "over /"),
        ({"tmpfs": {"/x": "suid"}}, "option"),
        ({"env": ["NOTHING"]}, "NAME=value"),
        ({"env": ["A=\0"]}, "NUL"),
        ({"capAdd": ["FLY"]}, "FLY"),
        ({"user": "a b"}, "user"),
        ({"hostname": "-"}, "hostname"),
        ({"workingDirectory": "x"}, "workingDirectory"),
        ({"workingDirectory": "/x/../.."}, "workingDirectory"),
        ({"dataDirectory": "x"}, "dataDirectory"),
        ({"shellCommand": [""]}, "shellCommand"),
        ({"network": "bridge"}, "network"),
        ({"resources": {"cpus": float("nan")}}, "cpus"),
        ({"resources": {"pids": -1}}, "pids"),
        ({"userNamespace": {"base": 0}}, "base"),
        ({"userNamespace": {"base": 4294967000}}, "largest"),
        ({"timeouts": {"containerStop": "0s"}}, "container_stop"),
        ({"idleCommand": []}, "idleCommand"),
    ],
)
def test_a_mistake_is_named(section: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError) as caught:
        OCIConfig.model_validate(section)
    assert says in str(caught.value)


def test_the_registry_password_is_not_shown() -> None:
    config = OCIConfig.model_validate({"image": "a", "auth": {"username": "u", "password": "hunter2"}})
    assert "hunter2" not in repr(config)
    assert "hunter2" not in config.model_dump_json()
