"""Ports, sockets and files by the libraries that programs are built with: libssh, and Go's x/crypto with pkg/sftp."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from containerssh.auth.hashes import hash_password
from tests.support.oci import image
from tests.support.openssh import run
from tests.support.server import Server, serving
from tests.support.ssh_programs import PASSWORD, USER, built_go_client

pytestmark = pytest.mark.oci

REPOSITORY = Path(__file__).parents[2]
DATA = os.urandom(3_000_001)
DIGEST = hashlib.sha256(DATA).hexdigest()
NO_SUCH_FILE, CONNECT_FAILED = 2, 2


@asynccontextmanager
async def server() -> AsyncIterator[Server]:
    modes = ("forwardingMode", "reverseForwardingMode", "socketForwardingMode", "socketListenMode")
    config: dict[str, Any] = {
        "backend": "oci",
        "oci": {"image": str(image())},
        "security": {"forwarding": dict.fromkeys(modes, "enable")},
    }
    async with serving(config, {USER: {"password": hash_password(PASSWORD, "bcrypt")}}) as product:
        yield product
        complaints = [line for line in product.log if line["level"] in ("error", "warning")]
        assert [line for line in complaints if line["code"] != "CORE_NO_HOST_KEYS"] == []


async def libssh(product: Server, what: str) -> Any:
    argv = [sys.executable, "-m", "tests.support.libssh_channels", str(product.port), USER, PASSWORD, what]
    done = await run(*argv, stdin=DATA, env={"PYTHONPATH": str(REPOSITORY)})
    return json.loads(done.check().stdout)


async def go(product: Server, what: str) -> Any:
    program = await asyncio.to_thread(built_go_client)
    argv: list[str | Path] = [program, "-port", str(product.port), "-user", USER, "-password", PASSWORD, f"-{what}"]
    return json.loads((await run(*argv, stdin=DATA)).check().stdout)


async def test_libssh_forwards_both_ways_and_moves_files() -> None:
    async with server() as product:
        forwards, files = await asyncio.gather(libssh(product, "forwards"), libssh(product, "files"))
    assert forwards["port"] == forwards["destination"] > 0
    assert (forwards["there"], forwards["back"]) == (DIGEST, DIGEST)
    assert (forwards["ended"], forwards["last"]) == (True, "last words"), "each direction ends by itself"
    assert "refused" in forwards["refused"]
    assert files == {"back": DIGEST, "missing": [None, NO_SUCH_FILE], "path": "/tmp"}


async def test_go_forwards_ports_and_sockets_and_moves_files_with_many_requests_at_once() -> None:
    async with server() as product:
        forwards, files = await asyncio.gather(go(product, "forwards"), go(product, "files"))
    assert forwards == {"tcp": DIGEST, "tcp refused": CONNECT_FAILED, "unix": DIGEST, "unix refused": CONNECT_FAILED}
    names = ["/tmp/g", "/tmp/g/deep", "/tmp/g/deep/b"]
    assert files == {"rename over": True, "back": DIGEST, "names": names, "space": True, "missing": True}
