"""A server that is told to stop takes no new logins, and stays known in the cluster until the last one has ended."""

from __future__ import annotations

import asyncio
import signal
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pexpect
import pytest

from containerssh.auth.hashes import hash_password
from tests.support.cluster import Cluster
from tests.support.lifecycle import ended, refuses
from tests.support.openssh import OpenSSH
from tests.support.pods import pods, section
from tests.support.server import free_port, serving

pytestmark = pytest.mark.root


def healthy(port: int) -> bool:
    """Whether the health endpoint says that logins are taken."""
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def leases(cluster: Cluster, namespace: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = cluster.ask(f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases")["items"]
    return items


def renewed(cluster: Cluster, namespace: str) -> str:
    """When the one Lease was renewed."""
    (lease,) = leases(cluster, namespace)
    return str(lease["spec"]["renewTime"])


def is_renewed(cluster: Cluster, namespace: str, before: str) -> bool:
    return renewed(cluster, namespace) != before


async def test_a_server_that_is_drained_is_not_ready_and_keeps_its_lease_until_the_last_login_has_ended(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    port = free_port()
    settings = {
        "backend": "kubernetes",
        "kubernetes": section(cluster, namespace, timeouts={"lease": "3s"}),
        "health": {"enable": True, "listen": f"127.0.0.1:{port}"},
        "ssh": {"shutdownGraceTime": "2m"},
    }
    client = OpenSSH(tmp_path)
    async with serving(settings, {"alice": {"password": hash_password("secret")}}) as server:
        await server.until(lambda: healthy(port), "it is ready")
        terminal = client.spawn(server, "trap '' TERM; echo up; read line; echo got $line")
        await terminal.expect(b"up", async_=True)
        server.process.send_signal(signal.SIGTERM)
        await server.until(lambda: refuses(server.port) and not healthy(port), "it takes no logins")
        for _ in range(2):
            before = renewed(cluster, namespace)
            await server.until(partial(is_renewed, cluster, namespace, before), "the Lease is renewed")
        assert len(pods(cluster, namespace)) == 1
        terminal.sendline(b"on")
        await terminal.expect(b"got on", async_=True)
        await terminal.expect(pexpect.EOF, async_=True)
        await asyncio.to_thread(terminal.close)
        assert await ended(server) == 0
    assert (leases(cluster, namespace), pods(cluster, namespace)) == ([], [])
