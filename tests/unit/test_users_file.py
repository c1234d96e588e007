"""The users file: who gets in, with what, and what happens when the file changes."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import argon2
import bcrypt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from containerssh.auth import users, watched_file
from containerssh.auth.users import UsersFile
from containerssh.config.app import AppConfig
from containerssh.config.merge import overlay
from containerssh.core.codes import AuthCode
from containerssh.core.errors import AuthFailed, AuthUnavailable, ConfigError
from containerssh.core.handlers import PublicKey
from containerssh.core.messages import Event, log_labels
from containerssh.core.metadata import AuthAttempt, Restrictions, SocketAddress, Value

HASH = argon2.PasswordHasher(1, 8, 1).hash("right")
OTHER_HASH = argon2.PasswordHasher(1, 8, 1).hash("other")
ATTEMPT = AuthAttempt(SocketAddress("192.0.2.7", 4711), "0" * 32, username="alice")


def key(number: int = 0) -> PublicKey:
    return PublicKey("ssh-ed25519", b"\0\0\0\x0bssh-ed25519\0\0\0 " + bytes([number]) * 32)


def write(path: Path, everyone: dict[str, Any]) -> None:
    """As an editor does: a new file in place of the old one."""
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps({"users": everyone}))
    fresh.chmod(0o600)
    fresh.replace(path)


def overwrite(path: Path, content: str) -> None:
    """In place, for the server's user alone."""
    path.write_text(content)
    path.chmod(0o600)


def overwrite_leaving_size_and_time(path: Path, old: str, new: str) -> None:
    before = path.stat()
    path.write_text(path.read_text().replace(old, new))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def remove(path: Path) -> None:
    path.unlink()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "users.yaml"


def events(caplog: pytest.LogCaptureFixture, code: AuthCode) -> list[str]:
    return [str(r.msg) for r in caplog.records if isinstance(r.msg, Event) and r.msg.code == code]


async def refused(attempted: Any) -> str:
    with pytest.raises(AuthFailed) as caught:
        await attempted
    return caught.value.explanation


async def test_a_password_lets_its_user_in_and_nobody_else(path: Path) -> None:
    write(path, {"alice": {"password": HASH}, "bob": {"password": OTHER_HASH}, "carol": {}, "Alice": None})
    file = UsersFile(path)
    login = await file.authenticate_password(ATTEMPT, b"right")
    assert (login.username, login.authenticated_username) == ("alice", "alice")
    assert (login.remote_address, login.connection_id) == (ATTEMPT.remote_address, ATTEMPT.connection_id)
    assert login.restrictions == Restrictions()
    for name, password in (
        ("alice", b"wrong"),
        ("alice", b""),
        ("alice", b"right\0"),
        ("alice", b"\xff\xfe"),
        ("alice", b"right" * 1000),
        ("bob", b"right"),
        ("carol", b""),
        ("carol", b"right"),
        ("Alice", b"right"),
        ("alice ", b"right"),
        ("nobody", b"right"),
        ("", b"right"),
        ("al\udcffice", b"right"),
    ):
        await refused(file.authenticate_password(replace(ATTEMPT, username=name), password))


async def test_what_the_file_says_about_a_user_is_in_the_login(path: Path) -> None:
    overwrite(
        path,
        f"""
users:
  alice:
    password: "{HASH}"
    config:
      backend: oci
      docker: {{execution: {{disableAgent: false}}}}
    environment: {{LANG: C.UTF-8, PORT: 8080, SWITCH: yes, VERSION: 1.20}}
    metadata: {{team: blue}}
""",
    )
    login = await UsersFile(path).authenticate_password(ATTEMPT, b"right")
    assert login.config_overlay == {"backend": "oci", "docker": {"execution": {"disableAgent": False}}}
    assert {name: value.value for name, value in login.environment.items()} == {
        "LANG": "C.UTF-8",
        "PORT": "8080",
        "SWITCH": "yes",
        "VERSION": "1.20",
    }
    assert login.metadata == {"team": Value("blue")}


async def test_a_key_lets_its_user_in_with_the_rights_of_its_line(path: Path) -> None:
    line = f'restrict,pty,command="backup",environment="LANG=de" {key().authorized_key} laptop'
    write(
        path, {"alice": {"authorizedKeys": [line], "environment": {"LANG": "C", "A": "1"}}, "bob": {"password": HASH}}
    )
    file = UsersFile(path)
    login = await file.authenticate_public_key(ATTEMPT, key())
    assert login.authenticated_username == "alice"
    assert login.restrictions.force_command == "backup"
    assert login.restrictions.pty
    assert not login.restrictions.port_forwarding
    assert login.environment == {"LANG": Value("de"), "A": Value("1")}
    assert "not listed" in await refused(file.authenticate_public_key(ATTEMPT, key(1)))
    assert "no such user" in await refused(file.authenticate_public_key(replace(ATTEMPT, username="x"), key()))
    await refused(file.authenticate_public_key(replace(ATTEMPT, username="bob"), key()))
    certificate = PublicKey("ssh-ed25519-cert-v01@openssh.com", key().blob)
    await refused(file.authenticate_public_key(ATTEMPT, certificate))


async def test_the_first_line_that_fits_counts(path: Path) -> None:
    lines = [
        f'from="198.51.100.0/24",command="elsewhere" {key().authorized_key}',
        f'expiry-time="20200101Z",command="expired" {key().authorized_key}',
        f'from="192.0.2.*",command="here" {key().authorized_key}',
        f'command="anywhere" {key().authorized_key}',
    ]
    write(path, {"alice": {"authorizedKeys": lines}})
    file = UsersFile(path)
    assert (await file.authenticate_public_key(ATTEMPT, key())).restrictions.force_command == "here"
    away = replace(ATTEMPT, remote_address=SocketAddress("203.0.113.9", 1))
    assert (await file.authenticate_public_key(away, key())).restrictions.force_command == "anywhere"


async def test_a_key_that_may_not_be_used_here_or_now_is_refused(path: Path) -> None:
    lines = [f'from="10.0.0.0/8" {key().authorized_key}', f'expiry-time="20200101" {key(1).authorized_key}']
    write(path, {"alice": {"authorizedKeys": lines}})
    file = UsersFile(path)
    assert "address" in await refused(file.authenticate_public_key(ATTEMPT, key()))
    assert "expired" in await refused(file.authenticate_public_key(ATTEMPT, key(1)))


async def test_a_key_file_beside_the_users_file_is_read_and_read_again(path: Path) -> None:
    write(path, {"alice": {"authorizedKeysFile": "alice.keys"}})
    keys = path.parent / "alice.keys"
    file = UsersFile(path)
    await refused(file.authenticate_public_key(ATTEMPT, key()))
    keys.write_text(f"# mine\n\n{key().authorized_key} laptop\r\n")
    assert (await file.authenticate_public_key(ATTEMPT, key())).authenticated_username == "alice"
    keys.write_text(key(1).authorized_key)
    await refused(file.authenticate_public_key(ATTEMPT, key()))
    await file.authenticate_public_key(ATTEMPT, key(1))
    keys.rename(path.parent / "away")
    await refused(file.authenticate_public_key(ATTEMPT, key(1)))
    (path.parent / "away").rename(keys)
    await file.authenticate_public_key(ATTEMPT, key(1))


async def test_a_bad_line_of_a_key_file_costs_that_line_only(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (path.parent / "keys").write_text(f'tunnel="0" {key().authorized_key}\n\xff\n{key(1).authorized_key}\n')
    write(path, {"alice": {"authorizedKeysFile": "keys"}, "bob": {"password": HASH}})
    file = UsersFile(path)
    await refused(file.authenticate_public_key(ATTEMPT, key()))
    await file.authenticate_public_key(ATTEMPT, key(1))
    await file.authenticate_password(replace(ATTEMPT, username="bob"), b"right")
    told = events(caplog, AuthCode.USERS_FILE_FAILED)
    assert [text.split(" of ")[0] for text in told] == ["Line 1", "Line 2"]
    assert told[0].endswith("lets nobody in: an option is not supported")


async def test_a_key_file_that_links_to_a_secret_does_not_take_it_to_the_log(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    secret = path.parent / "shadow"
    secret.write_text('root:$6$salt$Hash:1::\nDB_PASSWORD=Hash\n-----BEGIN Hash-----\npty,Hash\nfrom="Hash" x\n')
    (path.parent / "keys").symlink_to(secret)
    write(path, {"alice": {"authorizedKeysFile": "keys"}})
    await refused(UsersFile(path).authenticate_public_key(ATTEMPT, key()))
    told = events(caplog, AuthCode.USERS_FILE_FAILED)
    assert len(told) == 5
    assert "Hash" not in caplog.text
    assert "DB_PASSWORD" not in caplog.text


async def test_a_changed_file_counts_from_the_next_attempt_on(path: Path) -> None:
    write(path, {"alice": {"password": HASH}})
    file = UsersFile(path)
    await file.authenticate_password(ATTEMPT, b"right")
    write(path, {"alice": {"password": OTHER_HASH}})
    await refused(file.authenticate_password(ATTEMPT, b"right"))
    await file.authenticate_password(ATTEMPT, b"other")
    write(path, {})
    await refused(file.authenticate_password(ATTEMPT, b"other"))


async def test_a_change_that_leaves_size_and_time_alone_is_noticed(path: Path) -> None:
    assert len(HASH) == len(OTHER_HASH)
    write(path, {"alice": {"password": HASH}})
    file = UsersFile(path)
    overwrite_leaving_size_and_time(path, HASH, OTHER_HASH)
    await refused(file.authenticate_password(ATTEMPT, b"right"))


@pytest.mark.parametrize(
    "content",
    [
        "",
        "users: [",
        "users: {alice: {password: plain}}",
        "users: 5",
        "[]",
        "users: {alice: {}}\nusers: {}",
        "\0",
        "&a [*a]",
    ],
)
async def test_a_bad_new_file_leaves_the_old_one_in_force_and_is_told_once(
    path: Path, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    write(path, {"alice": {"password": HASH}})
    file = UsersFile(path)
    overwrite(path, content)
    for _ in range(3):
        await file.authenticate_password(ATTEMPT, b"right")
    assert len(events(caplog, AuthCode.USERS_FILE_FAILED)) == 1
    write(path, {"alice": {"password": OTHER_HASH}})
    await file.authenticate_password(ATTEMPT, b"other")


async def test_a_missing_file_leaves_the_old_one_in_force_and_is_told_once(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(path, {"alice": {"password": HASH}})
    file = UsersFile(path)
    remove(path)
    for _ in range(3):
        await file.authenticate_password(ATTEMPT, b"right")
    assert len(events(caplog, AuthCode.USERS_FILE_FAILED)) == 1


def test_all_mistakes_are_told_at_once_with_their_lines(path: Path) -> None:
    path.write_text(
        """
users:
  alice:
    password: secret-marker
    authorizedKeys:
      - ssh-ed25519 AAAA
      - "# fine"
      - cert-authority ssh-ed25519 AAAA
  bob:
    passwrd: x
    environment: {"A=B": c}
  carol: 5
  dave:
    config: {backend: nonsense}
    authorizedKeys: 7
  erin:
    config: {docker: {execution: {imagePullPolicie: Never}}}
user: {}
"""
    )
    path.chmod(0o600)

    def check(patch: Any) -> object:
        return overlay(AppConfig(), patch)

    with pytest.raises(ConfigError) as caught:
        UsersFile(path, check_config=check)
    told = [str(finding) for finding in getattr(caught.value, "findings", ())]
    found = {(finding.path, finding.line) for finding in getattr(caught.value, "findings", ())}
    assert {
        ("user", 18),
        ("users.alice.password", 4),
        ("users.alice.authorizedKeys.0", 6),
        ("users.alice.authorizedKeys.2", 8),
        ("users.bob.passwrd", 10),
        ("users.carol", 12),
        ("users.dave.authorizedKeys", 15),
        ("users.erin.config", 17),
    } <= found, told
    assert "secret-marker" not in str(caught.value)
    assert any("did you mean password?" in text for text in told)
    assert all(f"line {line}" in " ".join(told) for _, line in found)


def test_a_file_that_anybody_may_write_to_is_refused(path: Path) -> None:
    write(path, {"alice": {"password": HASH}})
    path.chmod(0o602)
    with pytest.raises(ConfigError, match="anybody may write"):
        UsersFile(path)


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o644, False), (0o660, True)])
def test_a_file_that_its_group_may_write_to_is_worth_a_warning(
    path: Path, caplog: pytest.LogCaptureFixture, mode: int, *, warned: bool
) -> None:
    write(path, {})
    path.chmod(mode)
    UsersFile(path)
    assert bool(events(caplog, AuthCode.USERS_FILE_PERMISSIONS)) is warned


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda p: None], ids=["pipe", "folder", "missing"])
def test_what_is_no_file_is_told_at_the_start(path: Path, make: Callable[[Path], None]) -> None:
    make(path)
    with pytest.raises(ConfigError, match=str(path)):
        UsersFile(path)


def test_a_huge_file_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched_file, "LARGEST_FILE", 1000)
    write(path, {f"user{number}": {} for number in range(100)})
    with pytest.raises(ConfigError, match="more than"):
        UsersFile(path)


async def test_an_unknown_user_costs_as_much_time_as_a_known_one(path: Path) -> None:
    slow = bcrypt.hashpw(b"right", bcrypt.gensalt(9)).decode()
    write(path, {"cheap": {"password": HASH}, **{f"user{n}": {"password": slow} for n in range(3)}, "keys": {}})
    file = UsersFile(path)

    async def fastest(name: str) -> float:
        taken = []
        for _ in range(5):
            start = time.perf_counter()
            await refused(file.authenticate_password(replace(ATTEMPT, username=name), b"wrong"))
            taken.append(time.perf_counter() - start)
        return min(taken)

    known = await fastest("user1")
    for name in ("nobody", "keys"):
        # The cheap hash takes a hundredth; the margin is for a busy machine.
        assert await fastest(name) > known / 5


async def test_too_many_passwords_at_once_are_turned_away(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(users, "MOST_WAITING", 2)
    slow = bcrypt.hashpw(b"right", bcrypt.gensalt(10)).decode()
    write(path, {"alice": {"password": slow}})
    file = UsersFile(path)
    results = await asyncio.gather(
        *(file.authenticate_password(ATTEMPT, b"right") for _ in range(20)), return_exceptions=True
    )
    turned_away = [result for result in results if isinstance(result, AuthUnavailable)]
    assert 0 < len(turned_away) <= 18
    assert len(turned_away) + sum(not isinstance(result, BaseException) for result in results) == 20


async def test_judging_does_not_hold_up_the_server(path: Path) -> None:
    slow = bcrypt.hashpw(b"right", bcrypt.gensalt(11)).decode()
    write(path, {"alice": {"password": slow}})
    file = UsersFile(path)
    judging = asyncio.create_task(file.authenticate_password(ATTEMPT, b"right"))
    turns = 0
    while not judging.done():
        await asyncio.sleep(0.005)
        turns += 1
    assert (await judging).authenticated_username == "alice"
    assert turns > 3


@pytest.mark.parametrize("near", [True, False])
async def test_only_a_file_that_others_may_keep_waiting_is_looked_at_in_a_thread(
    path: Path, monkeypatch: pytest.MonkeyPatch, near: bool
) -> None:
    monkeypatch.setattr(watched_file, "_is_near", lambda _: near)
    keys = path.with_name("keys")
    overwrite(keys, key(1).authorized_key)
    write(path, {"alice": {"authorizedKeysFile": "keys"}})
    for file in (keys, path):
        # Long enough ago for a change to be seen by the time alone.
        os.utime(file, (1, 1))
    users_file = UsersFile(path)
    await users_file.authenticate_public_key(ATTEMPT, key(1))
    looks = []

    async def to_thread(call: Callable[..., Any], *arguments: Any) -> Any:
        looks.append(call)
        return call(*arguments)

    monkeypatch.setattr(asyncio, "to_thread", to_thread)
    await users_file.authenticate_public_key(ATTEMPT, key(1))
    assert len(looks) == (0 if near else 2)
    overwrite(keys, key(2).authorized_key)
    await users_file.authenticate_public_key(ATTEMPT, key(2))
    write(path, {})
    await refused(users_file.authenticate_public_key(ATTEMPT, key(2)))
    assert len(looks) == (2 if near else 5)


def test_only_known_kinds_of_file_systems_keep_nobody_waiting(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.touch()
    everything = {file.stat().st_dev for file in (path, *path.parents, *path.resolve().parents)}
    monkeypatch.setattr(watched_file, "_kinds_of_devices", lambda: dict.fromkeys(everything, "ext4"))
    assert watched_file._is_near(path)
    monkeypatch.setattr(watched_file, "_kinds_of_devices", lambda: dict.fromkeys(everything, "nfs4"))
    assert not watched_file._is_near(path)
    monkeypatch.undo()
    assert watched_file._kinds_of_devices()[Path("/proc").stat().st_dev] == "proc"
    assert not watched_file._is_near(Path("/proc/version"))


async def test_an_attempt_that_is_cancelled_leaves_its_place_to_others(path: Path) -> None:
    slow = bcrypt.hashpw(b"right", bcrypt.gensalt(10)).decode()
    write(path, {"alice": {"password": slow}})
    file = UsersFile(path)
    attempts = [asyncio.create_task(file.authenticate_password(ATTEMPT, b"right")) for _ in range(20)]
    await asyncio.sleep(0.02)
    for attempt in attempts:
        attempt.cancel()
    await asyncio.gather(*attempts, return_exceptions=True)
    async with asyncio.timeout(10):
        await file.authenticate_password(ATTEMPT, b"right")


async def test_replacing_the_file_during_logins_never_refuses_a_user_of_both(path: Path) -> None:
    write(path, {"alice": {"authorizedKeys": [key().authorized_key]}})
    file = UsersFile(path)
    done = threading.Event()

    def replace_often() -> None:
        number = 0
        while not done.is_set():
            number += 1
            extra: dict[str, Any] = {f"user{n}": {} for n in range(number % 20)}
            write(path, {"alice": {"authorizedKeys": [key().authorized_key]}, **extra})
            time.sleep(0.002)

    thread = threading.Thread(target=replace_often)
    thread.start()
    try:
        for _ in range(100):
            await file.authenticate_public_key(ATTEMPT, key())
    finally:
        done.set()
        thread.join()


async def test_lines_about_the_file_do_not_carry_the_labels_of_a_login(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from containerssh.core.messages import current_labels

    seen: list[tuple[str, Any]] = []

    class Watch(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            assert isinstance(record.msg, Event)
            seen.append((record.msg.code, dict(current_labels())))

    caplog.set_level(logging.DEBUG, "containerssh")
    watch = Watch()
    logger = logging.getLogger("containerssh.auth.users")
    logger.addHandler(watch)
    try:
        write(path, {"alice": {"password": HASH}})
        file = UsersFile(path)
        overwrite(path, "users: 5")
        with log_labels(connectionId="abc"):
            await file.authenticate_password(ATTEMPT, b"right")
    finally:
        logger.removeHandler(watch)
    assert (AuthCode.USERS_FILE_FAILED, {}) in seen
    assert (AuthCode.SUCCESSFUL, {"connectionId": "abc"}) in seen


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=200),
        st.recursive(
            st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=8)),
            lambda inner: st.one_of(
                st.lists(inner, max_size=3),
                st.dictionaries(
                    st.sampled_from(["users", "alice", "password", "authorizedKeys", "config", "environment", "x"]),
                    inner,
                    max_size=3,
                ),
            ),
            max_leaves=12,
        ).map(lambda tree: json.dumps({"users": tree}).encode()),
    )
)
def test_any_file_is_usable_or_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    path.chmod(0o600)
    refused = ""
    try:
        UsersFile(path)
    except ConfigError as exc:
        refused = str(exc)
    assert not refused or str(path) in refused


@pytest.mark.parametrize("separator", ["\v", "\f", "\x1c", "\x85", "\u2028", "\r"])
async def test_only_a_line_feed_ends_a_line_of_a_key_file(path: Path, separator: str) -> None:
    """A comment may hold anything else: it must not begin a line, which would be a key without its options."""
    line = f'command="only" {key().authorized_key} comment{separator}{key(1).authorized_key}\n'
    (path.parent / "keys").write_bytes(line.encode())
    write(path, {"alice": {"authorizedKeysFile": "keys"}})
    await refused(UsersFile(path).authenticate_public_key(ATTEMPT, key(1)))
