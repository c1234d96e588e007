"""``config explain``: it says what a real login then gets, asks who has to be asked, and shows no secret."""

from __future__ import annotations

import base64
import io
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from containerssh.cli.main import main
from containerssh.core.errors import ConfigError
from containerssh.core.metadata import SocketAddress, Value
from containerssh.explain.report import Explanation
from containerssh.explain.text import as_text
from containerssh.webhook import Answer, AuthorizationRequest, ConfigAnswer, ConfigRequest, PasswordRequest, app
from containerssh.webhook import Value as Entry
from tests.support import server as product
from tests.support.explained import PASSWORD, in_file, public, steps, told
from tests.support.oci import image
from tests.support.openssh import OpenSSH, ssh_options


@asynccontextmanager
async def webhooks(asked: list[Any], *, authorizes: bool = True) -> AsyncIterator[str]:
    """Those of the manual's kind; what they are asked is in *asked*."""

    async def password(question: PasswordRequest) -> Answer:
        asked.append(question)
        return Answer(
            success=question.password == b"secret",
            authenticated_username=question.username,
            metadata={"TEAM": Entry("blue"), "TICKET": Entry("t1ck3t", sensitive=True)},
            files={"/etc/token": Entry(b"0123456789", sensitive=True)},
        )

    async def authorization(question: AuthorizationRequest) -> Answer:
        asked.append(question)
        return Answer(success=authorizes, metadata={"ROLE": Entry("admin")})

    async def config(question: ConfigRequest) -> ConfigAnswer:
        asked.append(question)
        theirs = {"docker": {"execution": {"container": {"Image": "theirs:1", "Env": ["DB=hush"]}}}}
        mine = {"oci": {"hostname": "configured", "env": ["FROM=config"]}, "security": {"tty": {"mode": "disable"}}}
        return ConfigAnswer(config=theirs if question.username == "docker" else mine, environment={"MORE": Entry("x")})

    runner = web.AppRunner(app(password=password, authorization=authorization, config=config), access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def hooked(url: str, **more: Any) -> dict[str, Any]:
    method = {"method": "webhook", "webhook": {"url": url}}
    return {"auth": {"password": method, "authz": method}, "configserver": {"url": f"{url}/config"}, **more}


def allowed(explanation: dict[str, Any]) -> dict[str, bool]:
    return {permission["request"]: permission["allowed"] for permission in explanation["permissions"]}


def command(*arguments: str | Path) -> int:
    """The exit status of the command."""
    return main(["config", "explain", *map(str, arguments)])


# -- the explanation, and what a login then gets -----------------------------------------------------------------------


@pytest.mark.oci
async def test_what_is_explained_is_what_openssh_then_gets(openssh: OpenSSH, tmp_path: Path) -> None:
    """Three users of a users file, one let in by webhooks, one refused; each request of each is tried."""
    key = await openssh.make_key()
    line = key.with_suffix(".pub").read_text().strip()
    users = {
        "free": {"authorizedKeys": [line], "environment": {"COLOUR": "red"}},
        "bound": {
            "authorizedKeys": [f'no-pty,environment="TEAM=blue" {line}'],
            "config": {"security": {"shell": {"mode": "disable"}, "subsystem": {"mode": "disable"}}},
        },
        "forced": {
            "authorizedKeys": [f'command="env" {line}'],
            "config": {"security": {"env": {"mode": "filter", "allow": ["MINE"]}}},
        },
        "far": {"authorizedKeys": [f'from="192.0.2.0/24" {line}']},
    }
    asked: list[Any] = []
    async with webhooks(asked) as url:
        config = hooked(url, backend="oci", oci={"image": str(image()), "exposeAuthMetadataAsEnv": True})
        config["auth"] |= {"publicKey": {"method": "users"}, "users": {"file": str(tmp_path / "users.yaml")}}
        in_file(tmp_path, config, users)
        async with product.serving(config) as server:
            for name in [*users, "webhook"]:
                client = OpenSSH(tmp_path, user=name)
                by_key = name != "webhook"
                way = ["-i", str(key), *ssh_options("PreferredAuthentications=publickey")] if by_key else []
                explained = await told(
                    server.folder / "config.yaml",
                    name,
                    key=public(key) if by_key else None,
                    password=None if by_key else b"secret",
                )
                explanation = explained.as_json()
                sent = ssh_options("SetEnv=MINE=1")
                found = await client.run(server, "env; stat -c '%n %s %a' /etc/token", *sent, *way)
                assert explanation["admitted"] is (found.status != 255), (explanation, found)
                if not explanation["admitted"]:
                    continue
                variables = {entry.partition("=")[0] for entry in found.stdout.decode().splitlines()}
                may = allowed(explanation)
                assert set(explanation["container"]["environment"]) <= variables
                excepted = next(p for p in explanation["permissions"] if p["request"] == "env")["excepted"]
                assert ("MINE" in variables) is (may["env"] != ("MINE" in excepted))
                for file in explanation["container"]["files"]:
                    if not explanation["forceCommand"]:
                        entry = f"{file['path']} {file['bytes']} {file['mode'].lstrip('0')}"
                        assert entry in found.stdout.decode(), found
                shell = await client.run(server, None, *way, stdin=b"exit 7\n")
                expected = 255 if not may["shell"] else 0 if explanation["forceCommand"] else 7
                assert shell.status == expected, (name, shell)
                terminal = await client.run(server, "test -t 0", "-tt", *way)
                assert (b"PTY allocation request failed" in terminal.stderr) is not may["pty"], (name, terminal)
                subsystem = await client.run(server, "sftp", "-s", *way)
                assert (b"subsystem request failed" in subsystem.stderr) is not may["subsystem"], (name, subsystem)
    assert len(asked) == 3 * 5 * 2 + 5 * 3, "each login asks for itself"


async def test_users_file_key_and_restrictions_are_named(openssh: OpenSSH, tmp_path: Path) -> None:
    key = await openssh.make_key()
    line = key.with_suffix(".pub").read_text().strip()
    users = {
        "alice": {
            "authorizedKeys": [f'from="192.0.2.0/24",no-pty {line}', f'command="backup" {line}'],
            "config": {"oci": {"image": "hers", "env": ["KEY=hush"]}},
        }
    }
    path = in_file(tmp_path, {"auth": {"publicKey": {"method": "users"}}}, users)
    shown = public(key)
    there = await told(path, key=shown, address=SocketAddress("192.0.2.7", 0))
    assert there.steps[0].log[0]["labels"] == {
        "place": "users.alice.authorizedKeys.0",
        "fingerprint": shown.fingerprint,
    }
    assert next(p for p in there.permissions if p.request == "pty").by == "the credential's options: no-pty"
    assert there.force_command == {}
    here = await told(path, key=shown)
    assert here.force_command == {"command": "backup", "by": "the credential's options"}
    assert [(c.key, c.by, c.before, c.after) for c in here.changes] == [
        ("oci.image", "users file", "any", "hers"),
        ("oci.env", "users file", [], ["KEY"]),
    ]
    assert here.container["image"] == "hers"
    assert (here.limits["exempt"], there.limits["exempt"]) == (True, False)
    other = await openssh.make_key("other")
    refused = await told(path, key=public(other))
    assert (refused.admitted, refused.reason) == (False, "publickey: the key is not listed")


async def test_what_is_supposed_is_one_of_the_users_keys_that_count(openssh: OpenSSH, tmp_path: Path) -> None:
    lines = [(await openssh.make_key(name)).with_suffix(".pub").read_text().strip() for name in ("one", "two")]
    users = {"alice": {"authorizedKeys": [lines[0], f'permitopen="db:5432" {lines[1]}']}, "bob": {}}
    revoked = tmp_path / "revoked"
    revoked.write_text(f"{lines[0]}\n")
    auth = {"publicKey": {"method": "users", "revokedKeys": str(revoked)}}
    security = {"forwarding": {"forwardingMode": "enable"}}
    path = in_file(tmp_path, {"auth": auth, "security": security}, users)
    second = await told(path)
    assert (second.admitted, second.steps[0].log[-1]["labels"]["place"]) == (True, "users.alice.authorizedKeys.1")
    forwarding = next(p for p in second.permissions if p.request == "forwarding")
    assert forwarding.by == "security.forwarding.forwardingMode: enable; the credential's options allow less"
    revoked.write_text("\n".join(lines))
    assert not (await told(path)).admitted
    assert not (await told(path, "bob")).admitted


async def test_webhooks_are_asked_and_what_they_said_is_told_without_secrets(tmp_path: Path) -> None:
    asked: list[Any] = []
    async with webhooks(asked) as url:
        path = in_file(tmp_path, hooked(url, backend="docker"))
        known = {"SITE": Value("north")}
        explanation = await told(path, "docker", password=b"secret", metadata=known, client_version="SSH-2.0-mine")
    assert [type(question).__name__ for question in asked] == [
        "PasswordRequest",
        "AuthorizationRequest",
        "ConfigRequest",
    ]
    assert (asked[0].client_version, asked[0].metadata["SITE"].value) == ("SSH-2.0-mine", "north")
    assert steps(explanation) == [("password", "right"), ("authorization", "right"), ("config server", "right")]
    assert explanation.container["backend"] == "docker"
    assert explanation.container["image"] == "theirs:1"
    assert explanation.container["environment"] == ["DB", "MORE"]
    assert explanation.container["files"] == [{"path": "/etc/token", "bytes": 10, "sensitive": True, "mode": "0600"}]
    assert explanation.login["metadata"] == {
        "SITE": {"value": "north"},
        "TEAM": {"value": "blue"},
        "TICKET": {"sensitive": True},
        "ROLE": {"value": "admin"},
    }
    assert [(change.key, change.by) for change in explanation.changes] == [
        ("docker.execution.container.Image", "config server"),
        ("docker.execution.container.Env", "config server"),
    ]
    shown = as_text(explanation) + json.dumps(explanation.as_json())
    assert f"Contacted: {url}, {url}/config\n" in as_text(explanation)
    for word in (f"{url}/password", f"{url}/authz", f"{url}/config", "statusCode=200"):
        assert word in shown
    encoded = base64.b64encode(b"secret").decode()
    for secret in ("secret", encoded, "t1ck3t", "0123456789", "hush"):
        assert secret not in shown.replace("secret for", "")


@pytest.mark.parametrize("authorizes", [True, False])
async def test_a_no_is_told_with_who_said_it(tmp_path: Path, authorizes: bool) -> None:
    async with webhooks([], authorizes=authorizes) as url:
        path = in_file(tmp_path, hooked(url))
        wrong = await told(path, password=b"wrong")
        assert (wrong.admitted, steps(wrong)) == (False, [("password", "refused")])
        right = await told(path, password=b"secret")
    assert right.admitted is authorizes
    if not authorizes:
        assert steps(right)[1] == ("authorization", "refused")
        assert "the authorization webhook said no" in as_text(right)


async def test_a_webhook_that_is_away_is_told_apart_from_a_no(tmp_path: Path) -> None:
    method = {"method": "webhook", "webhook": {"url": "http://127.0.0.1:9", "authTimeout": "1s"}}
    explanation = await told(in_file(tmp_path, {"auth": {"password": method}}), password=b"x")
    assert (explanation.admitted, steps(explanation)) == (False, [("password", "unavailable")])


async def test_without_webhooks_nobody_is_asked(tmp_path: Path) -> None:
    asked: list[Any] = []
    async with webhooks(asked) as url:
        explanation = await told(in_file(tmp_path, hooked(url)), password=b"secret", webhooks=False)
    assert (asked, explanation.webhooks) == ([], [])
    assert steps(explanation) == [
        ("password", "right"),
        ("authorization", "not asked"),
        ("config server", "not asked"),
    ]
    assert "assuming that this is right: password, authorization, config server" in as_text(explanation)


@pytest.mark.parametrize("asks", [True, False])
async def test_a_password_in_an_address_is_not_shown(tmp_path: Path, asks: bool) -> None:
    async with webhooks([]) as url:
        path = in_file(tmp_path, hooked(url.replace("http://", "http://me:hushhush@")))
        explanation = await told(path, password=b"secret", webhooks=asks)
    assert explanation.admitted
    shown = as_text(explanation) + json.dumps(explanation.as_json())
    assert url.removeprefix("http://") in shown
    assert "hushhush" not in shown


async def test_an_answer_that_cannot_be_used_ends_the_login(tmp_path: Path) -> None:
    async def config(_: ConfigRequest) -> ConfigAnswer:
        return ConfigAnswer(config={"backend": "nosuch"})

    runner = web.AppRunner(app(config=config), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server = {"configserver": {"url": f"http://127.0.0.1:{runner.addresses[0][1]}/config"}}
    users = {"alice": {"password": PASSWORD}}
    explanation = await told(in_file(tmp_path, {"auth": {"password": {"method": "users"}}, **server}, users))
    await runner.cleanup()
    assert (explanation.admitted, "invalid backend: nosuch" in explanation.reason) == (False, True)


# -- the command -------------------------------------------------------------------------------------------------------


def test_the_exit_status_tells_and_mistakes_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = in_file(tmp_path, {"auth": {"password": {"method": "users"}}}, {"alice": {"password": PASSWORD}})
    (tmp_path / "password").write_text("secret\n")
    assert command(path, "--user", "alice", "--password-file", tmp_path / "password") == 0
    assert "Result: alice is let in.\n" in capsys.readouterr().out
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"wrong\n")))
    assert command(path, "--user", "alice", "--password-file", "-", "--format", "json") == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["admitted"], told["reason"]) == (False, "password: wrong password")
    path.write_text("nosuch: 1")
    assert command(path, "--user", "alice") == 2
    shown = capsys.readouterr()
    assert (shown.out, "nosuch" in shown.err) == ("", True)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--key", "/etc/hostname"),
        ("--key", "/nowhere"),
        ("--address", "here"),
        ("--metadata", "novalue"),
        ("--password-file", "/nowhere"),
    ],
)
def test_values_that_cannot_be_are_told(
    tmp_path: Path, arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    path = in_file(tmp_path, {"auth": {"password": {"method": "users"}}}, {"alice": {"password": PASSWORD}})
    assert command(path, "--user", "alice", *arguments) == 2
    shown = capsys.readouterr()
    assert (shown.out, shown.err.startswith("containerssh: ")) == ("", True)


async def test_a_users_file_that_cannot_be_used_is_a_configuration_error(tmp_path: Path) -> None:
    path = in_file(tmp_path, {"auth": {"password": {"method": "users"}}}, {"alice": {"password": "plain"}})
    with pytest.raises(ConfigError):
        await told(path)


def test_what_others_wrote_does_not_reach_the_terminal_as_it_is() -> None:
    explanation = Explanation("al\x1b[2Jice", "127.0.0.1:0", reason="\x07\u202e")
    assert "\x1b" not in as_text(explanation)
    assert "\x07" not in as_text(explanation)
