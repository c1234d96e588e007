"""Sessions as the real OpenSSH client sees them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.openssh import OpenSSH
from tests.support.ssh_front import serving


@pytest.fixture
def openssh(tmp_path: Path) -> OpenSSH:
    return OpenSSH(tmp_path)


async def test_streams_and_status_reach_the_client(openssh: OpenSSH) -> None:
    async with serving() as server:
        done = await openssh.run(server, "cat; echo oops >&2; exit 3", stdin=b"hello")
    assert (done.status, done.stdout, done.stderr) == (3, b"hello", b"oops\n")
    assert server.backend.open_scopes == 0
    assert not server.log.errors
