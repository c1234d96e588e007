"""From a file to a configuration that a server can be started with."""

from __future__ import annotations

import json
import subprocess
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from containerssh.config.app import AppConfig
from containerssh.config.findings import ConfigErrors, all_paths
from containerssh.config.load import Loaded, load
from containerssh.config.log import LogLevel
from containerssh.core.codes import ConfigCode, CoreCode

HOOK = {"method": "webhook", "webhook": {"url": "http://127.0.0.1:9/"}}
AUTH = {"auth": {"password": HOOK}}


def write(folder: Path, tree: Any, name: str = "config.yaml") -> Path:
    path = folder / name
    if isinstance(tree, str):
        path.write_text(tree)
    elif name.endswith(".json"):
        path.write_text(json.dumps(tree))
    else:
        writer = YAML(typ="safe", pure=True)
        writer.default_flow_style = False
        with path.open("w") as file:
            writer.dump(tree, file)
    return path


def loaded(folder: Path, tree: Any, name: str = "config.yaml") -> Loaded:
    return load(write(folder, tree, name))


def refused(folder: Path, tree: Any, name: str = "config.yaml") -> str:
    with pytest.raises(ConfigErrors) as caught:
        loaded(folder, tree, name)
    assert caught.value.code is CoreCode.CONFIG_ERROR
    assert caught.value.findings
    return caught.value.event().text


def test_a_file_with_a_way_to_log_in_is_enough(tmp_path: Path) -> None:
    result = loaded(tmp_path, AUTH)
    assert result.config.backend == "docker"
    assert result.config.auth.password.webhook.timeout == timedelta(seconds=2)
    assert result.raw == AUTH
    assert result.path == tmp_path / "config.yaml"
    assert not result.warnings


def ssh(**keys: Any) -> dict[str, Any]:
    return {**AUTH, "ssh": keys}


def password(**keys: Any) -> dict[str, Any]:
    return {"auth": {"password": {**HOOK, "webhook": {**HOOK["webhook"], **keys}}}}  # type: ignore[dict-item]  # a map


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown section": ({**AUTH, "sshd": {}}, "sshd"),
    "an unknown key": (ssh(listne="x"), "ssh.listne (unknown key; did you mean listen?)"),
    "a key in the wrong case": (ssh(Listen="x"), "did you mean listen?"),
    "an unknown nested key": ({**AUTH, "docker": {"execution": {"imagePolicy": "x"}}}, "docker.execution.imagePolicy"),
    "text for a number": (ssh(clientAliveCountMax="many"), "ssh.clientAliveCountMax (must be a whole number"),
    "a list for a text": (ssh(banner=["a"]), "ssh.banner (must be a string, not a list)"),
    "a text for a section": ({**AUTH, "ssh": "x"}, "ssh (must be a map of keys"),
    "a text for a list": (ssh(hostkeys="x"), "ssh.hostkeys (must be a list"),
    "an unknown backend": ({**AUTH, "backend": "lxc"}, "'lxc' is not one of"),
    "a forced command that forces nothing": ({**AUTH, "security": {"forceCommand": " \t"}}, "security.forceCommand"),
    "an unknown log level": ({**AUTH, "log": {"level": "loud"}}, "'loud' is not a log level"),
    "an unknown log format": ({**AUTH, "log": {"format": "xml"}}, "log.format"),
    "an unknown log destination": ({**AUTH, "log": {"destination": "moon"}}, "log.destination"),
    "a bad cipher": (ssh(ciphers=["rot13"]), "rot13"),
    "no cipher at all": (ssh(ciphers=[]), "ssh.ciphers"),
    "no key exchange": (ssh(kex=[]), "ssh.kex"),
    "no MAC": (ssh(macs=[]), "ssh.macs"),
    "a bad server version": (ssh(serverVersion="HTTP/1.1"), "ssh.serverVersion"),
    "a long server version": (ssh(serverVersion="SSH-2.0-" + "x" * 250), "ssh.serverVersion"),
    "a server version with a line end": (ssh(serverVersion="SSH-2.0-x\n"), "ssh.serverVersion"),
    "a missing host key file": (ssh(hostkeys=["/no/such/key"]), "/no/such/key"),
    "a host key of one letter": (ssh(hostkeys=["x"]), "ssh.hostkeys.0"),
    "a host key that is none": (ssh(hostkeys=["-----BEGIN OPENSSH PRIVATE KEY-----\nx\n"]), "ssh.hostkeys.0"),
    "an address without port": (ssh(listen="localhost"), "ssh.listen"),
    "an address with a bare IPv6 host": (ssh(listen="::1:22"), "brackets"),
    "a port that is too large": (ssh(listen=":70000"), "ssh.listen"),
    "a bad duration": (ssh(clientAliveInterval="soon"), "soon"),
    "a keepalive below a second": (ssh(clientAliveInterval="10ms"), "ssh.clientAliveInterval"),
    "an invalid webhook address": (password(url="not a url"), "auth.password.webhook.url (invalid URL"),
    "a webhook on a unix socket": (password(url="unix:///run/x"), "auth.password.webhook.url"),
    "a webhook timeout of 1 ms": (password(timeout="1ms"), "auth.password.webhook.timeout"),
    "a deadline of 1 ms": (password(authTimeout="1ms"), "auth.password.webhook.authTimeout"),
    "a certificate without key": (password(cert="-----BEGIN X-----"), "clientKey"),
    "an unknown curve": (password(curves="x448"), "'x448' is not a known curve"),
    "an unknown auth method": ({"auth": {"password": {"method": "psychic"}}}, "psychic"),
    "no authentication at all": ({}, "auth (no authentication method"),
    "a users file that is not named": ({"auth": {"password": {"method": "users"}}}, "auth.users.file"),
    "a users file that is missing": (
        {"auth": {"password": {"method": "users"}, "users": {"file": "/no/such"}}}, "/no/such",
    ),
    "a negative session limit": ({**AUTH, "security": {"maxSessions": -2}}, "security.maxSessions"),
    "a mode that is none": ({**AUTH, "security": {"shell": {"mode": "sometimes"}}}, "security.shell.mode"),
    "a forwarding mode that is none": (
        {**AUTH, "security": {"forwarding": {"forwardingMode": "disabled"}}}, "security.forwarding.forwardingMode",
    ),
    "the mode that old documentation names": (
        {**AUTH, "security": {"env": {"mode": "deny"}}}, "'deny' is written disable",
    ),
    "an unknown pull policy": ({**AUTH, "docker": {"execution": {"imagePullPolicy": "Sometimes"}}}, "imagePullPolicy"),
    "the config server's bad address": ({**AUTH, "configserver": {"url": "x"}}, "configserver.url"),
    "a health service without address": ({**AUTH, "health": {"enable": True, "listen": "nowhere"}}, "health.listen"),
    "a health check with a bad address": ({**AUTH, "health": {"enable": True, "client": {"url": "x"}}}, "client.url"),
    "an audit folder that is missing": (
        {**AUTH, "audit": {"enable": True, "format": "binary", "storage": "file", "file": {"directory": "/no/such"}}},
        "/no/such",
    ),
    "object storage without keys": ({**AUTH, "audit": {"enable": True, "storage": "s3"}}, "audit.s3.accessKey"),
    "an sshproxy backend without server": (
        {**AUTH, "backend": "sshproxy", "sshproxy": {"usernamePassThrough": True}}, "sshproxy.server",
    ),
    "metrics on a bad address": ({**AUTH, "metrics": {"enable": True, "listen": "nowhere"}}, "metrics.listen"),
    "metrics at a path that nobody can ask for": (
        {**AUTH, "metrics": {"enable": True, "path": "metrics"}}, "metrics.path (must begin with /",
    ),
    "a GeoIP file that is missing": (
        {**AUTH, "geoip": {"provider": "maxmind", "maxmind-geoip2-file": "/no/such.mmdb"}}, "/no/such.mmdb",
    ),
    "a GeoIP file that is a folder": (
        {**AUTH, "geoip": {"provider": "maxmind", "maxmind-geoip2-file": "/etc"}}, "/etc: Is a directory",
    ),
    "the former listen": ({**AUTH, "listen": "0.0.0.0:22"}, "ssh.listen"),
    "the removed dockerrun": ({**AUTH, "dockerrun": {}}, "backend: docker"),
    "the removed kuberun": ({**AUTH, "kuberun": {}}, "backend: kubernetes"),
    "OAuth2 without a provider": (
        {"auth": {"keyboardInteractive": {"method": "oauth2"}}}, "auth.keyboardInteractive.oauth2.provider",
    ),
    "OIDC without a flow": (
        {"auth": {"keyboardInteractive": {"method": "oauth2", "oauth2": {
            "provider": "oidc", "clientId": "c", "clientSecret": "s", "oidc": {"url": "https://id.example.org/"},
        }}}}, "deviceFlow",
    ),
    "a code flow without a page to come back to": (
        {"auth": {"keyboardInteractive": {"method": "oauth2", "oauth2": {
            "provider": "oidc", "clientId": "c", "clientSecret": "s",
            "oidc": {"url": "https://id.example.org/", "authorizationCodeFlow": True},
        }}}}, "redirectURI",
    ),
    "a pattern of clients that is none": (
        {"auth": {"keyboardInteractive": {"method": "oauth2", "oauth2": {
            "provider": "github", "clientId": "c", "clientSecret": "s", "qrCodeClients": ["("],
        }}}}, "qrCodeClients",
    ),
    "GitHub's TLS that is none": (
        {"auth": {"keyboardInteractive": {"method": "oauth2", "oauth2": {
            "provider": "github", "clientId": "c", "clientSecret": "s", "github": {"cacert": "-----nothing"},
        }}}}, "github.cacert",
    ),
    "oauth2 in the wrong place": ({"auth": {"oauth2": {}}}, "auth.keyboardInteractive.oauth2"),
    "a pod's misspelt key": ({**AUTH, "kubernetes": {"pod": {"spec": {"restartpolicy_": "x"}}}}, "did you mean"),
    "a pod's misspelt metadata": ({**AUTH, "kubernetes": {"pod": {"metadata": {"nmespace": "x"}}}}, "did you mean"),
    "a container's misspelt key": (
        {**AUTH, "kubernetes": {"pod": {"spec": {"containers": [{"imge": "x"}]}}}}, "did you mean image",
    ),
    "a negative console container": (
        {**AUTH, "kubernetes": {"pod": {"consoleContainerNumber": -1}}}, "consoleContainerNumber",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_configuration_is_refused_with_the_place_of_the_mistake(tmp_path: Path, kind: str) -> None:
    tree, mentions = WRONG[kind]
    text = refused(tmp_path, tree)
    assert mentions in text
    assert str(tmp_path / "config.yaml") in text


MISSING: dict[str, tuple[dict[str, Any], str]] = {
    "audit": ({**AUTH, "audit": {"enable": True}}, "audit.enable"),
    "syslog": ({**AUTH, "log": {"destination": "syslog"}}, "log.destination"),
    "the test log": ({**AUTH, "log": {"destination": "test"}}, "log.destination"),
    "the proxy": ({**AUTH, "backend": "sshproxy"}, "backend"),
}


@pytest.mark.parametrize("feature", MISSING)
def test_what_this_version_does_not_have_is_refused_by_name(tmp_path: Path, feature: str) -> None:
    tree, path = MISSING[feature]
    text = refused(tmp_path, tree)
    assert path in text
    assert "not available in this version" in text


OFF: dict[str, Any] = {
    "metrics": {"enable": False, "listen": "anything", "path": "/m"},
    "audit": {"enable": False, "format": "binary", "storage": "s3", "intercept": {"stdin": True}},
    "geoip": {"provider": "dummy"},
    "health": {"enable": False, "listen": "anything"},
    "security": {"forwarding": {"forwardingMode": "disable", "socketListenMode": ""}},
    "sshproxy": {"server": "a", "hostKeyAlgorithms": ["ssh-ed25519"]},
    "kubernetes": {"pod": {"mode": "persistent", "spec": {"containers": [{"env": []}]}}},
}


def test_what_stays_switched_off_may_be_configured(tmp_path: Path) -> None:
    assert loaded(tmp_path, {**AUTH, **OFF}).config.security.forwarding.socket_listen_mode == "disable"


def test_what_a_config_server_may_still_change_does_not_keep_the_server_from_starting(tmp_path: Path) -> None:
    tree = {**AUTH, "configserver": {"url": "http://127.0.0.1:9/"}, "backend": "sshproxy"}
    assert loaded(tmp_path, tree).config.backend == "sshproxy"


def test_json_is_read_with_its_own_rules(tmp_path: Path) -> None:
    tree = {
        "SSH": {"Listen": "[::]:22", "clientaliveinterval": 2_000_000_000},
        "Auth": {"PASSWORD": {"Method": "webhook", "Webhook": {"URL": "http://127.0.0.1:9", "Curve": "x25519"}}},
        "docker": {"execution": {"containerName": "one", "host": {"Memory": 5}}},
    }
    config = loaded(tmp_path, tree, "config.json").config
    assert config.ssh.client_alive_interval == timedelta(seconds=2)
    assert config.auth.password.webhook.curves == ("x25519",)
    assert config.docker.execution.container_name == "one"


def test_json_keeps_numbers_and_texts_apart(tmp_path: Path) -> None:
    assert "ssh.banner" in refused(tmp_path, {**AUTH, "ssh": {"banner": 5}}, "config.json")


def test_yaml_numbers_where_a_text_belongs_keep_their_text(tmp_path: Path) -> None:
    text = (
        "auth: {password: {method: webhook, webhook: {url: 'http://127.0.0.1:9', tlsVersion: 1.2}}}\n"
        "ssh: {banner: 1.20}\nsecurity: {env: {allow: [0x1F, true]}}\ndocker: {execution: {containername: 007}}\n"
    )
    config = loaded(tmp_path, text).config
    assert config.auth.password.webhook.tls_version == "1.2"
    assert config.ssh.banner == "1.20"
    assert config.security.env.allow == ("0x1F", "true")
    assert config.docker.execution.container_name == "007"


def test_the_words_of_yaml_1_1_switch_things(tmp_path: Path) -> None:
    config = loaded(tmp_path, {**AUTH, "health": {"enable": "yes"}, "metrics": {"enable": "off"}}).config
    assert (config.health.enable, config.metrics.enable) == (True, False)


def test_aliases_of_the_old_documentation_are_understood(tmp_path: Path) -> None:
    tree = {
        **password(curve="secp256r1"),
        "docker": {"connection": {"host": "127.0.0.1:2375"}, "execution": {"containerName": "x"}},
        "sshproxy": {"hostKeyAlgorithms": ["ssh-ed25519"]},
    }
    oauth2 = {"oidc": {"authorizationFlow": True}, "github": {"curve": "x25519"}}
    tree["auth"]["keyboardInteractive"] = {"oauth2": oauth2}
    config = loaded(tmp_path, tree).config
    assert config.auth.password.webhook.curves == ("secp256r1",)
    assert config.docker.connection.host == "tcp://127.0.0.1:2375"
    assert config.docker.execution.container_name == "x"
    assert config.sshproxy.host_key_algos == ("ssh-ed25519",)
    assert config.auth.keyboard_interactive.oauth2.oidc.authorization_code_flow
    assert config.auth.keyboard_interactive.oauth2.github.curves == ("x25519",)


def test_all_settings_of_github_reach_its_client(tmp_path: Path) -> None:
    given = {
        "apiurl": "https://github.example.org/api",
        "timeout": "7s",
        "cacert": "/a.pem",
        "cert": "/b.pem",
        "key": "/c.pem",
        "tlsVersion": "1.2",
        "curves": ["secp256r1"],
        "cipher": ["ECDHE-RSA-AES128-GCM-SHA256"],
    }
    tree = {**AUTH, "auth": {**AUTH["auth"], "keyboardInteractive": {"oauth2": {"github": given}}}}
    github = loaded(tmp_path, tree).config.auth.keyboard_interactive.oauth2.github
    client = github.client
    assert (client.url, client.timeout, client.cacert) == (
        "https://github.example.org/api",
        timedelta(seconds=7),
        "/a.pem",
    )
    assert (client.cert, client.key.get_secret_value(), client.tls_version) == ("/b.pem", "/c.pem", "1.2")
    assert (client.curves, client.cipher) == (("secp256r1",), ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",))


def test_false_and_zero_are_honoured_where_upstream_lost_them(tmp_path: Path) -> None:
    tree = {
        "auth": {
            "password": {**HOOK, "kerberos": {"enforceUsername": False}},
            "keyboardInteractive": {"oauth2": {"github": {"enforceUsername": False}}},
        },
        "log": {"level": 0},
        "security": {"maxSessions": 0},
    }
    config = loaded(tmp_path, tree).config
    assert not config.auth.password.kerberos.enforce_username
    assert not config.auth.keyboard_interactive.oauth2.github.enforce_username
    assert config.log.level is LogLevel.EMERG
    assert config.security.max_sessions == 0


def test_zeros_that_always_stood_for_the_default_still_do(tmp_path: Path) -> None:
    tree = {
        **password(timeout="0s", authTimeout=0),
        "ssh": {"clientAliveCountMax": 0},
        "sshproxy": {"port": 0, "timeout": "0s"},
        "audit": {"s3": {"uploadPartSize": 0, "parallelUploads": 0}},
        "log": {"syslog": {"tag": ""}, "format": ""},
        "health": {"listen": ""},
        "backend": "",
    }
    config = loaded(tmp_path, tree).config
    assert config.auth.password.webhook.timeout == timedelta(seconds=2)
    assert config.auth.password.webhook.auth_timeout == timedelta(seconds=60)
    assert config.ssh.client_alive_count_max == 3
    assert (config.sshproxy.port, config.sshproxy.timeout) == (22, timedelta(seconds=60))
    assert (config.audit.s3.upload_part_size, config.audit.s3.parallel_uploads) == (5_242_880, 20)
    assert (config.log.syslog.tag, config.log.format, config.health.listen) == ("ContainerSSH", "ljson", "0.0.0.0:7000")
    assert config.backend == "docker"


def test_the_cipher_that_upstream_misnames_is_understood(tmp_path: Path) -> None:
    assert loaded(tmp_path, ssh(ciphers=["tripledescbcID", "aes256-ctr"])).config.ssh.ciphers == (
        "3des-cbc",
        "aes256-ctr",
    )


@pytest.mark.parametrize("section", ["configserver", "metrics", "health", "health.client"])
@pytest.mark.parametrize("name", ["config.yaml", "config.json"])
def test_tls_lists_replace_the_default(tmp_path: Path, section: str, name: str) -> None:
    chosen: dict[str, Any] = {"curves": ["X25519"], "cipher": ["ECDHE-RSA-AES128-GCM-SHA256"]}
    outer, _, inner = section.partition(".")
    block = getattr(loaded(tmp_path, {**AUTH, outer: {inner: chosen} if inner else chosen}, name).config, outer)
    block = getattr(block, inner) if inner else block
    assert (block.curves, block.cipher) == (("x25519",), ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",))


def test_an_unknown_key_of_authentication_is_refused_in_json_too(tmp_path: Path) -> None:
    tree = {"auth": {"password": {**HOOK, "webhok": {}}}}
    assert "auth.password.webhok (unknown key" in refused(tmp_path, tree, "config.json")


@pytest.mark.parametrize("former", [True, False, "yes", "off"])
def test_the_former_auth_url_serves_passwords_and_keys(tmp_path: Path, former: object) -> None:
    tree = {"auth": {"url": "http://127.0.0.1:9", "timeout": "7s", "password": former, "pubkey": False}}
    result = loaded(tmp_path, tree)
    for block in (result.config.auth.password, result.config.auth.public_key):
        assert (block.method, block.webhook.url, block.webhook.timeout) == (
            "webhook", "http://127.0.0.1:9", timedelta(seconds=7),
        )  # fmt: skip
    assert [event.code for event in result.warnings] == [ConfigCode.AUTH_URL_DEPRECATED]


def test_the_former_auth_url_beside_the_new_one_is_refused(tmp_path: Path) -> None:
    tree = {"auth": {"url": "http://127.0.0.1:9", "password": HOOK}}
    assert "auth.url (both" in refused(tmp_path, tree)


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigErrors) as caught:
        loaded(tmp_path, {"ssh": {"a": 1, "banner": []}, "log": {"level": "x"}, "nothing": 1})
    assert {finding.path for finding in caught.value.findings} == {"ssh.a", "ssh.banner", "log.level", "nothing"}


def test_many_mistakes_make_no_endless_message(tmp_path: Path) -> None:
    assert "and 90 more" in refused(tmp_path, {f"k{number}": 1 for number in range(100)})


@pytest.mark.parametrize("text", ["", "a: [", "- a\n", "a: 1\na: 2\n"])
def test_a_broken_file_is_refused_by_name(tmp_path: Path, text: str) -> None:
    assert "config.yaml" in refused(tmp_path, text)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigErrors, match=r"absent\.yaml"):
        load(tmp_path / "absent.yaml")


def test_mistakes_do_not_repeat_secrets(tmp_path: Path) -> None:
    text = refused(tmp_path, {"ssh": {"hostkeys": ["-----BEGIN hunter2"]}, "sshproxy": {"password": ["hunter2"]}})
    assert "hunter2" not in text


def test_a_file_that_could_not_serve_can_still_be_looked_at(tmp_path: Path) -> None:
    path = write(tmp_path, {"backend": "kubernetes", "ssh": {"hostkeys": ["/no/such"]}})
    assert load(path, to_serve=False).config.backend == "kubernetes"


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_host_keys_of_every_kind_are_accepted(tmp_path: Path, kind: str) -> None:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", str(key)], check=True)
    loaded(tmp_path, ssh(hostkeys=[str(key), key.read_text()]))


def test_a_host_key_in_the_former_format_is_accepted(tmp_path: Path) -> None:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-m", "PEM", "-N", "", "-f", str(key)], check=True)
    assert "BEGIN RSA PRIVATE KEY" in key.read_text()
    loaded(tmp_path, ssh(hostkeys=[str(key)]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["-t", "ed25519", "-N", "secret"], "encrypted"), (["-t", "rsa", "-b", "1024", "-N", ""], "1024 bits")],
)
def test_a_host_key_that_cannot_serve_is_refused(tmp_path: Path, arguments: list[str], message: str) -> None:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", *arguments, "-f", str(key)], check=True)
    assert message in refused(tmp_path, ssh(hostkeys=[str(key)]))


_words = st.sampled_from(sorted({part for path in all_paths(AppConfig) for part in path.split(".")} | {"x", "a.b", ""}))
_scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6)
    | st.sampled_from(["webhook", "enable", "5s", "http://x", "https://x", "1.3", "oidc", "-----BEGIN"])
)  # fmt: skip
_trees = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_words, inner, max_size=4), max_leaves=20
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(_words, _trees, max_size=4))
def test_any_tree_gives_a_configuration_or_a_configuration_error(tmp_path: Path, tree: dict[str, Any]) -> None:
    with suppress(ConfigErrors):
        assert isinstance(load(write(tmp_path, tree, "config.json")).config, AppConfig)
