"""The control groups that this process is in itself."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from containerssh.backends.oci import cgroups


def _own() -> list[str]:
    # Sorted: the kernel lists hierarchies, not changes.
    return sorted(Path("/proc/self/cgroup").read_text().splitlines())


def test_our_own_groups_are_found() -> None:
    files = list(cgroups._own_groups())
    if not files:
        pytest.skip("no control groups are mounted here")
    for file in files:
        assert str(os.getpid()) in file.read_text().split()


def test_what_makes_moves_fast_moves_nothing() -> None:
    before = _own()
    cgroups.expedite_moves()
    assert _own() == before
