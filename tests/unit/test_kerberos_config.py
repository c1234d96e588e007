"""What ``config check`` says of Kerberos."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from containerssh.config import auth
from containerssh.config.advice import advice, advice_about_files
from containerssh.config.app import AppConfig
from containerssh.config.auth import KerberosConfig
from containerssh.core.instance import open_instance
from containerssh.settings import server_options


@pytest.fixture
def keytab(tmp_path: Path) -> Path:
    path = tmp_path / "keytab"
    path.write_bytes(b"")
    path.chmod(0o600)
    return path


def section(path: Path, **more: object) -> KerberosConfig:
    return KerberosConfig.model_validate({"keytab": str(path), **more})


def places(config: KerberosConfig) -> list[str]:
    return [problem.path for problem in config.problems()]


def test_a_sound_section_has_no_problem(keytab: Path) -> None:
    for acceptor in ("any", "host", "host/gate.example.com", "host/gate@EXAMPLE.COM"):
        assert places(section(keytab, acceptor=acceptor)) == []


@pytest.mark.parametrize(
    ("more", "place"),
    [
        ({"keytab": "/nonexistent"}, "keytab"),
        ({"acceptor": "hosts"}, "acceptor"),
        ({"acceptor": "host/"}, "acceptor"),
        ({"credentialCachePath": "krb5cc"}, "credentialCachePath"),
        ({"credentialCachePath": "/tmp/"}, "credentialCachePath"),
        ({"clockSkew": "-5m"}, "clockSkew"),
    ],
)
def test_mistakes_are_told_with_their_place(keytab: Path, more: dict[str, object], place: str) -> None:
    assert places(section(keytab, **more)) == [place]


def test_missing_packages_are_told_with_what_to_install(keytab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "find_spec", lambda name: None if name == "gssapi" else find_spec(name))
    (problem,) = section(keytab).problems()
    assert "pip install 'containerssh[kerberos]'" in problem.message


def app(kerberos: dict[str, Any], **more: Any) -> AppConfig:
    return AppConfig.model_validate({"auth": {"gssapi": {"method": "kerberos", "kerberos": kerberos}, **more}})


def test_letting_everybody_log_in_as_anybody_is_remarked_on(keytab: Path) -> None:
    where = "auth.gssapi.kerberos.enforceUsername"
    loose = {"keytab": str(keytab), "enforceUsername": False}
    authz = {"method": "webhook", "webhook": {"url": "https://auth.example.com"}}
    assert where in [finding.path for finding in advice(app(loose))]
    assert where not in [finding.path for finding in advice(app(loose, authz=authz))]
    assert where not in [finding.path for finding in advice(app({"keytab": str(keytab)}))]


def test_key_exchange_by_tickets_follows_the_list_of_key_exchanges(keytab: Path, tmp_path: Path) -> None:
    gssapi = {"method": "kerberos", "kerberos": {"keytab": str(keytab)}}
    with open_instance(tmp_path / "state", tmp_path / "run") as instance:

        def offered(kex: list[str] | None = None, **more: bool) -> bool:
            ssh = {"hostKeyDirectory": str(tmp_path / "keys"), **({"kex": kex} if kex else {})}
            config = AppConfig.model_validate({"auth": {"gssapi": {**gssapi, **more}}, "ssh": ssh})
            told = "auth.gssapi.keyExchange" in [finding.path for finding in advice(config)]
            assert told is (more.get("keyExchange", False) and bool(kex))
            return server_options(config, instance, without_slow_keys=True).exchange_by_tickets

        assert offered()
        assert offered(keyExchange=True)
        assert not offered(keyExchange=False)
        assert not offered(["curve25519-sha256"])
        assert not offered(["curve25519-sha256"], keyExchange=True)


def test_a_keytab_that_everybody_may_read_is_remarked_on(keytab: Path) -> None:
    config = app({"keytab": str(keytab)})
    assert not [finding for finding in advice_about_files(keytab, config) if "keytab" in finding.path]
    keytab.chmod(0o644)
    (finding,) = (finding for finding in advice_about_files(keytab, config) if "keytab" in finding.path)
    assert "holds secrets" in finding.message
