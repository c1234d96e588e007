"""Ordinary users, for what must work without root."""

from __future__ import annotations

import pwd
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.tools import tool


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
        if path.exists() and all(parent.stat().st_mode & 1 for parent in path.resolve().parents):
            return candidate
    pytest.fail(f"no {version} that other users can run", pytrace=False)
