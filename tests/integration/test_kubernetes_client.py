"""The client for the Kubernetes API against a real one."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import pytest

from containerssh.backends.kubernetes.client import LEASES, PODS, KubernetesClient
from containerssh.backends.kubernetes.errors import APIError
from containerssh.core.errors import BackendError
from containerssh.core.requests import WindowSize
from containerssh.core.streams import ByteReader
from tests.support.cluster import BUSYBOX, Cluster
from tests.support.kubernetes import connected
from tests.support.relay import relay_to
from tests.support.waiting import until


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[KubernetesClient]:
    """The administrator's."""
    async with connected(cluster.connection()) as made:
        yield made


def idle_pod(name: str, **spec: Any) -> dict[str, Any]:
    container = {"name": "main", "image": BUSYBOX, "imagePullPolicy": "Never", "command": ["sleep", "2147483647"]}
    more = {"terminationGracePeriodSeconds": 0, "automountServiceAccountToken": False, "dnsPolicy": "Default"}
    return {"metadata": {"name": name}, "spec": {"containers": [container], **more, **spec}}


@pytest.fixture(scope="module")
def home(cluster: Cluster) -> Iterator[str]:
    """A namespace with the pod ``idle``, which runs."""
    with cluster.namespace() as namespace:
        cluster.apply({"apiVersion": "v1", "kind": "Pod", **idle_pod("idle")}, namespace=namespace)
        cluster.kubectl("--namespace", namespace, "wait", "--for=condition=Ready", "pod/idle", "--timeout=60s")
        yield namespace


async def everything(reader: ByteReader | None) -> bytes:
    """All that it gives."""
    assert reader is not None
    found = bytearray()
    while data := await reader.read():
        found += data
    return bytes(found)


async def test_an_object_is_created_changed_listed_and_deleted(client: KubernetesClient, namespace: str) -> None:
    made = await client.create(LEASES, namespace, {"metadata": {"name": "one", "labels": {"a": "b"}}})
    made["spec"] = {"holderIdentity": "me"}
    replaced = await client.replace(LEASES, namespace, "one", made)
    changed = await client.patch(LEASES, namespace, "one", {"spec": {"leaseDurationSeconds": 7}})
    assert changed["spec"] == {"holderIdentity": "me", "leaseDurationSeconds": 7}
    assert (await client.get(LEASES, namespace, "one"))["spec"] == changed["spec"]
    with pytest.raises(APIError) as conflict:
        await client.replace(LEASES, namespace, "one", replaced)
    assert (conflict.value.status, conflict.value.reason) == (409, "Conflict")
    items, version = await client.list(LEASES, namespace, label_selector="a=b")
    assert [item["metadata"]["name"] for item in items] == ["one"]
    assert version
    assert await client.list(LEASES, namespace, label_selector="a=c") == ([], version)
    with pytest.raises(APIError) as another:
        await client.delete(LEASES, namespace, "one", uid="00000000-0000-0000-0000-000000000000")
    assert another.value.status == 409
    await client.delete(LEASES, namespace, "one", uid=changed["metadata"]["uid"])
    with pytest.raises(APIError, match='"one" not found') as missing:
        await client.get(LEASES, namespace, "one")
    assert (missing.value.status, missing.value.reason) == (404, "NotFound")
    assert (await client.version())["gitVersion"].startswith("v1.")


CREATE_ONLY = [{"apiGroups": [""], "resources": ["pods/exec", "pods/attach"], "verbs": ["create"]}]
GET_AND_CREATE = [{"apiGroups": [""], "resources": ["pods/exec", "pods/attach"], "verbs": ["get", "create"]}]


def as_account(cluster: Cluster, namespace: str, rules: list[dict[str, Any]]) -> dict[str, object]:
    """The connection of an account with these rights in *namespace*."""
    token = cluster.token(namespace, rules)
    return {"host": cluster.address, "cacert": cluster.authorities.read_text(), "bearerToken": token}


@pytest.fixture(scope="module", params=["websocket", "spdy"])
def way(request: pytest.FixtureRequest, cluster: Cluster, home: str) -> dict[str, object]:
    """A connection by which programs are reached in each of the two ways."""
    return as_account(cluster, home, GET_AND_CREATE if request.param == "websocket" else CREATE_ONLY)


@pytest.fixture
async def runner(way: dict[str, object]) -> AsyncIterator[KubernetesClient]:
    async with connected(way) as made:
        yield made


async def test_an_account_that_may_only_create_execs_is_served_by_spdy(cluster: Cluster, home: str) -> None:
    async with relay_to(cluster.port) as relay:
        connection = as_account(cluster, home, CREATE_ONLY)
        async with connected({**connection, "host": f"https://127.0.0.1:{relay.port}"}) as client:
            for _ in range(2):
                async with client.exec(home, "idle", "main", ["echo", "in"]) as stream:
                    assert (await everything(stream.stdout), await stream.wait()) == (b"in\n", 0)
            assert client.by_spdy
            assert relay.opened == 3, "the refusal was not remembered"


async def test_streams_and_status_arrive_by_either_way(runner: KubernetesClient, way: object, home: str) -> None:
    script = "cat; echo oops >&2; exit 9"
    async with runner.exec(home, "idle", "main", ["sh", "-c", script]) as stream:
        await stream.stdin.write(b"hello")
        await stream.stdin.write_eof()
        out, error = await asyncio.gather(everything(stream.stdout), everything(stream.stderr))
        assert (out, error, await stream.wait()) == (b"hello", b"oops\n", 9)


async def test_eight_mebibytes_go_in_and_come_out_unchanged(runner: KubernetesClient, home: str) -> None:
    sent = os.urandom(8 << 20)
    async with runner.exec(home, "idle", "main", ["sh", "-c", "tee /tmp/copy | sha256sum; cat /tmp/copy"]) as stream:

        async def send() -> None:
            for start in range(0, len(sent), 50_000):
                await stream.stdin.write(sent[start : start + 50_000])
            await stream.stdin.write_eof()

        _, got = await asyncio.gather(send(), everything(stream.stdout))
        assert await stream.wait() == 0
    line, _, rest = got.partition(b"\n")
    assert line.split()[0].decode() == hashlib.sha256(sent).hexdigest()
    assert rest == sent


async def test_nothing_is_received_while_nobody_reads(runner: KubernetesClient, home: str) -> None:
    script = "head -c 33554432 /dev/zero; echo done >&2"
    async with runner.exec(home, "idle", "main", ["sh", "-c", script]) as stream:
        assert stream.stderr is not None
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(stream.stderr.read(), 0.5)
        assert len(await everything(stream.stdout)) == 32 << 20
        assert await everything(stream.stderr) == b"done\n"
        assert await stream.wait() == 0


async def test_a_terminal_has_its_size_and_follows_it(runner: KubernetesClient, home: str) -> None:
    # Input and sizes take different ways on the server's side.
    shows = 'until [ "$(stty size)" = "{0}" ]; do sleep 0.02; done; echo is {0}'
    script = f"read x; {shows.format('43 132')}; read y; {shows.format('20 100')}; exit 5"
    async with runner.exec(home, "idle", "main", ["sh", "-c", script], tty=True) as stream:
        assert stream.stderr is None
        await stream.resize(WindowSize(132, 43))
        await stream.stdin.write(b"a\n")
        seen = bytearray()
        while b"is 43 132" not in seen:
            seen += await stream.stdout.read()
        await stream.resize(WindowSize(100, 20))
        await stream.stdin.write(b"b\n")
        assert b"is 20 100" in await everything(stream.stdout)
        assert await stream.wait() == 5


async def test_the_end_of_input_on_a_terminal_loses_no_output(runner: KubernetesClient, home: str) -> None:
    script = "read x; sleep 0.3; echo later; exit 5"
    async with runner.exec(home, "idle", "main", ["sh", "-c", script], tty=True) as stream:
        await stream.stdin.write(b"a\n")
        await stream.stdin.write_eof()
        assert b"later" in await everything(stream.stdout)
        assert await stream.wait() == 5


async def test_what_cannot_be_started_is_told_in_the_clusters_words(runner: KubernetesClient, home: str) -> None:
    async with runner.exec(home, "idle", "main", ["no-such-program"]) as stream:
        with pytest.raises(BackendError, match="executable file not found"):
            await stream.wait()
    with pytest.raises(APIError, match='pods "none" not found') as missing:
        async with runner.exec(home, "none", "main", ["true"]):
            pass
    assert missing.value.status == 404
    with pytest.raises(APIError, match="container other is not valid"):
        async with runner.exec(home, "idle", "other", ["true"]):
            pass


async def test_without_rights_the_reason_is_told(cluster: Cluster, home: str) -> None:
    async with connected(as_account(cluster, home, [])) as client:
        with pytest.raises(APIError, match='cannot create resource "pods/exec"') as no:
            async with client.exec(home, "idle", "main", ["true"]):
                pass
        assert (no.value.status, no.value.reason, client.by_spdy) == (403, "Forbidden", False)
        with pytest.raises(APIError, match="cannot create resource") as refused:
            await client.create(PODS, home, idle_pod("refused"))
        assert refused.value.status == 403


async def test_what_the_api_rejects_is_told_by_field(client: KubernetesClient, home: str) -> None:
    with pytest.raises(APIError, match="Not_Valid") as refused:
        await client.create(PODS, home, idle_pod("Not_Valid"))
    assert (refused.value.status, refused.value.reason) == (422, "Invalid")
    assert "FieldValueInvalid" in refused.value.causes


@pytest.mark.parametrize("name", ["", "..", "a/b", "a?b"])
async def test_no_name_stands_for_other_objects(client: KubernetesClient, home: str, name: str) -> None:
    with pytest.raises(APIError, match="not a name for an object"):
        await client.delete(PODS, home, name)
    assert (await client.get(PODS, home, "idle"))["metadata"].get("deletionTimestamp") is None


async def test_attach_gives_the_streams_of_a_pods_own_program(client: KubernetesClient, namespace: str) -> None:
    body = idle_pod("attached", restartPolicy="Never")
    command = ["sh", "-c", "cat; exit 6"]
    body["spec"]["containers"][0] |= {"stdin": True, "stdinOnce": True, "command": command}
    await client.create(PODS, namespace, body)
    async with aclosing(client.watch(PODS, namespace, field_selector="metadata.name=attached")) as events:
        async with asyncio.timeout(30):
            async for event in events:
                if event.object["status"].get("phase") == "Running":
                    break
            async with client.attach(namespace, "attached", "main") as stream:
                await stream.stdin.write(b"hello")
                await stream.stdin.write_eof()
                assert await everything(stream.stdout) == b"hello"
                assert await stream.wait() == 0
            async for event in events:
                if event.object["status"].get("phase") == "Failed":
                    break
    ended = event.object["status"]["containerStatuses"][0]["state"]["terminated"]
    assert ended["exitCode"] == 6


async def test_a_watch_survives_cuts_without_doubles(cluster: Cluster, namespace: str) -> None:
    async with (
        relay_to(cluster.port) as relay,
        connected(cluster.connection(host=f"https://127.0.0.1:{relay.port}")) as client,
        connected(cluster.connection()) as other,
    ):
        seen: list[tuple[str, str]] = []

        async def collect() -> None:
            async with aclosing(client.watch(LEASES, namespace)) as events:
                async for event in events:
                    change = event.type, event.object["metadata"]["name"]
                    seen.append(change)

        await other.create(LEASES, namespace, {"metadata": {"name": "before"}})
        collecting = asyncio.create_task(collect())
        try:
            await until(lambda: len(seen) == 1)
            await other.create(LEASES, namespace, {"metadata": {"name": "watched"}})
            await until(lambda: len(seen) == 2)
            relay.up = False
            relay.cut()
            await other.create(LEASES, namespace, {"metadata": {"name": "meanwhile"}})
            await other.delete(LEASES, namespace, "before")
            relay.up = True
            await until(lambda: len(seen) == 4)
            relay.cut()
            await other.patch(LEASES, namespace, "watched", {"metadata": {"labels": {"a": "b"}}})
            await until(lambda: len(seen) == 5)
        finally:
            collecting.cancel()
            await asyncio.gather(collecting, return_exceptions=True)
        assert seen == [
            ("ADDED", "before"),
            ("ADDED", "watched"),
            ("ADDED", "meanwhile"),
            ("DELETED", "before"),
            ("MODIFIED", "watched"),
        ]


async def test_a_cut_stream_is_no_success(cluster: Cluster, way: dict[str, object], home: str) -> None:
    async with (
        relay_to(cluster.port) as relay,
        connected({**way, "host": f"https://127.0.0.1:{relay.port}"}) as client,
        client.exec(home, "idle", "main", ["sh", "-c", "echo up; exec sleep 60"]) as stream,
    ):
        assert await stream.stdout.read() == b"up\n"
        relay.cut()
        with pytest.raises(BackendError, match="without its status"):
            await stream.wait()
        with pytest.raises(ConnectionError):
            await stream.stdout.read()
        with pytest.raises(ConnectionError):
            await stream.stdin.write(b"x")


async def test_a_program_whose_pod_is_deleted_ends(client: KubernetesClient, namespace: str, cluster: Cluster) -> None:
    cluster.apply({"apiVersion": "v1", "kind": "Pod", **idle_pod("doomed")}, namespace=namespace)
    cluster.kubectl("--namespace", namespace, "wait", "--for=condition=Ready", "pod/doomed", "--timeout=60s")
    async with client.exec(namespace, "doomed", "main", ["sh", "-c", "echo up; exec sleep 60"]) as stream:
        assert await stream.stdout.read() == b"up\n"
        await client.delete(PODS, namespace, "doomed", grace_period=0)
        assert await stream.wait() == 137


async def test_a_restart_of_the_api_server_is_survived(cluster: Cluster, namespace: str, home: str) -> None:
    async with connected(cluster.connection()) as client, aclosing(client.watch(LEASES, namespace)) as events:
        await client.create(LEASES, namespace, {"metadata": {"name": "one"}})
        assert (await anext(events)).object["metadata"]["name"] == "one"
        async with client.exec(home, "idle", "main", ["sleep", "60"]) as stream:
            await asyncio.to_thread(cluster.kill_api_server)
            with pytest.raises(BackendError):
                await stream.wait()
        with pytest.raises(APIError, match="not available") as away:
            await client.get(PODS, home, "idle")
        assert (away.value.status, away.value.unsent, away.value.passing) == (0, True, True)
        await asyncio.to_thread(cluster.start_api_server)
        await client.create(LEASES, namespace, {"metadata": {"name": "two"}})
        async with asyncio.timeout(30):
            assert (await anext(events)).object["metadata"]["name"] == "two"
