"""``config check``: all mistakes at once, each with its line, and advice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from containerssh.config.check import Finding, check

GOOD = "auth: {password: {method: webhook, webhook: {url: 'http://127.0.0.1:9'}}}\n"


def findings(folder: Path, text: str, name: str = "config.yaml") -> list[Finding]:
    path = folder / name
    path.write_text(text)
    path.chmod(0o600)
    return check(path)


def brief(found: list[Finding]) -> list[tuple[str, int | None, str]]:
    return [(finding.severity, finding.line, finding.path) for finding in found]


def advised(folder: Path, text: str) -> dict[str, str]:
    """The advice about a file that is right, by path."""
    found = findings(folder, GOOD + text)
    assert not [finding for finding in found if finding.severity == "error"], found
    return {finding.path: finding.message for finding in found}


def test_a_good_file_has_no_findings(tmp_path: Path) -> None:
    assert findings(tmp_path, GOOD) == []


def test_forwards_are_said_to_end_where_they_do(tmp_path: Path) -> None:
    forwarding = "security: {forwarding: {forwardingMode: enable}}\n"
    path = "security.forwarding.forwardingMode"
    assert path not in advised(tmp_path, forwarding)
    assert "the host's network" in advised(tmp_path, forwarding + "oci: {network: host}\nbackend: oci\n")[path]
    docker = "docker: {execution: {host: {networkmode: host}}}\nbackend: docker\n"
    assert "the host's network" in advised(tmp_path, forwarding + docker)[path]
    docker = "docker: {execution: {mode: session}}\nbackend: docker\n"
    assert "no container" in advised(tmp_path, forwarding + docker)[path]
    x11 = "security: {forwarding: {x11ForwardingMode: enable}}\n"
    assert "no container" not in " ".join(advised(tmp_path, x11 + docker).values())


def test_a_health_check_that_would_ask_another_port_is_pointed_out(tmp_path: Path) -> None:
    health = "health: {enable: true, listen: '127.0.0.1:7001'CLIENT}\n"
    assert "asks port 7000" in advised(tmp_path, health.replace("CLIENT", ""))["health.client.url"]
    client = ", client: {url: 'http://127.0.0.1:7001/'}"
    assert "health.client.url" not in advised(tmp_path, health.replace("CLIENT", client))


def test_a_folder_of_host_keys_that_cannot_be_read_breaks_nothing(tmp_path: Path) -> None:
    assert advised(tmp_path, f"ssh: {{hostKeyDirectory: /{'x' * 300}}}\n") == {}


def test_an_image_that_is_not_there_is_pointed_out(tmp_path: Path) -> None:
    path = tmp_path / "rootfs"
    oci = f"backend: oci\noci: {{image: {path}}}\n"
    assert str(path) in advised(tmp_path, oci)["oci.image"]
    path.mkdir()
    assert "oci.image" not in advised(tmp_path, oci)


def test_every_mistake_is_found_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = """\
ssh:
  listne: 0.0.0.0:22
  hostkeys:
    - /no/such/key
  clientAliveInterval: soon
auth:
  password:
    method: webhook
    webhook:
      url: http://127.0.0.1:9
      timeout: 1ms
      curve: x448
docker:
  execution:
    host: {memory: much}
log: {level: loud}
audit: {enable: true}
dockerrun: {}
"""
    assert brief(findings(tmp_path, text)) == [
        ("error", 2, "ssh.listne"),
        ("error", 4, "ssh.hostkeys.0"),
        ("error", 5, "ssh.clientAliveInterval"),
        ("error", 11, "auth.password.webhook.timeout"),
        ("error", 12, "auth.password.webhook.curves"),
        ("error", 15, "docker.execution.host"),
        ("error", 16, "log.level"),
        ("error", 17, "audit.enable"),
        ("error", 18, "dockerrun"),
    ]


@pytest.mark.parametrize(
    ("text", "suggestion"),
    [
        ("ssh: {listne: x}", "did you mean listen?"),
        ("ssh: {LISTEN: x}", "did you mean listen?"),
        ("sssh: {}", "did you mean ssh?"),
        ("docker: {execution: {imagepullpolicy: Never}}", "did you mean imagePullPolicy?"),
        ("forceCommand: x", "there is such a key at security.forceCommand"),
        ("listen: x", "it is called ssh.listen now"),
        ("kuberun: {}", "kubernetes"),
        ("zzzzz: {}", ""),
    ],
)
def test_misspelt_keys_come_with_a_suggestion(tmp_path: Path, text: str, suggestion: str) -> None:
    found = [finding for finding in findings(tmp_path, GOOD + text) if finding.severity == "error"]
    assert len(found) == 1
    assert found[0].line == 2
    assert suggestion in found[0].suggestion
    assert bool(suggestion) is bool(found[0].suggestion)


def test_a_mistake_does_not_make_others_up(tmp_path: Path) -> None:
    assert [finding.path for finding in findings(tmp_path, "auth: {password: {method: psychic}}")] == [
        "auth.password.method"
    ]


@pytest.mark.parametrize("method", ["webook", "psychic"])
def test_what_belongs_to_a_misspelt_choice_is_looked_at_as_well(tmp_path: Path, method: str) -> None:
    text = f"auth:\n  password:\n    method: {method}\n    webhook: {{url: 'http://127.0.0.1:9', timeout: 50ms}}\n"
    found = findings(tmp_path, text + "docker: {execution: {container: {memmory: 1}}}\n")
    assert brief(found) == [
        ("error", 3, "auth.password.method"),
        ("error", 4, "auth.password.webhook.timeout"),
        ("warning", 5, "docker.execution.container.memmory"),
    ]
    assert found[0].suggestion == ("did you mean webhook?" if method == "webook" else "")


def test_places_are_found_in_json_too(tmp_path: Path) -> None:
    text = '{\n "auth": {"password": {"method": "x"}},\n "SSH": {\n  "Bannr": 1}}'
    assert brief(findings(tmp_path, text, "config.json")) == [
        ("error", 2, "auth.password.method"),
        ("error", 4, "ssh.Bannr"),
    ]


def test_a_broken_file_is_one_finding_with_its_line(tmp_path: Path) -> None:
    assert brief(findings(tmp_path, "a: 1\na: 2\n")) == [("error", 2, "")]


def test_a_missing_file_is_a_finding(tmp_path: Path) -> None:
    assert check(tmp_path / "absent.yaml")[0].severity == "error"


def test_the_former_auth_url_is_a_warning(tmp_path: Path) -> None:
    assert brief(findings(tmp_path, "auth:\n  url: http://127.0.0.1:9\n")) == [("warning", 2, "auth.url")]


def test_remarks_about_the_document_are_warnings(tmp_path: Path) -> None:
    assert [finding.severity for finding in findings(tmp_path, GOOD + "---\nb: 1\n")] == ["warning"]


ADVICE: dict[str, tuple[str, str]] = {
    "weak ciphers": ("ssh: {ciphers: [aes256-ctr, aes128-cbc]}", "ssh.ciphers"),
    "weak key exchange": ("ssh: {kex: [mlkem768x25519-sha256, diffie-hellman-group14-sha1]}", "ssh.kex"),
    "no key exchange against quantum computers": ("ssh: {kex: [curve25519-sha256]}", "ssh.kex"),
    "weak MACs": ("ssh: {macs: [hmac-sha1]}", "ssh.macs"),
    "no grace": ("ssh: {loginGraceTime: 0s}", "ssh.loginGraceTime"),
    "a webhook in the open": ("configserver: {url: 'http://example.com'}", "configserver.url"),
    "no session": ("security: {maxSessions: 0}", "security.maxSessions"),
    "a pattern for names": ("security: {env: {deny: ['LD_*']}}", "security.env.deny"),
    "options of internal-sftp": ("security: {forceCommand: internal-sftp -R}", "security.forceCommand"),
    "a login that ends at once": ("security: {maxLoginTime: 5s}", "security.maxLoginTime"),
    "a list without a filter": ("security: {env: {allow: [A]}}", "security.env.allow"),
    "a deny list beside a filter": ("security: {defaultMode: filter, signal: {deny: [A]}}", "security.signal.deny"),
    "a signal with its prefix": ("security: {signal: {mode: filter, allow: [SIGTERM]}}", "security.signal.allow"),
    "commands without a filter": ("security: {command: {mode: enable, allow: [a]}}", "security.command.allow"),
    "countries that nobody reads": ("geoip: {provider: maxmind, maxmind-geoip2-file: /dev/null}", "geoip.provider"),
    "a silent log": ("log: {level: emerg}", "log.level"),
    "a talkative log": ("log: {level: debug}", "log.level"),
    "a backend that is not used": ("backend: oci\ndocker: {timeouts: {http: 1s}}", "docker"),
    "an open engine": ("docker: {connection: {host: 'tcp://10.0.0.1:2375'}}", "docker.connection.host"),
    "a privileged container": ("docker: {execution: {host: {privileged: true}}}", "docker.execution.host.Privileged"),
    "the host's network": ("docker: {execution: {host: {networkmode: host}}}", "docker.execution.host.NetworkMode"),
    "the engine's socket": (
        "docker: {execution: {host: {binds: ['/var/run/docker.sock:/s']}}}", "docker.execution.host.Binds.0",
    ),
    "a key the engine does not know": ("docker: {execution: {host: {memry: 1}}}", "docker.execution.host.memry"),
    "no agent": ("docker: {execution: {disableAgent: true}}", "docker.execution.disableAgent"),
    "an agent's own path": ("docker: {execution: {agentPath: /opt/agent}}", "docker.execution.agentPath"),
    "the image's agent": ("docker: {execution: {agent: image}}", "docker.execution.agent"),
    "an agent perhaps": ("docker: {execution: {agent: auto}}", "docker.execution.agent"),
    "an agent that only waits": ("docker: {execution: {agent: none}}", "docker.execution.idleCommand"),
    "SFTP rules without an agent": ("docker: {execution: {agent: none}}\nsftp: {readOnly: true}", "sftp"),
    "no user namespace": ("backend: oci\noci: {userNamespace: {enabled: false}}", "oci.userNamespace.enabled"),
    "the host's network for oci": ("backend: oci\noci: {network: host}", "oci.network"),
    "no seccomp": ("backend: oci\noci: {seccomp: unconfined}", "oci.seccomp"),
    "all capabilities": ("backend: oci\noci: {capAdd: [ALL]}", "oci.capAdd"),
}  # fmt: skip


@pytest.mark.parametrize("kind", ADVICE)
def test_what_is_hardly_meant_is_remarked_upon(tmp_path: Path, kind: str) -> None:
    text, path = ADVICE[kind]
    assert path in advised(tmp_path, text)


UNUSED: dict[str, tuple[str, str]] = {
    "settings of a webhook beside the webhooks": ("timeout: 5s", "auth.timeout"),
    "a switch of version 0.4": ("pubkey: false", "auth.pubkey"),
    "a time limit of version 0.4": ("authTimeout: 5s", "auth.authTimeout"),
    "a webhook that is not asked": ("publicKey: {webhook: {url: 'http://127.0.0.1:9/'}}", "auth.publicKey.webhook"),
    "Kerberos that is not used": ("gssapi: {kerberos: {acceptor: host}}", "auth.gssapi.kerberos"),
    "OAuth 2.0 that is not used": ("keyboardInteractive: {oauth2: {clientId: a}}", "auth.keyboardInteractive.oauth2"),
}


@pytest.mark.parametrize("kind", UNUSED)
def test_settings_of_logins_that_nothing_reads_are_remarked_upon(tmp_path: Path, kind: str) -> None:
    text, path = UNUSED[kind]
    used = "password: {method: webhook, webhook: {url: 'http://127.0.0.1:9'}}"
    found = findings(tmp_path, f"auth: {{{used}, {text}}}\n")
    assert [(finding.severity, finding.path) for finding in found] == [("info", path)]
    assert "no effect" in found[0].message


def test_a_setting_of_the_engine_is_found_in_the_file(tmp_path: Path) -> None:
    text = GOOD + "docker:\n  execution:\n    host:\n      privileged: true\n"
    assert brief(findings(tmp_path, text)) == [("warning", 5, "docker.execution.host.Privileged")]


def test_files_that_others_may_read_or_write_are_remarked_upon(tmp_path: Path) -> None:
    users = tmp_path / "users.yaml"
    users.write_text("")
    users.chmod(0o644)
    path = tmp_path / "config.yaml"
    path.write_text(f"auth: {{password: {{method: users}}, users: {{file: {users}}}}}\n")
    path.chmod(0o666)
    messages = {finding.path: finding.message for finding in check(path)}
    assert "may write" in messages[""]
    assert "may read" in messages["auth.users.file"]


def test_secrets_in_a_file_that_everybody_may_read_are_remarked_upon(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(GOOD + "sshproxy: {password: x}\n")
    path.chmod(0o644)
    assert any("holds secrets" in finding.message for finding in check(path))
    path.write_text(GOOD)
    assert not check(path)


ADDRESSES = {
    "health.listen": "health: {enable: true, listen: VALUE}",
    "health.client.url": "health: {enable: true, client: {url: VALUE}}",
    "configserver.url": "configserver: {url: VALUE}",
    "kubernetes.connection.host": "backend: kubernetes\nkubernetes: {connection: {host: VALUE}}",
}


@pytest.mark.parametrize("path", ADDRESSES)
@pytest.mark.parametrize("value", ["[", "http://[x", "http://a:x/", "https://a:99999/"])
def test_an_address_that_is_none_is_an_error_and_nothing_else(tmp_path: Path, path: str, value: str) -> None:
    found = findings(tmp_path, GOOD + ADDRESSES[path].replace("VALUE", f"'{value}'") + "\n")
    assert {finding.path for finding in found if finding.severity == "error"} == {path}


PIECES = [
    "ssh", "auth", "docker", "log", "level", "execution", "host", "url", "hostkeys", "kubernetes", "pod", "spec", "x",
    ": ", ":\n", "\n", "  ", "    ", "- ", "{", "}", "[", "]", ",", "5s", "&a ", "*a", "<<: *a\n",
]  # fmt: skip
_pieces = st.lists(st.sampled_from(PIECES), max_size=30).map("".join)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_pieces)
def test_any_text_gives_findings(tmp_path: Path, text: str) -> None:
    found: list[Any] = findings(tmp_path, text)
    assert any(finding.severity == "error" for finding in found)
