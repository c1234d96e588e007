"""What the configuration, and ``config check``, say of a directory and of remembered keys."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from containerssh.config import ldap
from containerssh.config.advice import advice, advice_about_files
from containerssh.config.app import AppConfig
from containerssh.config.auth import AuthConfig
from containerssh.config.ldap import LDAPConfig
from tests.support.webhook import Authority


@pytest.fixture
def sound(tmp_path: Path) -> dict[str, Any]:
    """A section without mistakes."""
    password = tmp_path / "password"
    password.write_text("secret\n")
    password.chmod(0o600)
    return {
        "urls": ["ldaps://one.example.com", "ldaps://[2001:db8::1]:3269/"],
        "cacert": str(Authority(tmp_path).cert),
        "bindDN": "cn=reader,dc=example",
        "bindPasswordFile": str(password),
        "userBase": "dc=example",
    }


def places(section: Mapping[str, Any]) -> list[str]:
    return [problem.path for problem in LDAPConfig.model_validate(section).problems()]


def test_a_sound_section_has_no_problem(sound: dict[str, Any]) -> None:
    for more in (
        {},
        {"urls": ["ldap://one.example.com:389"], "startTLS": True},
        {"urls": ["LDAP://one.example.com"], "allowPlaintext": True, "cacert": ""},
        {"bindDN": "", "bindPasswordFile": ""},
        {"userBind": "{username}@example.com"},
        {"userBind": "uid={username},dc=example", "userBase": ""},
        {"groupBase": "dc=example", "groupFilter": "(&(member={dn})(!(cn={username})))", "groupAttribute": ""},
        {"metadata": {"A": "departmentNumber", "B": "1.2.840.113556.1.4.8"}},
    ):
        assert places({**sound, **more}) == []


@pytest.mark.parametrize(
    ("more", "place"),
    [
        ({"urls": []}, "urls"),
        ({"urls": ["https://one.example.com"]}, "urls.0"),
        ({"urls": ["ldaps://one.example.com/dc=x"]}, "urls.0"),
        ({"urls": ["ldaps://one.example.com ldap://two"]}, "urls.0"),
        ({"urls": ["ldaps://me@one.example.com"]}, "urls.0"),
        ({"urls": ["ldaps://one.example.com:0"]}, "urls.0"),
        ({"urls": ["ldaps://one.example.com:x"]}, "urls.0"),
        ({"urls": ["ldapi:///run/slapd"]}, "urls.0"),
        ({"urls": ["ldaps://one.example.com", "ldap://two.example.com"]}, "urls.1"),
        ({"cacert": "/nonexistent"}, "cacert"),
        ({"timeout": "1ms"}, "timeout"),
        ({"authTimeout": "1ms"}, "authTimeout"),
        ({"bindDN": ""}, "bindDN"),
        ({"bindPasswordFile": ""}, "bindPasswordFile"),
        ({"bindPasswordFile": "/nonexistent"}, "bindPasswordFile"),
        ({"bindPasswordFile": "/dev/null"}, "bindPasswordFile"),
        ({"userBase": ""}, "userBase"),
        ({"userBase": "", "userBind": "{username}@example.com"}, "userBase"),
        ({"userBind": "uid=alice,dc=example"}, "userBind"),
        ({"userBind": "uid={user},dc=example"}, "userBind"),
        ({"userFilter": "uid={username}"}, "userFilter"),
        ({"userFilter": "(uid={username}))("}, "userFilter"),
        ({"userFilter": "((uid={username})"}, "userFilter"),
        ({"userFilter": "(objectClass=*)"}, "userFilter"),
        ({"userFilter": "(&(uid={username})(x={dn}))"}, "userFilter"),
        ({"groupFilter": "(member={dn})"}, "groupBase"),
        ({"groupBase": "dc=example"}, "groupFilter"),
        ({"requiredGroups": ["admins"]}, "requiredGroups.0"),
    ],
)
def test_mistakes_are_told_with_their_place(sound: dict[str, Any], more: dict[str, Any], place: str) -> None:
    assert place in places({**sound, **more})


@pytest.mark.parametrize("name", ["sAMAccountName;binary", "a b", "uid)(x", "1", "*"])
def test_attributes_have_names(sound: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match="cannot be the name of an attribute"):
        LDAPConfig.model_validate({**sound, "usernameAttribute": name})


def test_a_missing_package_is_told_with_what_to_install(sound: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ldap, "find_spec", lambda name: None if name == "ldap" else find_spec(name))
    (problem,) = LDAPConfig.model_validate(sound).problems()
    assert "pip install 'containerssh[ldap]'" in problem.message


def test_keys_need_an_account(sound: dict[str, Any]) -> None:
    direct = {"userBind": "uid={username},dc=example", "bindDN": "", "bindPasswordFile": ""}
    for method, expected in (("publicKey", ["ldap.bindDN"]), ("password", [])):
        auth = AuthConfig.model_validate({method: {"method": "ldap"}, "ldap": {**sound, **direct}})
        assert [problem.path for problem in auth.problems()] == expected


def remarks(auth: Mapping[str, Any]) -> list[str]:
    return [finding.path for finding in advice(AppConfig.model_validate({"auth": auth})) if "auth." in finding.path]


def test_plain_connections_and_open_doors_are_remarked_on(sound: dict[str, Any]) -> None:
    loose = {**sound, "urls": ["ldap://one.example.com", "ldap://127.0.0.1"], "allowPlaintext": True}
    method = {"method": "ldap"}
    assert remarks({"password": method, "ldap": loose}) == ["auth.ldap.urls.0", "auth.ldap.requiredGroups"]
    assert remarks({"password": method, "ldap": {**sound, "requiredGroups": ["cn=a"]}}) == []
    assert remarks({"password": {"method": "users"}, "ldap": loose}) == []


def test_a_password_that_everybody_may_read_is_remarked_on(sound: dict[str, Any], tmp_path: Path) -> None:
    config = AppConfig.model_validate({"auth": {"password": {"method": "ldap"}, "ldap": sound}})
    where = "auth.ldap.bindPasswordFile"
    assert where not in [finding.path for finding in advice_about_files(tmp_path / "password", config)]
    (tmp_path / "password").chmod(0o644)
    assert where in [finding.path for finding in advice_about_files(tmp_path / "password", config)]


HOOK = {"method": "webhook", "webhook": {"url": "https://auth.example.com"}}


@pytest.mark.parametrize(
    ("auth", "expected"),
    [
        ({"publicKey": {"method": "remember"}, "keyboardInteractive": HOOK, "remember": {"period": "8h"}}, []),
        ({"publicKey": {"method": "remember"}, "keyboardInteractive": HOOK}, ["publicKey.method"]),
        (
            {"publicKey": {"method": "remember"}, "password": HOOK, "remember": {"period": "8h"}},
            ["remember.period", "publicKey.method"],
        ),
        ({"password": HOOK, "keyboardInteractive": HOOK, "remember": {"period": "1ms"}}, ["remember.period"]),
        (
            {
                "publicKey": {"method": "remember"},
                "keyboardInteractive": HOOK,
                "remember": {"period": "8h"},
                "authenticationMethods": ["keyboard-interactive", "publickey"],
            },
            ["authenticationMethods.1"],
        ),
    ],
)
def test_any_key_is_taken_only_where_questions_follow(auth: dict[str, Any], expected: list[str]) -> None:
    assert [problem.path for problem in AuthConfig.model_validate(auth).problems()] == expected


def test_a_memory_that_is_too_long_or_never_used_is_remarked_on() -> None:
    both = {"publicKey": HOOK, "keyboardInteractive": HOOK}
    chain = {"authenticationMethods": ["publickey,keyboard-interactive"]}
    assert remarks({**both, "remember": {"period": "8h"}}) == ["auth.remember.period"]
    assert remarks({**both, **chain, "remember": {"period": "8h"}}) == []
    assert remarks({**both, **chain, "remember": {"period": "1000h"}}) == ["auth.remember.period"]
