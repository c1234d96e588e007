"""Who the server is at a real Kubernetes API: every way to say it, and what happens when it changes."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from containerssh.backends.kubernetes.client import LEASES, PODS, KubernetesClient
from containerssh.backends.kubernetes.errors import APIError
from containerssh.backends.kubernetes.exec_plugin import ExecCredentials
from containerssh.config.kubeconfig import Cluster as Place
from containerssh.config.kubeconfig import ExecPlugin, User
from containerssh.config.kubernetes_connection import KubernetesConnectionConfig
from containerssh.core.errors import ConfigError
from tests.support.cluster import TESTER_TOKEN, Cluster
from tests.support.hostile_api import hostile, reply, saying
from tests.support.kubernetes import connected
from tests.support.waiting import until

PODS_ROLE = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]
NOBODY: dict[str, object] = {"certFile": "", "keyFile": ""}


async def count_pods(connection: dict[str, object], namespace: str) -> int:
    """How many pods there are, as seen with *connection*."""
    async with connected(connection) as client:
        return len((await client.list(PODS, namespace))[0])


@pytest.mark.parametrize("way", ["certificate files", "certificate text", "token", "token file", "host and port"])
async def test_the_connection_is_made_with(cluster: Cluster, namespace: str, tmp_path: Path, way: str) -> None:
    pki = cluster.folder / "pki"
    connection = cluster.connection()
    if way == "certificate text":
        texts = {key: (pki / name).read_text() for key, name in (("cert", "admin.crt"), ("key", "admin.key"))}
        connection |= {**NOBODY, "cacertFile": "", "cacert": cluster.authorities.read_text(), **texts}
    elif way == "token":
        connection |= {**NOBODY, "bearerToken": cluster.token(namespace, PODS_ROLE)}
    elif way == "token file":
        (tmp_path / "token").write_text(cluster.token(namespace, PODS_ROLE) + "\n")
        connection |= {**NOBODY, "bearerTokenFile": str(tmp_path / "token")}
    elif way == "host and port":
        connection["host"] = f"127.0.0.1:{cluster.port}"
    assert not list(KubernetesConnectionConfig.model_validate(connection).problems())
    assert await count_pods(connection, namespace) == 0


async def test_only_the_cluster_itself_is_believed(cluster: Cluster, namespace: str) -> None:
    """The certificate has the name kubernetes.default.svc, too."""
    assert await count_pods(cluster.connection(serverName="kubernetes.default.svc"), namespace) == 0
    other = (cluster.folder / "pki" / "admin.crt").read_text()
    for wrong in ({"serverName": "other.example"}, {"cacertFile": "", "cacert": other}):
        with pytest.raises(APIError, match="certificate verify failed") as distrusted:
            await count_pods(cluster.connection(**wrong), namespace)
        assert not distrusted.value.passing
        async with connected(cluster.connection(**wrong)) as client:
            with pytest.raises(APIError, match="certificate verify failed") as distrusted:
                async with client.exec(namespace, "any", "any", ["true"]):
                    pass
            assert not distrusted.value.passing


async def test_a_renewed_token_file_is_read_again(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(cluster.token(namespace, PODS_ROLE))
    async with connected(cluster.connection(**NOBODY, bearerTokenFile=str(file))) as client:
        await client.list(PODS, namespace)
        file.write_text("spoilt")
        with pytest.raises(APIError) as refused:
            await client.list(PODS, namespace)
        assert (refused.value.status, refused.value.reason) == (401, "Unauthorized")
        file.write_text(cluster.token(namespace, PODS_ROLE))
        await client.list(PODS, namespace)
        file.unlink()
        with pytest.raises(ConfigError, match="cannot read the token"):
            await client.list(PODS, namespace)


async def test_a_client_certificate_that_was_renewed_is_shown(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    pki = cluster.folder / "pki"
    cert, key = tmp_path / "crt", tmp_path / "key"
    for name, refused in (("tester", True), ("admin", False)):
        key.write_bytes((pki / f"{name}.key").read_bytes())
        cert.write_bytes((pki / f"{name}.crt").read_bytes())
        if name == "tester":
            client = KubernetesClient(
                KubernetesConnectionConfig.model_validate(cluster.connection(certFile=str(cert), keyFile=str(key))),
                timedelta(seconds=20),
            )
        if refused:
            with pytest.raises(APIError, match='User "tester" cannot list resource'):
                await client.list(PODS, namespace)
        else:
            await client.list(PODS, namespace)
    await client.close()


def write_kubeconfig(file: Path, cluster: Cluster, **users: dict[str, Any]) -> None:
    """A file with a context for each of *users*; the first one is the current one."""
    place = {"server": cluster.address, "certificate-authority": str(cluster.authorities)}
    tree = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": place}],
        "users": [{"name": name, "user": user} for name, user in users.items()],
        "contexts": [{"name": name, "context": {"cluster": "test", "user": name}} for name in users],
        "current-context": next(iter(users)),
    }
    file.write_text(json.dumps(tree))


async def test_contexts_of_a_kubeconfig_file(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    file, pki = tmp_path / "config", cluster.folder / "pki"
    data = {
        f"client-{part}-data": base64.b64encode((pki / f"admin.{end}").read_bytes()).decode()
        for part, end in (("certificate", "crt"), ("key", "key"))
    }
    acting = {**data, "as": "somebody", "as-groups": ["one", "two"]}
    write_kubeconfig(file, cluster, tester={"token": TESTER_TOKEN}, admin=data, acting=acting)
    assert await count_pods({"kubeConfig": str(file), "context": "admin"}, namespace) == 0
    with pytest.raises(APIError, match='User "somebody" cannot list'):
        await count_pods({"kubeConfig": str(file), "context": "acting"}, namespace)
    with pytest.raises(ConfigError, match="no context 'none'"):
        await count_pods({"kubeConfig": str(file), "context": "none"}, namespace)
    async with connected({"kubeConfig": str(file)}) as client:
        with pytest.raises(APIError, match='User "tester" cannot list'):
            await client.list(PODS, namespace)
        write_kubeconfig(file, cluster, admin=data)
        assert await client.list(PODS, namespace)


class Plugin:
    """A credential plugin that answers with what stands in a file, and counts how often it is run."""

    def __init__(self, folder: Path) -> None:
        self.answer = folder / "answer"
        self._runs = folder / "runs"
        self.info = folder / "info"
        self.program = folder / "plugin"
        self.program.write_text(
            f"#!/bin/sh\necho run >>{self._runs}\n"
            f'printf %s "$KUBERNETES_EXEC_INFO" >{self.info}\nexec cat {self.answer}\n'
        )
        self.program.chmod(0o755)

    def give(self, *, lasting: float | None = None, **status: str) -> None:
        if lasting is not None:
            status["expirationTimestamp"] = (datetime.now(UTC) + timedelta(seconds=lasting)).isoformat()
        answer = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}
        self.answer.write_text(json.dumps(answer))

    @property
    def user(self) -> dict[str, Any]:
        command = {"command": str(self.program), "provideClusterInfo": True, "interactiveMode": "Never"}
        return {"exec": {"apiVersion": "client.authentication.k8s.io/v1", **command}}

    @property
    def runs(self) -> int:
        return len(self._runs.read_text().splitlines()) if self._runs.exists() else 0


@pytest.fixture
def plugin(tmp_path: Path) -> Plugin:
    return Plugin(tmp_path)


async def test_a_plugin_is_asked_once_until_its_token_runs_out(
    cluster: Cluster, namespace: str, plugin: Plugin, tmp_path: Path
) -> None:
    token = cluster.token(namespace, PODS_ROLE)
    write_kubeconfig(tmp_path / "config", cluster, me=plugin.user)
    plugin.give(token=token, lasting=3)
    began = time.monotonic()
    async with connected({"kubeConfig": str(tmp_path / "config")}) as client:
        await asyncio.gather(*(client.list(PODS, namespace) for _ in range(8)))
        assert plugin.runs == 1
        told = json.loads(plugin.info.read_text())["spec"]
        assert (told["interactive"], told["cluster"]["server"]) == (False, cluster.address)
        assert base64.b64decode(told["cluster"]["certificate-authority-data"]) == cluster.authorities.read_bytes()
        plugin.give(token=token)
        await asyncio.sleep(max(0.0, began + 3.1 - time.monotonic()))
        await client.list(PODS, namespace)
        await client.list(PODS, namespace)
        assert plugin.runs == 2


async def test_a_plugin_is_asked_again_when_its_token_is_refused(
    cluster: Cluster, namespace: str, plugin: Plugin, tmp_path: Path
) -> None:
    write_kubeconfig(tmp_path / "config", cluster, me=plugin.user)
    plugin.give(token="spoilt")
    async with connected({"kubeConfig": str(tmp_path / "config")}) as client:
        with pytest.raises(APIError, match="Unauthorized"):
            await client.list(PODS, namespace)
        assert plugin.runs == 1, "what was just refused was asked for again"
        plugin.give(token=cluster.token(namespace, PODS_ROLE))
        await asyncio.sleep(2.0)
        await client.list(PODS, namespace)
        assert plugin.runs == 2


@pytest.mark.parametrize("meanwhile", [False, True], ids=["between two requests", "while the plugin is asked"])
async def test_what_a_plugin_gave_for_one_server_is_shown_to_no_other(tmp_path: Path, meanwhile: bool) -> None:
    empty = saying(reply({"metadata": {}, "items": []}))
    async with hostile(empty) as (first, _), hostile(empty) as (second, _):
        script = (
            f"#!/bin/sh\nsleep {0.5 if meanwhile else 0}\ncase $KUBERNETES_EXEC_INFO in *:{first.port}*) t=first ;; "
        )
        form = '{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"for-%s"}}'
        (tmp_path / "plugin").write_text(f"{script}*) t=second ;; esac\nprintf '{form}' $t\n")
        (tmp_path / "plugin").chmod(0o755)
        command = {"command": str(tmp_path / "plugin"), "provideClusterInfo": True}
        user = {"exec": {"apiVersion": "client.authentication.k8s.io/v1", **command}}

        def choose(port: int) -> None:
            tree = {
                "clusters": [{"name": "one", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
                "users": [{"name": "me", "user": user}],
                "contexts": [{"name": "it", "context": {"cluster": "one", "user": "me"}}],
                "current-context": "it",
            }
            (tmp_path / "config").write_text(json.dumps(tree))

        choose(first.port)
        async with connected({"kubeConfig": str(tmp_path / "config")}) as client:
            asked = [asyncio.create_task(client.list(PODS, "default"))]
            if meanwhile:
                await asyncio.sleep(0.2)
            else:
                await asked[0]
            choose(second.port)
            asked.append(asyncio.create_task(client.list(PODS, "default")))
            await asyncio.gather(*asked)
        told = {
            name: re.findall("for-[a-z]+", " ".join(server.requests))
            for name, server in (("first", first), ("second", second))
        }
    assert told == {"first": [] if meanwhile else ["for-first"], "second": ["for-second"] * (2 if meanwhile else 1)}


async def test_a_plugins_answer_is_kept_when_nothing_but_other_contexts_change(
    cluster: Cluster, namespace: str, plugin: Plugin, tmp_path: Path
) -> None:
    plugin.give(token=cluster.token(namespace, PODS_ROLE))
    write_kubeconfig(tmp_path / "config", cluster, me=plugin.user)
    async with connected({"kubeConfig": str(tmp_path / "config")}) as client:
        await client.list(PODS, namespace)
        write_kubeconfig(tmp_path / "config", cluster, me=plugin.user, other={"token": "x"})
        await client.list(PODS, namespace)
    assert plugin.runs == 1


async def test_an_address_that_is_none_is_told_without_its_password(tmp_path: Path) -> None:
    tree = {
        "clusters": [{"name": "one", "cluster": {"server": "https://me:s3cret@127.0.0.1:1"}}],
        "contexts": [{"name": "it", "context": {"cluster": "one"}}],
        "current-context": "it",
    }
    (tmp_path / "config").write_text(json.dumps(tree))
    with pytest.raises(ConfigError, match="not an address of an API server") as refused:
        await count_pods({"kubeConfig": str(tmp_path / "config")}, "default")
    assert "s3cret" not in str(refused.value)


async def test_a_plugin_may_give_a_certificate(
    cluster: Cluster, namespace: str, plugin: Plugin, tmp_path: Path
) -> None:
    pki = cluster.folder / "pki"
    plugin.give(clientCertificateData=(pki / "admin.crt").read_text(), clientKeyData=(pki / "admin.key").read_text())
    write_kubeconfig(tmp_path / "config", cluster, me=plugin.user)
    assert await count_pods({"kubeConfig": str(tmp_path / "config")}, namespace) == 0


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo no luck >&2; exit 3", "ended with status 3: no luck"),
        ("echo '{}'", "printed no ExecCredential"),
        ("cat /dev/zero", "printed more than 1 MiB"),
        ("sleep 60 & sleep 60", "took longer than 0.4 s"),
    ],
)
async def test_a_plugin_that_fails_is_told_and_ended(tmp_path: Path, script: str, words: str) -> None:
    program = tmp_path / "plugin"
    program.write_text(f"#!/bin/sh\necho $$ >{tmp_path}/pid\n{script}\n")
    program.chmod(0o755)
    limit = 0.4 if "sleep" in script else 20.0
    credentials = ExecCredentials(ExecPlugin(str(program), "v1"), Place("https://x"), time_limit=limit)
    with pytest.raises(ConfigError, match=words):
        await credentials.apply(User())
    group = int((tmp_path / "pid").read_text())
    await until(lambda: not alive(group))
    (tmp_path / "pid").unlink()
    with pytest.raises(ConfigError, match=words):
        await credentials.apply(User())
    assert not (tmp_path / "pid").exists(), "it was run again at once"


def alive(group: int) -> list[str]:
    """The processes of a group that are no zombies."""
    listed = subprocess.run(["ps", "-e", "-o", "pgid=,stat=,args="], capture_output=True, text=True, check=True).stdout
    fields = [line.split(maxsplit=2) for line in listed.splitlines()]
    return [field[-1] for field in fields if field[0] == str(group) and not field[1].startswith("Z")]


async def test_a_plugin_that_is_not_there_is_told_with_its_hint() -> None:
    plugin = ExecPlugin("/nonexistent/plugin", "v1", hint="get it\nsomewhere")
    with pytest.raises(ConfigError, match="cannot be run: No such file or directory; get it somewhere"):
        await ExecCredentials(plugin, Place("https://x")).apply(User())


@pytest.mark.root
def test_a_pod_uses_its_own_account(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    account = tmp_path / "account"
    account.mkdir()
    (account / "token").write_text(cluster.token(namespace, PODS_ROLE))
    (account / "ca.crt").write_bytes(cluster.authorities.read_bytes())
    folder = "/var/run/secrets/kubernetes.io/serviceaccount"
    shell = f'mount -t tmpfs none /run && mkdir -p {folder} && mount --bind {account} {folder} && exec "$@"'
    program = (
        "import asyncio, sys\n"
        "from tests.integration.test_kubernetes_credentials import count_pods\n"
        "print(asyncio.run(count_pods({}, sys.argv[1])))\n"
    )
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", shell, "sh", sys.executable, "-c", program, namespace],
        env={**os.environ, "KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(cluster.port)},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.returncode) == ("0\n", 0), done.stderr


async def test_a_lease_needs_its_own_right(cluster: Cluster, namespace: str) -> None:
    token = cluster.token(namespace, PODS_ROLE)
    async with connected(cluster.connection(**NOBODY, bearerToken=token)) as client:
        with pytest.raises(APIError, match=r'cannot create resource "leases" in API group "coordination.k8s.io"'):
            await client.create(LEASES, namespace, {"metadata": {"name": "x"}})
