"""The way to a cluster as configurations tell it: ``kubernetes.connection``, kubeconfig files, plugins' answers."""

from __future__ import annotations

import asyncio
import base64
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containerssh.backends.kubernetes.credentials import Access, Credentials, in_cluster
from containerssh.backends.kubernetes.exec_plugin import PluginError, parse_answer
from containerssh.backends.kubernetes.limiter import Limiter
from containerssh.config.kubeconfig import KubeConfigError, parse_kubeconfig
from containerssh.config.kubernetes_advice import connection_advice, secret_files
from containerssh.config.kubernetes_connection import KubernetesConnectionConfig
from containerssh.core.errors import ConfigError

PEM = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


def connection(**keys: object) -> KubernetesConnectionConfig:
    return KubernetesConnectionConfig.model_validate(keys)


def kubeconfig(user: dict[str, Any] | None = None, cluster: dict[str, Any] | None = None) -> bytes:
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "one", "cluster": cluster or {"server": "https://one:6443"}}],
            "users": [{"name": "me", "user": user or {}}],
            "contexts": [
                {"name": "here", "context": {"cluster": "one", "user": "me"}},
                {"name": "nobody", "context": {"cluster": "one"}},
                {"name": "nowhere", "context": {"cluster": "two", "user": "me"}},
            ],
            "current-context": "here",
        }
    ).encode()


@pytest.mark.parametrize(
    ("keys", "url"),
    [
        ({"host": "https://api:6443/prefix"}, "https://api:6443/prefix"),
        ({"host": "api:6443", "cacert": PEM}, "https://api:6443"),
        ({"host": "api", "bearerToken": "secret"}, "https://api"),
        ({"host": "api", "username": "me", "password": "secret"}, "https://api"),
        ({"host": "127.0.0.1:8001"}, "http://127.0.0.1:8001"),
        ({}, "https://kubernetes.default.svc"),
    ],
)
def test_a_secret_is_only_sent_in_the_clear_where_http_is_written(keys: dict[str, object], url: str) -> None:
    assert connection(**keys).url == url


@pytest.mark.parametrize(
    ("keys", "path"),
    [
        ({"host": "https://api", "bearerTokenFile": "/nonexistent/token"}, "bearerTokenFile"),
        ({"host": "https://api", "cacert": PEM}, "cacert"),
        ({"host": "https://api", "certFile": "/nonexistent/cert"}, "cert"),
        ({"host": "https://api", "certFile": "/nonexistent/cert", "keyFile": "/nonexistent/key"}, "certFile"),
        ({"host": "https://api", "cacertFile": "/nonexistent/ca"}, "cacertFile"),
        ({"host": "https://api", "cacert": "garbage"}, "cacert"),
        ({"host": "https://api", "key": "-----BEGIN"}, "key"),
        ({"host": "https://me:secret@api"}, "host"),
        ({"host": "ftp://api"}, "host"),
        ({"host": "api:port"}, "host"),
        ({"host": "https://api", "context": "here"}, "context"),
        ({"kubeConfig": "/nonexistent/config"}, "kubeConfig"),
    ],
)
def test_what_cannot_be_used_is_told_before_the_start(keys: dict[str, object], path: str) -> None:
    assert [problem.path for problem in connection(**keys).problems()] == [path]


def test_a_kubeconfig_file_stands_alone(tmp_path: Path) -> None:
    file = tmp_path / "config"
    file.write_bytes(kubeconfig())
    assert not list(connection(kubeConfig=str(file), context="here", qps=7).problems())
    found = connection(kubeConfig=str(file), host="https://api", bearerToken="x", context="nowhere").problems()
    assert {(problem.path, problem.message) for problem in found} == {
        ("host", "comes from the kubeconfig file; leave it out"),
        ("bearerToken", "comes from the kubeconfig file; leave it out"),
        ("kubeConfig", "the kubeconfig file has no cluster 'two'"),
    }


def test_a_context_joins_a_cluster_and_a_user(tmp_path: Path) -> None:
    user = {"client-certificate": "me.crt", "client-key-data": base64.b64encode(PEM.encode()).decode(), "token": "t"}
    config = parse_kubeconfig(kubeconfig(user, {"server": "one", "tls-server-name": "name"}), tmp_path)
    cluster, found = config.choose()
    assert (cluster.server, cluster.server_name) == ("https://one", "name")
    assert (found.certificate, found.key, found.token) == (str(tmp_path / "me.crt"), PEM, "t")
    assert config.choose("nobody")[1].token == ""
    with pytest.raises(KubeConfigError, match="no context 'other'"):
        config.choose("other")


@pytest.mark.parametrize(
    ("user", "cluster", "words"),
    [
        ({"client-certificate": "x"}, {}, "only one of client-certificate and client-key"),
        ({"client-key-data": "%%"}, {}, "is not base64 of PEM text"),
        ({"auth-provider": {"name": "gcp"}}, {}, "use an exec plugin"),
        ({"exec": {"apiVersion": "client.authentication.k8s.io/v1alpha1", "command": "x"}}, {}, "v1 or v1beta1"),
        ({"exec": {"apiVersion": "client.authentication.k8s.io/v1"}}, {}, "has no command"),
        (
            {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "x", "interactiveMode": "Always"}},
            {},
            "nobody is there",
        ),
        ({"as-groups": ["admins"]}, {}, "without a name"),
        ({"token": ["x"]}, {}, "is not text"),
        ({}, {"server": "https://one", "proxy-url": "http://proxy"}, "not supported"),
        ({}, {"server": "https://one", "insecure-skip-tls-verify": "yes"}, "neither true nor false"),
        (
            {},
            {"server": "https://one", "insecure-skip-tls-verify": True, "certificate-authority": "x"},
            "use one of them",
        ),
        ({}, {"certificate-authority": "x"}, "has no server"),
    ],
)
def test_what_a_kubeconfig_file_may_not_say(user: dict[str, Any], cluster: dict[str, Any], words: str) -> None:
    with pytest.raises(KubeConfigError, match=words):
        parse_kubeconfig(kubeconfig(user, cluster), Path("/")).choose()


def test_plugins_and_impersonation_are_read(tmp_path: Path) -> None:
    plugin = {
        "apiVersion": "client.authentication.k8s.io/v1beta1",
        "command": "./login",
        "args": ["-v", 1.20],
        "env": [{"name": "A", "value": "b"}],
        "provideClusterInfo": True,
    }
    user = {"exec": plugin, "as": "someone", "as-groups": ["a", "b"], "as-user-extra": {"Scope/x": ["y"]}}
    _, found = parse_kubeconfig(kubeconfig(user), tmp_path).choose()
    assert found.plugin is not None
    assert (found.plugin.command, found.plugin.arguments) == (str(tmp_path / "login"), ("-v", "1.2"))
    assert (found.plugin.environment, found.plugin.tells_cluster) == ({"A": "b"}, True)
    assert found.impersonation == (
        ("Impersonate-User", "someone"),
        ("Impersonate-Group", "a"),
        ("Impersonate-Group", "b"),
        ("Impersonate-Extra-scope%2Fx", "y"),
    )


SCRAP = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["name", "server", "exec", "command", "args", "env", "value", "as", "as-groups", "token", "kind"]
            )
            | st.text(max_size=5),
            inner,
            max_size=4,
        )
    ),
    max_leaves=10,
)


@given(SCRAP, SCRAP, st.binary(max_size=60))
def test_any_kubeconfig_is_read_or_refused(who: Any, where: Any, noise: bytes) -> None:
    tree = json.loads(kubeconfig())
    tree["users"][0]["user"], tree["clusters"][0]["cluster"] = who, where
    for content in (json.dumps(tree).encode(), noise):
        with suppress(KubeConfigError):
            cluster, user = parse_kubeconfig(content, Path("/")).choose()
            assert cluster.server
            assert bool(user.certificate) == bool(user.key)


@given(st.binary(max_size=60) | SCRAP.map(lambda value: json.dumps(value).encode()), SCRAP)
def test_any_answer_of_a_plugin_is_credentials_or_refused(output: bytes, status: Any) -> None:
    answer = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}
    for content in (output, json.dumps(answer).encode()):
        with suppress(PluginError):
            found = parse_answer(content, "v1")
            assert status.get("token") or (status.get("clientCertificateData") and status.get("clientKeyData"))
            assert found.token or found.certificate


def test_a_plugins_answer_has_a_token_and_an_end() -> None:
    status = {"token": "t", "expirationTimestamp": "2030-01-02T03:04:05Z"}
    answer = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}
    found = parse_answer(json.dumps(answer).encode(), "v1")
    assert found.token == "t"
    assert found.expires is not None
    assert found.expires.isoformat() == "2030-01-02T03:04:05+00:00"
    with pytest.raises(PluginError, match="another version"):
        parse_answer(json.dumps(answer).encode(), "v1beta1")


async def test_a_token_that_would_break_out_of_its_line_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "token"
    credentials = Credentials(connection(host="https://api", bearerTokenFile=str(file)))
    file.write_text("good\n")
    assert ("Authorization", "Bearer good") in (await credentials.access()).headers
    file.write_text("bad\r\nHost: elsewhere")
    with pytest.raises(ConfigError, match="no header may have"):
        await credentials.access()
    file.write_text("better")
    assert ("Authorization", "Bearer better") in (await credentials.access()).headers


async def test_a_name_and_a_password_are_sent_as_basic_auth() -> None:
    access = await Credentials(connection(host="https://api", username="me", password="pä")).access()
    assert access.headers == (("Authorization", f"Basic {base64.b64encode('me:pä'.encode()).decode()}"),)


async def test_groups_have_their_path_beside_the_core_api() -> None:
    prefixed = await Credentials(connection(host="https://api/clusters/one", bearerToken="x")).access()
    assert prefixed.path("", "v1") == "/clusters/one/api/v1"
    assert prefixed.path("coordination.k8s.io", "v1") == "/clusters/one/apis/coordination.k8s.io/v1"
    below = await Credentials(connection(host="https://api", path="/one/api/", bearerToken="x")).access()
    assert below.path("apps", "v1") == "/one/apis/apps/v1"
    assert below.authority == "api"
    address = Access("https", "::1", 6443, "", "/api", (), None, "")
    assert address.url == "https://[::1]:6443"


def test_a_pod_knows_its_cluster(tmp_path: Path) -> None:
    environ = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
    assert in_cluster(environ, tmp_path) is None
    (tmp_path / "token").write_text("t")
    (tmp_path / "ca.crt").write_text(PEM)
    assert in_cluster({}, tmp_path) is None
    found = in_cluster(environ, tmp_path)
    assert found is not None
    assert (found[0].server, found[0].authorities) == ("https://[fd00::1]:443", str(tmp_path / "ca.crt"))
    assert found[1].token_file == str(tmp_path / "token")


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({}, "not a pod"),
        ({"host": "http://10.0.0.1", "bearerTokenFile": "/x"}, "reads the traffic"),
        ({"host": "https://api", "username": "me"}, "since 1.19"),
        ({"host": "https://api", "bearerToken": "x", "bearerTokenFile": "/x"}, "bearerTokenFile wins"),
        ({"host": "https://api", "bearerToken": "x"}, "cannot be renewed"),
        ({"host": "https://api", "bearerTokenFile": "/x"}, ""),
    ],
)
def test_advice_about_a_connection(keys: dict[str, object], words: str) -> None:
    found = [finding.message for finding in connection_advice(connection(**keys))]
    assert (len(found) == 1 and words in found[0]) if words else not found


def test_advice_about_a_kubeconfig_file(tmp_path: Path) -> None:
    file = tmp_path / "config"
    file.write_bytes(kubeconfig({"as": "boss"}, {"server": "http://10.0.0.1", "insecure-skip-tls-verify": True}))
    config = connection(kubeConfig=str(file))
    found = " ".join(finding.message for finding in connection_advice(config))
    assert all(word in found for word in ("insecure-skip-tls-verify", "http://", "'boss'", "current context"))
    assert [path for _, path, _ in secret_files(config)] == [file]


async def test_a_login_asks_at_its_rate() -> None:
    loop = asyncio.get_running_loop()
    limiter, began = Limiter(50.0, 3), loop.time()
    for _ in range(3):
        await limiter.take()
    assert loop.time() - began < 0.015
    for _ in range(4):
        await limiter.take()
    assert loop.time() - began > 0.06


async def test_who_gives_up_its_turn_keeps_nobody_waiting() -> None:
    loop = asyncio.get_running_loop()
    limiter, began = Limiter(50.0, 1), loop.time()
    await limiter.take()
    for _ in range(1000):
        given_up = asyncio.create_task(limiter.take())
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.wait([given_up])
    async with asyncio.timeout(5):
        await limiter.take()
    assert loop.time() - began < 5
