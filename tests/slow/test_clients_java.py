"""sshj, the Java library that JetBrains' tools are built with."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from tests.support.images import cache_folder
from tests.support.openssh import run
from tests.support.services import Engine
from tests.support.shared_folder import complaints, sharing
from tests.support.tools import tool

pytestmark = [pytest.mark.docker, pytest.mark.oci, pytest.mark.timeout(300)]

SOURCE = Path(__file__).parents[1] / "support" / "sshj"
COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies"
CONTENT = os.urandom(3_000_000)


def libraries() -> Path:
    """sshj and what it needs, from Maven's own repository at the first time."""
    pom = SOURCE / "pom.xml"
    kept = cache_folder() / f"sshj-{hashlib.sha256(pom.read_bytes()).hexdigest()[:12]}"
    with kept.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            fresh = kept.with_suffix(".new")
            subprocess.run([tool("mvn"), "-q", "-B", "-f", pom, COPY, f"-DoutputDirectory={fresh}"], check=True)
            fresh.rename(kept)
    return kept


@pytest.mark.parametrize("backend", ["docker", "oci"])
async def test_programs_files_a_forward_and_questions_on_one_connection(
    request: pytest.FixtureRequest, tmp_path: Path, backend: str
) -> None:
    engine: Engine | None = None if backend == "oci" else request.getfixturevalue("engine")
    found = await asyncio.to_thread(libraries)
    (tmp_path / "worker.jar").write_bytes(CONTENT)
    allowed = {"forwarding": {"forwardingMode": "enable"}}
    async with sharing(engine, tmp_path / "data", security=allowed) as server:
        program = (SOURCE / "Client.java", str(server.port), tmp_path)
        done = await run(tool("java"), "-cp", f"{found}/*", *program, limit=120)
        assert complaints(server) == []
        loud = [line for line in server.log if "unknown" in line["message"].lower() and line["level"] != "debug"]
        assert loud == []
    page = f"page {hashlib.sha256(CONTENT).hexdigest()}"
    size = f"size {len(CONTENT)}"
    turns = [line for number in range(5) for line in (page, f"status {number}")]
    assert done.check().stdout.decode().splitlines() == ["status 7", size, "status 0", *turns, size]
    assert (tmp_path / "back").read_bytes() == CONTENT
