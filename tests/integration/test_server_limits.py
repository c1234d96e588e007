"""``ssh.limits`` and ``ssh.proxyProtocol`` of a configuration file, in the whole server behind a real proxy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from containerssh.auth.hashes import hash_password
from tests.support import server as product
from tests.support.net import haproxy
from tests.support.oci import image
from tests.support.openssh import OpenSSH

pytestmark = pytest.mark.oci

MALLORY, ALICE = "127.0.0.66", "127.0.0.77"


@dataclass(frozen=True)
class At:
    """Where a client connects to."""

    port: int


async def test_who_fails_behind_a_proxy_is_refused_and_others_behind_it_are_not(tmp_path: Path) -> None:
    port = product.free_port()
    config: dict[str, Any] = {
        "backend": "oci",
        "oci": {"image": str(image())},
        "ssh": {
            "listen": f"127.0.0.1:{port}",
            "limits": {"allow": [], "penalties": {"authFailed": "20s"}},
            "proxyProtocol": {"trusted": ["127.0.0.1"]},
        },
    }
    users = {"alice": {"password": hash_password("secret")}}
    async with product.serving(config, users) as server, haproxy(tmp_path, port, "send-proxy-v2") as front:
        guessing = OpenSSH(tmp_path, password="wrong")
        first = await guessing.run(At(front), "true", "-b", MALLORY)
        assert b"Permission denied" in first.stderr
        await server.until(lambda: bool(server.logged("SSH_LIMIT_PENALTY")), "the penalty is logged")
        second = await guessing.run(At(front), "true", "-b", MALLORY)
        assert b"Too many failed logins from your address" in second.stderr
        done = await OpenSSH(tmp_path).run(At(front), "echo in", "-b", ALICE)
        assert done.stdout == b"in\n", done
        (failed,), (succeeded,) = await server.told("SSH_AUTH_FAILED"), await server.told("SSH_AUTH_SUCCESSFUL")
        assert failed["details"]["remoteAddr"] == MALLORY
        assert succeeded["details"]["remoteAddr"] == ALICE
        assert await server.stop() == 0
        (summary,) = server.logged("SSH_LIMITS_REACHED")
        assert "penalty 1" in summary["message"]
