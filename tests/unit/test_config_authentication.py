"""What is said about methods that must succeed one after another, and about second factors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from containerssh.auth.users import UsersFile
from containerssh.config.check import check
from containerssh.core.errors import ConfigError

USERS = {"method": "users"}
HOOK = {"method": "webhook", "webhook": {"url": "http://127.0.0.1:9"}}
SECRET = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"


def findings(folder: Path, auth: dict[str, Any]) -> list[str]:
    (folder / "users.json").write_text('{"users": {}}')
    (folder / "users.json").chmod(0o600)
    path = folder / "config.json"
    path.write_text(json.dumps({"auth": {"users": {"file": str(folder / "users.json")}, **auth}}))
    return [f"{found.severity} {found.path}: {found.message}" for found in check(path) if "auth" in found.path]


@pytest.mark.parametrize(
    ("auth", "mentions"),
    [
        ({"password": USERS, "authenticationMethods": ["password,publickey"]}, "nobody can succeed"),
        ({"password": USERS, "authenticationMethods": ["passwords"]}, "is not one of password"),
        ({"password": USERS, "authenticationMethods": ["password,password"]}, "only once"),
        (
            {"password": USERS, "keyboardInteractive": USERS, "authenticationMethods": ["keyboard-interactive"]},
            "second factor",
        ),
        ({"keyboardInteractive": {"method": "webhook"}}, "auth.keyboardInteractive.webhook.url"),
        ({"keyboardInteractive": USERS}, "second factor"),
    ],
)
def test_what_would_let_nobody_in_or_anybody_is_a_mistake(tmp_path: Path, auth: dict[str, Any], mentions: str) -> None:
    found = findings(tmp_path, auth)
    assert any(line.startswith("error") and mentions in line for line in found), found


@pytest.mark.parametrize(
    "auth",
    [
        {"password": USERS, "publicKey": USERS, "authenticationMethods": ["publickey, password", "password,publickey"]},
        {"publicKey": USERS, "keyboardInteractive": USERS, "authenticationMethods": ["publickey,keyboard-interactive"]},
        {"publicKey": USERS, "keyboardInteractive": USERS, "authz": HOOK},
        {"keyboardInteractive": HOOK, "authenticationMethods": ["keyboard-interactive"]},
    ],
)
def test_what_makes_sense_is_no_mistake(tmp_path: Path, auth: dict[str, Any]) -> None:
    assert not findings(tmp_path, auth)


def test_a_list_that_nobody_needs_is_remarked(tmp_path: Path) -> None:
    auth = {"password": USERS, "publicKey": USERS, "authenticationMethods": ["publickey,password", "publickey"]}
    (line,) = findings(tmp_path, auth)
    assert line.startswith("warning")
    assert "publickey is enough" in line


def test_a_webhook_that_asks_is_remarked_when_it_can_be_overheard(tmp_path: Path) -> None:
    auth = {"keyboardInteractive": {"method": "webhook", "webhook": {"url": "http://192.0.2.1"}}}
    (line,) = findings(tmp_path, auth)
    assert line.startswith("warning auth.keyboardInteractive.webhook.url")


@pytest.mark.parametrize(
    ("user", "codes", "mentions"),
    [
        ({"totp": SECRET}, False, "auth.keyboardInteractive.method"),
        ({"totp": "JBSWY3DPEHPK3PXP"}, True, "128 bits"),
        ({"authenticationMethods": ["keyboard-interactive"]}, True, "second factor"),
        ({"authenticationMethods": ["gssapi-with-mic"]}, True, "nobody judges"),
        ({"authenticationMethods": ["telepathy"]}, True, "is not one of"),
    ],
)
def test_mistakes_of_a_user_are_told_with_their_place(
    tmp_path: Path, user: dict[str, Any], codes: bool, mentions: str
) -> None:
    path = tmp_path / "users.json"
    path.write_text(json.dumps({"users": {"alice": user}}))
    path.chmod(0o600)
    with pytest.raises(ConfigError) as caught:
        UsersFile(path, codes=codes, methods=("password", "publickey", "keyboard-interactive"))
    assert "users.alice" in str(caught.value)
    assert mentions in str(caught.value)
    assert SECRET not in str(caught.value)
