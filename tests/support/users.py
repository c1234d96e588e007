"""Ordinary users, for what must work without root."""

from __future__ import annotations

import atexit
import os
import pwd
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest

from tests.support.tools import tool

ROOT = Path(__file__).parents[2]


@contextmanager
def ordinary_user() -> Iterator[str]:
    """A new user with subordinate ids, gone at the end with all files at home."""
    for program in ("newuidmap", "newgidmap"):
        tool(program)
    # Another run of the tests may have one of its own.
    name = f"cssh-{secrets.token_hex(4)}"
    subprocess.run([tool("useradd"), "--create-home", "--shell", "/bin/sh", name], check=True, capture_output=True)
    try:
        yield name
    finally:
        subprocess.run([tool("userdel"), "--remove", name], check=True, capture_output=True)


def as_user(name: str) -> list[str]:
    """What begins the command line of a program that this user runs."""
    entry = pwd.getpwnam(name)
    ids = ["--reuid", str(entry.pw_uid), "--regid", str(entry.pw_gid), "--clear-groups"]
    return [tool("setpriv"), *ids, "--"]


def reachable_python() -> str:
    """An interpreter that other users can run too, of the version that the packages were built for."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        path = Path(candidate)
        if path.exists() and _reachable(path) and _reachable(path.resolve()):
            return candidate
    pytest.fail(f"no {version} that other users can run", pytrace=False)


@cache
def reachable_packages() -> tuple[str, ...]:
    """
    What must be on another user's module path: the tests, the product and what they import.

    A checkout in root's home is out of others' reach; then it is a copy, made of links where the file system allows it.
    """
    places = [ROOT, ROOT / "src", *(Path(entry) for entry in sys.path if entry.endswith("site-packages"))]
    if all(_reachable(place) for place in places):
        return tuple(map(str, places))
    copy = Path(tempfile.mkdtemp(prefix="reachable-", dir="/tmp"))
    atexit.register(shutil.rmtree, copy)
    copy.chmod(0o755)
    kept = []
    for number, place in enumerate(places):
        wanted = ("tests",) if place == ROOT else tuple(entry.name for entry in place.iterdir())
        for name in wanted:
            source, target = place / name, copy / str(number) / name
            target.parent.mkdir(exist_ok=True)
            if source.is_dir():
                shutil.copytree(
                    source, target, copy_function=_link_or_copy, ignore=shutil.ignore_patterns("__pycache__")
                )
            else:
                _link_or_copy(str(source), str(target))
        kept.append(str(copy / str(number)))
    return tuple(kept)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _reachable(path: Path) -> bool:
    return all(parent.stat().st_mode & 1 for parent in path.absolute().parents)
