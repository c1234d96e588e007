"""Passwords, groups and keys judged by a real slapd."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from containerssh.auth.ldap.authenticator import LDAPAuthenticator, open_ldap
from containerssh.config.ldap import LDAPConfig
from containerssh.core.errors import AuthFailed, AuthUnavailable, ConfigError
from containerssh.core.handlers import PublicKey
from containerssh.core.metadata import AuthAttempt, Login, SocketAddress, Value
from tests.support.openssh import OpenSSH
from tests.support.server import free_port
from tests.support.slapd import BASE, GROUPS, PEOPLE, Directory, person, running_slapd
from tests.support.webhook import Authority

STAFF = f"cn=staff,{GROUPS}"


@pytest.fixture(scope="module")
def slapd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Directory]:
    with running_slapd(tmp_path_factory.mktemp("slapd"), anonymous="read") as found:
        yield found


@asynccontextmanager
async def ldap(slapd: Directory, **more: Any) -> AsyncIterator[LDAPAuthenticator]:
    config = LDAPConfig.model_validate({**slapd.settings, "authTimeout": "5s", **more})
    assert not list(config.problems())
    async with open_ldap(config) as authenticator:
        yield authenticator


def attempt(user: str) -> AuthAttempt:
    known = {"from": Value("before")}
    return AuthAttempt(SocketAddress("192.0.2.7", 4711), "0" * 32, known, username=user)


async def password(authenticator: LDAPAuthenticator, user: str, word: str | None = None) -> Login:
    return await authenticator.authenticate_password(attempt(user), (f"{user}-pw" if word is None else word).encode())


async def refused(authenticator: LDAPAuthenticator, user: str, word: str | None = None) -> str:
    with pytest.raises(AuthFailed) as caught:
        await password(authenticator, user, word)
    return str(caught.value)


DIRECT: dict[str, Any] = {"userBind": f"uid={{username}},{PEOPLE}", "bindDN": "", "bindPasswordFile": ""}


@pytest.mark.parametrize("way", ["looked up", "directly", "over StartTLS", "without an account"])
async def test_the_right_password_logs_in_and_a_wrong_one_does_not(slapd: Directory, way: str) -> None:
    more: dict[str, Any] = {
        "looked up": {},
        "directly": DIRECT,
        "over StartTLS": {"urls": [slapd.plain], "startTLS": True},
        "without an account": {"bindDN": "", "bindPasswordFile": ""},
    }[way]
    async with ldap(slapd, **more) as authenticator:
        login = await password(authenticator, "alice")
        assert login.authenticated_username == "alice"
        assert login.metadata == {
            "from": Value("before"),
            "LDAP_DN": Value(f"uid=alice,{PEOPLE}"),
            "LDAP_GROUPS": Value(STAFF),
        }
        assert await refused(authenticator, "alice", "wrong") == "Invalid credentials"
        assert await refused(authenticator, "nobody") == "Invalid credentials"


@pytest.mark.parametrize("direct", [False, True])
async def test_an_empty_password_is_refused_although_the_directory_takes_it(slapd: Directory, direct: bool) -> None:
    async with ldap(slapd, **(DIRECT if direct else {})) as authenticator:
        for word in ("", "\0", "\0alice-pw", "alice-pw\0", "x" * 1025):
            assert await refused(authenticator, "alice", word) == "no password that anybody can have"


NAMES = [
    "*", "a*", "alice)(uid=*", "*)(uid=*", "*)(|(uid=*", "alice)(objectClass=*))(&(uid=x", "(", ")", "\\", "\\2a",
    "{username}", "{dn}", "al\0ice", "alice\0", " alice", "alice ", "ALICE", "\uff41lice", "alice,ou=people",
    "alice,dc=example,dc=test", "alice+cn=Alice", "alice\\,", "#alice", '"alice"', "cn=admin", "x" * 257,
    "\u00e9" * 100, "a;b", "alice<", "uid=alice",
]  # fmt: skip
"""What a filter, a name of an entry, or a directory's comparison would make something of."""


async def test_no_name_is_more_than_a_name(slapd: Directory) -> None:
    async with ldap(slapd) as one, ldap(slapd, **DIRECT) as other:
        tries = [
            refused(way, name, word) for way in (one, other) for name in NAMES for word in ("alice-pw", "admin-pw")
        ]
        reasons = await asyncio.gather(*tries)
    assert "userFilter fits more than one entry" not in reasons, "nobody's name is a pattern"


async def test_names_with_characters_that_mean_something_are_users_like_others(slapd: Directory) -> None:
    names = ("o'brien", "a(b)c", "a*c", "st\u00e5le")
    slapd.add(*(person("odd", uid=["odd", *names]),))
    async with ldap(slapd) as authenticator:
        for name in names:
            login = await password(authenticator, name, "odd-pw")
            assert login.authenticated_username == name


async def test_two_entries_are_nobody(slapd: Directory) -> None:
    slapd.add(person("twin1", mail="twin@example.test"), person("twin2", mail="twin@example.test"))
    more = {"userFilter": "(mail={username})", "enforceUsername": False}
    async with ldap(slapd, **more) as authenticator:
        assert "more than one" in await refused(authenticator, "twin@example.test", "twin1-pw")


async def test_an_attribute_may_be_the_name_that_counts(slapd: Directory) -> None:
    slapd.add(person("dora", mail=["dora@example.test", "d@example.test"], title="Dr"))
    more = {"userFilter": "(mail={username})", "enforceUsername": False, "metadata": {"TITLE": "title", "MAIL": "mail"}}
    async with ldap(slapd, **more) as authenticator:
        login = await password(authenticator, "d@example.test", "dora-pw")
        assert (login.username, login.authenticated_username) == ("d@example.test", "dora")
        assert login.metadata["TITLE"] == Value("Dr")
        assert login.metadata["MAIL"] == Value("dora@example.test\nd@example.test")
    async with ldap(slapd, userFilter="(mail={username})") as authenticator:
        assert "not the name" in await refused(authenticator, "d@example.test", "dora-pw")
    async with ldap(slapd, **{**more, "usernameAttribute": "mail"}) as authenticator:
        assert "not exactly one mail" in await refused(authenticator, "d@example.test", "dora-pw")


@pytest.mark.parametrize(
    "more",
    [
        {"requiredGroups": [f"CN=Staff, ou=groups , {BASE.upper()}"]},
        {"requiredGroups": ["cn=others,dc=x", STAFF]},
        {"requiredGroups": [STAFF], "groupAttribute": "", "groupBase": GROUPS, "groupFilter": "(member={dn})"},
        {"requiredGroups": [STAFF], "groupBase": GROUPS, "groupFilter": "(memberUid={username})", **DIRECT},
    ],
    ids=["memberOf", "one of several", "a search", "directly"],
)
async def test_only_members_of_the_group_get_in(slapd: Directory, more: dict[str, Any]) -> None:
    async with ldap(slapd, **more) as authenticator:
        assert (await password(authenticator, "bob")).metadata["LDAP_GROUPS"] == Value(STAFF)
        assert await refused(authenticator, "carol") == "the user is in none of requiredGroups"
        assert await refused(authenticator, "bob", "wrong") == "Invalid credentials", "nobody learns of groups"


async def test_a_name_in_a_group_filter_is_no_filter(slapd: Directory) -> None:
    slapd.add(person("star", uid=["star", "*"]))
    more = {"requiredGroups": [STAFF], "groupAttribute": "", "groupBase": GROUPS}
    async with ldap(slapd, **more, groupFilter="(|(memberUid={username})(cn={username}))") as authenticator:
        assert "requiredGroups" in await refused(authenticator, "*", "star-pw")


async def test_an_entry_that_does_not_fit_the_filter_is_nobodys_although_it_binds(slapd: Directory) -> None:
    slapd.add(person("mallory", sAMAccountName="victim-of-mallory"), person("victim", sAMAccountName="mallory"))
    more = {**DIRECT, "usernameAttribute": "sAMAccountName"}
    async with ldap(slapd, **more, userFilter="(sAMAccountName={username})") as authenticator:
        assert "no entry like userFilter" in await refused(authenticator, "mallory")


async def test_a_locked_or_expired_password_is_refused(slapd: Directory) -> None:
    policy = f"cn=policy,{BASE}"
    slapd.add(
        f"dn: {policy}\nobjectClass: device\nobjectClass: pwdPolicy\npwdAttribute: userPassword\npwdLockout: TRUE\n"
        "pwdMustChange: TRUE",
        person("locked", pwdAccountLockedTime="000001010000Z", pwdPolicySubentry=policy),
        person("reset", pwdReset="TRUE", pwdPolicySubentry=policy),
    )
    async with ldap(slapd) as authenticator:
        await refused(authenticator, "locked")
        assert await refused(authenticator, "reset") == "the password must be changed"


# -- servers that are away, and servers that are others ----------------------------------------------------------------


async def test_the_next_server_is_asked_when_one_is_away(slapd: Directory) -> None:
    urls = [f"ldaps://127.0.0.1:{free_port()}", slapd.ldaps]
    async with ldap(slapd, urls=urls, timeout="2s", authTimeout="10s") as authenticator:
        for _ in range(2):
            assert (await password(authenticator, "alice")).authenticated_username == "alice"
            assert await refused(authenticator, "alice", "wrong") == "Invalid credentials"


async def test_servers_that_are_away_are_no_judgement(slapd: Directory) -> None:
    async with ldap(slapd, urls=[f"ldaps://127.0.0.1:{free_port()}"], authTimeout="100ms") as authenticator:
        with pytest.raises(AuthUnavailable):
            await password(authenticator, "alice")


@pytest.mark.parametrize("scheme", ["ldaps", "StartTLS"])
@pytest.mark.parametrize("what", ["another authority", "another name"])
async def test_a_server_that_cannot_prove_itself_is_shown_nothing(
    slapd: Directory, tmp_path: Path, what: str, scheme: str
) -> None:
    more: dict[str, Any] = {"urls": [slapd.ldaps]}
    if scheme == "StartTLS":
        more = {"urls": [slapd.plain], "startTLS": True}
    if what == "another authority":
        more["cacert"] = str(Authority(tmp_path, "stranger").cert)
    else:
        # The certificate is for the address alone.
        more["urls"] = [url.replace("127.0.0.1", "localhost") for url in more["urls"]]
    async with ldap(slapd, **more, authTimeout="500ms") as authenticator:
        with pytest.raises(AuthUnavailable):
            await password(authenticator, "alice")


async def test_nothing_of_the_machines_other_clients_has_a_say(
    slapd: Directory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".ldaprc").write_text("TLS_REQCERT never\n")
    (tmp_path / "ldap.conf").write_text("TLS_REQCERT never\n")
    for name, value in {"HOME": tmp_path, "LDAPCONF": tmp_path / "ldap.conf", "LDAPTLS_REQCERT": "never"}.items():
        monkeypatch.setenv(name, str(value))
    async with ldap(slapd, urls=[slapd.ldaps.replace("127.0.0.1", "localhost")], authTimeout="500ms") as authenticator:
        with pytest.raises(AuthUnavailable):
            await password(authenticator, "alice")


async def test_a_wrong_account_is_tried_once(slapd: Directory, tmp_path: Path) -> None:
    (tmp_path / "wrong").write_text("wrong")
    more = {"bindPasswordFile": str(tmp_path / "wrong"), "authTimeout": "30s", "urls": [slapd.ldaps, slapd.plain]}
    async with asyncio.timeout(5), ldap(slapd, **more, startTLS=True) as authenticator:
        with pytest.raises(AuthUnavailable) as caught:
            await password(authenticator, "alice")
    assert "refuses the account bindDN" in str(caught.value.__cause__)


async def test_an_emptied_password_file_does_not_look_users_up_as_nobody(slapd: Directory, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("reader-pw")
    async with ldap(slapd, bindPasswordFile=str(file)) as authenticator:
        await password(authenticator, "alice")
        file.write_text("\n")
        with pytest.raises(AuthUnavailable):
            await password(authenticator, "alice")


async def test_the_end_leaves_no_process(slapd: Directory) -> None:
    async with ldap(slapd) as authenticator:
        process = authenticator._directory._helper._process
        assert process is not None
        os.kill(process.pid, 9)
        await process.wait()
        await password(authenticator, "alice")
        again = authenticator._directory._helper._process
        assert again is not None
        assert again.pid != process.pid
    assert again.returncode is not None


async def test_names_of_groups_that_are_none_end_the_start(slapd: Directory) -> None:
    with pytest.raises(ConfigError, match="not a name of an entry"):
        async with ldap(slapd, requiredGroups=["cn=a,=b"]):
            pass


# -- keys --------------------------------------------------------------------------------------------------------------


async def shown(authenticator: LDAPAuthenticator, user: str, line: str) -> Login:
    from containerssh.auth.authorized_keys import parse_authorized_key

    entry = parse_authorized_key(line)
    assert entry is not None
    return await authenticator.authenticate_public_key(attempt(user), PublicKey(entry.key.algorithm, entry.key.blob))


async def test_keys_of_the_entry_log_in_with_their_options(slapd: Directory, tmp_path: Path) -> None:
    client = OpenSSH(tmp_path)
    lines = [(await client.make_key(name)).with_suffix(".pub").read_text().strip() for name in ("a", "b", "c", "d")]
    plain, forced, elsewhere, unlisted = lines
    keys = [
        plain,
        f'command="true",no-pty {forced}',
        f'from="10.0.0.1" {elsewhere}',
        "not a key",
        f"cert-authority {unlisted}",
    ]
    slapd.add(person("erin", sshPublicKey=keys), person("frank"))
    async with ldap(slapd) as authenticator:
        assert (await shown(authenticator, "erin", plain)).authenticated_username == "erin"
        restrictions = (await shown(authenticator, "erin", forced)).restrictions
        assert (restrictions.force_command, restrictions.pty) == ("true", False)
        for user, line in (("erin", elsewhere), ("erin", unlisted), ("frank", plain), ("nobody", plain), ("*", plain)):
            with pytest.raises(AuthFailed):
                await shown(authenticator, user, line)
    async with ldap(slapd, requiredGroups=[STAFF]) as authenticator:
        with pytest.raises(AuthFailed, match="requiredGroups"):
            await shown(authenticator, "erin", plain)


async def test_keys_of_disabled_accounts_let_nobody_in(slapd: Directory, tmp_path: Path) -> None:
    line = (await OpenSSH(tmp_path).make_key()).with_suffix(".pub").read_text().strip()
    slapd.add(
        person("gone", sshPublicKey=line, userAccountControl="514"),
        person("here", sshPublicKey=line, userAccountControl="512"),
        person("shut", sshPublicKey=line, pwdAccountLockedTime="000001010000Z"),
    )
    async with ldap(slapd) as authenticator:
        await shown(authenticator, "here", line)
        for user in ("gone", "shut"):
            with pytest.raises(AuthFailed, match="disabled"):
                await shown(authenticator, user, line)


async def test_a_refusal_tells_nothing_by_its_time(slapd: Directory) -> None:
    async with ldap(slapd) as authenticator:
        loop = asyncio.get_running_loop()
        for user in ("alice", "nobody", "", "alice"):
            began = loop.time()
            await refused(authenticator, user, "wrong")
            assert loop.time() - began > 0.24


async def test_who_is_given_up_leaves_no_child(slapd: Directory) -> None:
    async with ldap(slapd) as authenticator:
        tasks = [asyncio.create_task(password(authenticator, "alice")) for _ in range(20)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(found, Login) for found in done[1::2])
