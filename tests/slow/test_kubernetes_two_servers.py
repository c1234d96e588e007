"""Two whole servers in one namespace, one of which is cut off, stopped or killed while it has logins."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pexpect
import pytest

from containerssh.auth.hashes import hash_password
from tests.support.cluster import BUSYBOX, Cluster
from tests.support.openssh import OpenSSH
from tests.support.pods import pods, section
from tests.support.relay import Relay, relay_to
from tests.support.server import Server, serving
from tests.support.services import wait_until

pytestmark = pytest.mark.root

LASTS = 6.0


@dataclass
class Two:
    """Server *a* reaches the API through *relay*, *b* without one."""

    cluster: Cluster
    namespace: str
    relay: Relay
    a: Server
    b: Server
    client: OpenSSH
    terminals: list[pexpect.spawn[bytes]] = field(default_factory=list)

    def leases(self) -> dict[str, str]:
        """The uid of each Lease."""
        path = f"/apis/coordination.k8s.io/v1/namespaces/{self.namespace}/leases"
        return {item["metadata"]["name"]: item["metadata"]["uid"] for item in self.cluster.ask(path)["items"]}

    def pods(self) -> set[str]:
        return {pod["metadata"]["name"] for pod in pods(self.cluster, self.namespace)}

    def spawn(self, server: Server, command: str) -> pexpect.spawn[bytes]:
        terminal = self.client.spawn(server, command)
        self.terminals.append(terminal)
        return terminal

    async def log_in(self, server: Server) -> pexpect.spawn[bytes]:
        """A login that answers lines."""
        terminal = self.spawn(server, "echo u''p; while read line; do echo got $line; done")
        await terminal.expect(b"up", async_=True)
        return terminal

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        await asyncio.to_thread(wait_until, condition, within=40, what=what)


async def works(terminal: pexpect.spawn[bytes]) -> None:
    terminal.sendline(b"on")
    await terminal.expect(b"got on", async_=True)


async def ended(terminal: pexpect.spawn[bytes]) -> bytes:
    """What its user is told last."""
    await terminal.expect(pexpect.EOF, async_=True, timeout=60)
    await asyncio.to_thread(terminal.close)
    return bytes(terminal.before or b"")


@asynccontextmanager
async def two_servers(cluster: Cluster, namespace: str, folder: Path, **settings: Any) -> AsyncIterator[Two]:
    """*settings* are those of the server that may be cut off."""
    users = {"alice": {"password": hash_password("secret")}}
    timeouts = {"lease": f"{LASTS:g}s"}
    async with relay_to(cluster.port) as relay:
        through = cluster.connection(host=f"https://127.0.0.1:{relay.port}")
        first = section(cluster, namespace, connection=through, timeouts=timeouts, **settings)
        second = section(cluster, namespace, timeouts=timeouts)
        async with (
            serving({"backend": "kubernetes", "kubernetes": first}, users) as a,
            serving({"backend": "kubernetes", "kubernetes": second}, users) as b,
        ):
            two = Two(cluster, namespace, relay, a, b, OpenSSH(folder))
            try:
                yield two
            finally:
                for terminal in two.terminals:
                    if not terminal.closed:
                        terminal.kill(signal.SIGKILL)
                        await ended(terminal)


async def test_a_server_that_is_back_before_its_lease_has_run_out_keeps_its_login(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    async with two_servers(cluster, namespace, tmp_path) as two:
        mine, others = await two.log_in(two.a), await two.log_in(two.b)
        before = two.pods(), two.leases()
        two.relay.hold()
        await asyncio.sleep(LASTS / 4)
        two.relay.flow()
        await asyncio.sleep(1.5 * LASTS)
        assert (two.pods(), two.leases()) == before
        await works(mine)
        await works(others)


async def test_a_lease_that_an_administrator_deletes_is_made_again_and_no_login_ends(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    async with two_servers(cluster, namespace, tmp_path) as two:
        mine, others = await two.log_in(two.a), await two.log_in(two.b)
        running, before = two.pods(), two.leases()
        cluster.kubectl("--namespace", namespace, "delete", "leases", "--all")
        await two.until(lambda: two.leases().keys() == before.keys(), "the Leases are made again")
        assert set(two.leases().values()).isdisjoint(before.values())
        await asyncio.sleep(1.5 * LASTS)
        assert two.pods() == running
        await works(mine)
        await works(others)


@pytest.mark.parametrize("how", ["cut off", "stopped"])
async def test_a_server_that_is_back_too_late_tells_its_user_so_and_goes_on_with_new_logins(
    cluster: Cluster, namespace: str, tmp_path: Path, how: str
) -> None:
    """By direct connections: nothing but the end of the pod ends the login."""
    async with two_servers(cluster, namespace, tmp_path, link="direct") as two:
        mine, others = await two.log_in(two.a), await two.log_in(two.b)
        names = two.leases().keys()
        if how == "stopped":
            os.killpg(two.a.process.pid, signal.SIGSTOP)
        else:
            two.relay.hold()
        try:
            await two.until(lambda: len(two.pods()) == len(two.leases()) == 1, "the pod and the Lease are removed")
        finally:
            two.relay.flow()
            os.killpg(two.a.process.pid, signal.SIGCONT)
        assert b"The pod was deleted." in await ended(mine)
        assert mine.exitstatus == 255
        again = await two.log_in(two.a)
        await two.until(lambda: two.leases().keys() == names, "its Lease is back")
        await asyncio.sleep(1.5 * LASTS)
        await works(again)
        await works(others)
        assert len(two.pods()) == 2
        assert "took it for dead" in two.a.logged("KUBERNETES_LEASE_FAILED")[-1]["message"]


async def test_a_server_that_is_killed_while_it_makes_a_pod_leaves_none(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    slow = {"name": "slow", "image": BUSYBOX, "imagePullPolicy": "Never", "command": ["sleep", "600"]}
    async with two_servers(cluster, namespace, tmp_path, spec={"initContainers": [slow]}) as two:
        others = await two.log_in(two.b)
        two.spawn(two.a, "true")
        await two.until(lambda: len(two.pods()) == 2, "the pod is being made")
        await two.a.kill()
        await two.until(lambda: len(two.pods()) == len(two.leases()) == 1, "the pod and the Lease are removed")
        await works(others)
