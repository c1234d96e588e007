"""What ssh-audit, which knows the weak algorithms and the attacks of the day, finds wrong with the defaults."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from containerssh.ssh.host_keys import generate_host_keys
from tests.support.openssh import run
from tests.support.ssh_front import Front, serving

NIST = re.compile(r"ecdh-sha2-nistp(256|384|521)|ecdsa-sha2-nistp256")


def generated(folder: Path) -> list[str]:
    """The host keys that a server without any makes, as files."""
    generate_host_keys(folder)
    return [str(path) for path in folder.iterdir()]


async def audit(server: Front) -> dict[str, Any]:
    """ssh-audit's report."""
    program = Path(sys.executable).parent / "ssh-audit"
    done = await run(program, "--json", "--port", str(server.port), "127.0.0.1", env={"HOME": "/nonexistent"})
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["banner"]["raw"] == "SSH-2.0-ContainerSSH"
    return report


def notes(report: dict[str, Any], severity: str) -> Iterator[str]:
    """The names of algorithms with remarks of *severity*."""
    for kind in ("kex", "key", "enc", "mac"):
        assert report[kind]
        for algorithm in report[kind]:
            if algorithm.get("notes", {}).get(severity):
                yield algorithm["algorithm"]


async def test_with_the_defaults_it_finds_nothing_wrong_but_the_curves_of_nist(tmp_path: Path) -> None:
    async with serving(host_keys=generated(tmp_path)) as server:
        report = await audit(server)
    failures = set(notes(report, "fail"))
    assert {name for name in failures if not NIST.fullmatch(name)} == set()
    # They are wrong in its eyes, or the exception above would not be needed any more.
    assert failures
    assert not report["cves"]


async def test_without_the_curves_of_nist_it_finds_nothing_wrong() -> None:
    kex = ["mlkem768x25519-sha256", "curve25519-sha256", "curve25519-sha256@libssh.org"]
    async with serving(kex=kex) as server:
        report = await audit(server)
    assert list(notes(report, "fail")) == []
