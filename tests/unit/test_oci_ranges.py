"""Who a container's users are outside."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pydantic import ValidationError

from containerssh.backends.oci.bundle import IdMap
from containerssh.backends.oci.container import Host, Place
from containerssh.backends.oci.image import Image
from containerssh.backends.oci.ranges import Ranges
from containerssh.config.oci import OCIConfig, OCIUserNamespace

BASE = 0x70000000


def host(*, makes_user_namespaces: bool = True) -> Host:
    return cast(Host, SimpleNamespace(makes_user_namespaces=makes_user_namespaces))


def config(**namespace: Any) -> OCIConfig:
    return OCIConfig.model_validate({"image": "/x", "userNamespace": namespace})


def place(*, idmapped: bool = True) -> Place:
    return Place(Image(Path("/x")), "overlay", IdMap(BASE, 65536), idmapped)


def base_of(place: Place) -> int:
    assert place.id_map is not None
    return place.id_map.base


def test_no_two_containers_have_the_same_ids_while_there_are_enough() -> None:
    ranges = Ranges()
    with ExitStack() as stack:
        given = {base_of(stack.enter_context(ranges.own(place(), config(ranges=9), host()))) for _ in range(8)}
        assert given == {BASE + number * 65536 for number in range(1, 9)}
        # None is free any more: it shares, but never with those that share the first.
        with ranges.own(place(), config(ranges=9), host()) as ninth:
            assert base_of(ninth) in given
    with ranges.own(place(), config(ranges=2), host()) as again:
        assert base_of(again) == BASE + 65536


@pytest.mark.parametrize(
    ("settings", "idmapped", "makes"),
    [
        ({"binds": ["/srv:/srv"]}, True, True),
        ({}, False, True),
        ({}, True, False),
        ({"userNamespace": {"base": 5_000_000}}, True, True),
    ],
)
def test_containers_share_the_first_range_where_their_files_would_be_lost_otherwise(
    settings: dict[str, Any], idmapped: bool, makes: bool
) -> None:
    configured = OCIConfig.model_validate({"image": "/x", **settings})
    with Ranges().own(place(idmapped=idmapped), configured, host(makes_user_namespaces=makes)) as shared:
        assert base_of(shared) == BASE


def test_the_ranges_end_before_what_systemd_gives() -> None:
    namespace = OCIUserNamespace()
    assert namespace.range_count == 4094
    assert namespace.base + namespace.range_count * namespace.size == 0x7FFE0000
    assert OCIUserNamespace.model_validate({"size": 2**24}).range_count == 15


def test_ranges_beyond_the_largest_id_are_refused() -> None:
    with pytest.raises(ValidationError, match="largest"):
        OCIUserNamespace.model_validate({"base": 2**31, "ranges": 40_000})
