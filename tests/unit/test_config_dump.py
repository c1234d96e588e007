"""What ``--dump-config`` and ``config schema`` print, and the manual's pages."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from containerssh.config.app import AppConfig
from containerssh.config.document import parse_yaml
from containerssh.config.dump import dump_yaml
from containerssh.config.findings import ConfigErrors, all_paths
from containerssh.config.load import load
from containerssh.config.model import MASK, fields_by_key
from containerssh.config.schema import json_schema
from containerssh.config.urls import masked_url
from scripts import config_docs

PEM = "-----BEGIN OPENSSH PRIVATE KEY-----\nmarker\n-----END OPENSSH PRIVATE KEY-----\n"


def shown(tree: dict[str, Any]) -> dict[str, Any]:
    text = dump_yaml(AppConfig.model_validate(tree))
    parsed: dict[str, Any] = YAML(typ="safe", pure=True).load(io.StringIO(text))
    return parsed


def test_defaults_are_shown_as_upstream_shows_them() -> None:
    dumped = shown({})
    assert dumped["ssh"]["clientAliveCountMax"] == 3
    assert dumped["security"]["maxSessions"] == -1
    assert dumped["docker"]["execution"]["agentPath"] == "/usr/bin/containerssh-agent"
    assert dumped["docker"]["timeouts"]["http"] == "15s"
    assert dumped["log"]["level"] == "notice"
    assert dumped["backend"] == "docker"
    assert set(dumped) == set(fields_by_key(AppConfig))


@pytest.mark.parametrize(
    "banner", ["Hello\n", "Hello\nyou\n", "Hello\n  you: # \x07\n\n", "\n x", "a\n\n", "x\r\n", "é\n"]
)
def test_a_dumped_configuration_loads_as_the_same_configuration(tmp_path: Path, banner: str) -> None:
    tree = {
        "ssh": {"hostkeys": ["/etc/key", "relative.key"], "banner": banner, "clientAliveInterval": "1.5s"},
        "auth": {"password": {"method": "webhook", "webhook": {"url": "http://127.0.0.1:9", "timeout": "250ms"}}},
        "log": {"level": 0},
        "security": {"env": {"allow": ["0755", "yes", "null", "1e3", ":x", "- a"]}},
        "docker": {"execution": {"container": {"labels": {"a": "1"}, "healthcheck": {"interval": "3s"}}}},
        "oci": {"resources": {"memory": "512m", "cpus": 1.5}, "tmpfs": {"/tmp": "size=1m"}},
        "kubernetes": {"pod": {"spec": {"containers": [{"image": "x"}]}}},
    }
    config = AppConfig.model_validate(tree)
    path = tmp_path / "config.yaml"
    path.write_text(dump_yaml(config))
    again = load(path, to_serve=False).config
    assert again == config
    assert dump_yaml(again) == dump_yaml(config)


def test_the_former_auth_url_is_dumped_in_the_new_layout(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("auth: {url: 'http://127.0.0.1:9', cert: a, key: b}")
    dumped = shown({"auth": load(path, to_serve=False).config.auth.model_dump(by_alias=True)})
    assert set(dumped["auth"]) == {
        "password", "publicKey", "keyboardInteractive", "gssapi", "authz", "ldap", "remember", "users",
        "authenticationMethods",
    }  # fmt: skip
    assert dumped["auth"]["publicKey"]["webhook"]["url"] == "http://127.0.0.1:9"


SECRETS: list[tuple[str, Any]] = [
    ("ssh.hostkeys", [PEM]),
    ("auth.password.webhook.key", PEM),
    ("auth.keyboardInteractive.oauth2.clientSecret", "marker"),
    ("audit.s3.secretKey", "marker"),
    ("audit.s3.accessKey", "marker"),
    ("sshproxy.password", "marker"),
    ("sshproxy.privateKey", PEM),
    ("kubernetes.connection.bearerToken", "marker"),
    ("kubernetes.connection.password", "marker"),
    ("kubernetes.connection.key", PEM),
    ("docker.connection", {"host": "tcp://h:1", "cert": "-----BEGIN", "key": PEM}),
    ("docker.execution.auth.password", "marker"),
    ("docker.execution.auth.identitytoken", "marker"),
    ("configserver.url", "https://user:marker@example.com/"),
    ("configserver.url", "https://marker@example.com/"),
    ("configserver.url", "https://user:mar/marker@example.com/"),
    ("configserver.url", "https://user:a@marker@example.com/hook"),
    ("configserver.url", "https://example.com/hook?a=b&token=marker"),
    ("configserver.url", "https://example.com/hook?marker"),
    ("configserver.url", "https://example.com/hook#marker"),
    ("auth.password.webhook.url", "http://example.com:8080/?sig=marker"),
    ("kubernetes.connection.host", "user:marker@kube.example.com:6443"),
    ("docker.execution.container.env", ["PROXY=http://user:marker@proxy.example.com:3128"]),
    ("auth.ldap.urls", ["ldaps://marker:marker@ldap.example.com"]),
]


@pytest.mark.parametrize(("path", "value"), SECRETS)
def test_secrets_are_masked(path: str, value: Any) -> None:
    tree: Any = value
    for key in reversed(path.split(".")):
        tree = {key: tree}
    config = AppConfig.model_validate(tree)
    assert "marker" not in dump_yaml(config)
    assert MASK in dump_yaml(config)


@pytest.mark.parametrize(
    "path",
    [path for path, value in SECRETS if "@" not in str(value) and "?" not in str(value) and "#" not in str(value)],
)
def test_a_dump_with_masked_secrets_is_refused_rather_than_used(tmp_path: Path, path: str) -> None:
    tree: Any = dict(SECRETS)[path]
    for key in reversed(path.split(".")):
        tree = {key: tree}
    file = tmp_path / "config.yaml"
    file.write_text(dump_yaml(AppConfig.model_validate(tree)))
    with pytest.raises(ConfigErrors, match="the mask of a dumped configuration"):
        load(file, to_serve=False)


@pytest.mark.parametrize(
    "text",
    [
        "https://example.com:8443/hook", "unix:///run/docker.sock", "tcp://192.0.2.1:2375", "http://[2001:db8::1]:80/@a",
        "registry.example.com/lab/shell@sha256:0123", "https://example.com/@user/page", "a?b=c", "me@example.com",
    ],
)  # fmt: skip
def test_what_is_no_secret_of_an_url_stays(text: str) -> None:
    assert masked_url(text) == text


PIECE = st.text("ab:/?#@&=;%.[] 0\u00e9", max_size=6)


@given(PIECE, PIECE, PIECE, PIECE)
def test_no_secret_of_an_url_is_shown_whatever_stands_around_it(before: str, user: str, host: str, after: str) -> None:
    user = "".join(letter for letter in user if letter not in " [/?#")
    shown = masked_url(
        f"{before}x://{user}:SECRET@h{host} x://h/p?{user}=SECRET{after} x://h?k=v&SECRET#SECRET,x://SECRET@h"
    )
    assert "SECRET" not in shown
    assert masked_url(shown) == shown


@settings(max_examples=15, deadline=None)
@given(st.text(max_size=30), st.lists(st.text(max_size=10), max_size=3))
def test_any_text_survives_a_dump(banner: str, names: list[str]) -> None:
    config = AppConfig.model_validate({"ssh": {"banner": banner}, "security": {"env": {"allow": names}}})
    document = parse_yaml(dump_yaml(config).encode("utf-8", "surrogatepass"))
    again = AppConfig.model_validate(document.tree, context=document.spelling)
    assert (again.ssh.banner, again.security.env.allow) == (config.ssh.banner, config.security.env.allow)


def test_the_schema_knows_every_key() -> None:
    schema = json_schema()
    assert set(schema["properties"]) == set(fields_by_key(AppConfig))
    definitions = schema["$defs"]
    assert definitions["WebhookConfig"]["properties"]["curve"]["deprecated"]
    assert definitions["SecurityConfig"]["additionalProperties"] is False
    assert "debug" in str(definitions["LogConfig"]["properties"]["level"])


def test_the_manual_has_a_page_for_each_section_and_a_line_for_each_key() -> None:
    pages = config_docs.pages()
    sections = {path for path in all_paths(AppConfig) if "." not in path}
    assert set(pages) == (sections - {"backend"}) | {"index"}
    for path in all_paths(AppConfig):
        page = pages[path.split(".")[0]] if "." in path else pages["index"]
        assert f"`{path.rpartition('.')[2]}`" in page or f"`{path}`" in page or path in page


def test_the_manual_is_written_only_where_it_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["config_docs.py", str(tmp_path)])
    config_docs.main()
    before = (tmp_path / "ssh.md").stat().st_mtime_ns
    config_docs.main()
    assert (tmp_path / "ssh.md").stat().st_mtime_ns == before
    assert "ssh" in (tmp_path / "index.md").read_text()
