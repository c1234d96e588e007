"""``config explain`` with several methods, and with those that ask somebody else or remember."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from containerssh.auth.remember import open_memory
from containerssh.auth.totp import parse_totp
from containerssh.config.load import load
from containerssh.core.handlers import AuthMethod
from containerssh.core.metadata import Login
from containerssh.explain.credentials import Terminal
from containerssh.explain.text import as_text
from tests.support.explained import HERE, PASSWORD, in_file, public, steps, told
from tests.support.identity import TOKEN, oidc, providing
from tests.support.kdc import HOME, KDC
from tests.support.openssh import OpenSSH

SECRET = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"


CHAIN: dict[str, Any] = {
    "auth": {
        "password": {"method": "users"},
        "publicKey": {"method": "users"},
        "authenticationMethods": ["publickey,password"],
    }
}


async def test_a_chain_is_followed_and_what_is_missing_is_supposed_or_named(openssh: OpenSSH, tmp_path: Path) -> None:
    key = await openssh.make_key()
    alice = {"password": PASSWORD, "authorizedKeys": [key.with_suffix(".pub").read_text().strip()]}
    path = in_file(tmp_path, CHAIN, {"alice": alice, "bob": {"password": PASSWORD}})
    shown = public(key)
    both = await told(path, key=shown, password=b"secret")
    assert (both.admitted, steps(both)) == (True, [("publickey", "more"), ("password", "right")])
    assert [(method.name, method.why_not) for method in both.methods][:2] == [
        ("password", "no list of auth.authenticationMethods begins with it"),
        ("publickey", ""),
    ]
    one = await told(path, key=shown)
    assert (one.admitted, [step.supposed for step in one.steps]) == (True, [False, True])
    alone = await told(path, key=shown, methods=[AuthMethod.PUBLIC_KEY])
    assert (alone.admitted, alone.reason) == (False, "nothing is shown for what must follow: password")
    early = await told(path, password=b"secret", methods=[AuthMethod.PASSWORD])
    assert (early.admitted, early.reason) == (False, "password: not offered here; what can be tried is publickey")
    wrong = await told(path, key=shown, password=b"wrong")
    assert (wrong.admitted, steps(wrong)) == (False, [("publickey", "more"), ("password", "refused")])
    assert not (await told(path, "bob")).admitted
    assert not (await told(path, "nobody")).admitted


async def test_a_code_is_judged_and_used_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    auth = {"auth": {"password": {"method": "users"}, "keyboardInteractive": {"method": "users"}}}
    users = {"alice": {"password": PASSWORD, "totp": SECRET}, "bob": {"password": PASSWORD}}
    path = in_file(tmp_path, auth, users)
    code = parse_totp(SECRET).code(int(time.time()) // 30)
    first = await told(path, password=b"secret", prompts=Terminal([code]))
    assert (first.admitted, steps(first)) == (True, [("password", "more"), ("keyboard-interactive", "right")])
    again = await told(path, password=b"secret", prompts=Terminal([code]))
    assert (again.admitted, again.reason) == (False, "keyboard-interactive: the code was used already")
    supposed = await told(path)
    assert [step.supposed for step in supposed.steps] == [True, True]
    assert steps(await told(path, "bob")) == [("password", "right")]


async def test_a_login_at_an_identity_provider_is_real_and_its_token_stays_hidden(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with providing() as provider:
        interactive = {"method": "oauth2", "oauth2": oidc(provider)}
        path = in_file(tmp_path, {"auth": {"keyboardInteractive": interactive}})
        explanation = await told(path, prompts=Terminal())
        assert provider.to("/revoke"), "nothing is left at the provider"
    assert f"{provider.url}/verify" in capsys.readouterr().err
    assert (explanation.admitted, explanation.login["authenticatedUsername"]) == (True, "alice")
    assert explanation.login["metadata"]["OIDC_TOKEN"] == {"sensitive": True}
    assert TOKEN not in as_text(explanation) + json.dumps(explanation.as_json())


async def test_what_was_only_supposed_is_never_remembered(
    openssh: OpenSSH, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    key = public(await openssh.make_key())
    hook = {"method": "webhook", "webhook": {"url": "http://127.0.0.1:9"}}
    auth = {"publicKey": {"method": "remember"}, "keyboardInteractive": hook, "remember": {"period": "8h"}}
    path = in_file(tmp_path, {"auth": auth})
    for _ in range(2):
        explanation = await told(path, key=key)
        assert steps(explanation) == [("publickey", "more"), ("keyboard-interactive", "right")]
        assert [step.supposed for step in explanation.steps] == [False, True]
    config = load(path).config
    login = Login(HERE, "0" * 32, username="alice", authenticated_username="Alice")
    await open_memory(config.auth, tmp_path / "state").keep(login, login, key)
    recalled = await told(path, key=key)
    assert steps(recalled) == [("publickey", "right")]
    assert [line["code"] for line in recalled.steps[0].log] == ["AUTH_REMEMBERED"]


async def test_tickets_of_who_asks_are_shown(kdc: KDC, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = in_file(tmp_path, {"auth": {"gssapi": kdc.settings()}})
    for name, value in {**await kdc.ticket("alice"), "KRB5_CONFIG": str(kdc.config)}.items():
        monkeypatch.setenv(name, value)
    mine = await told(path, service=f"host/localhost@{HOME}")
    assert (mine.admitted, mine.login["metadata"]["KERBEROS_PRINCIPAL"]) == (True, {"value": f"alice@{HOME}"})
    other = await told(path, "bob", service=f"host/localhost@{HOME}")
    assert (other.admitted, "may not log in as bob" in other.reason) == (False, True)
    nobody = await told(path, service=f"host/nowhere@{HOME}")
    assert steps(nobody) == [("gssapi-with-mic", "unavailable")]
