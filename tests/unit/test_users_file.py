"""The users file: who gets in, with what, and what happens when the file changes."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import argon2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from containerssh.auth import watched_file
from containerssh.auth.users import UsersFile
from containerssh.config.app import AppConfig
from containerssh.config.merge import overlay
from containerssh.core.codes import AuthCode
from containerssh.core.errors import ConfigError
from containerssh.core.messages import Event, log_labels
from containerssh.core.metadata import Restrictions, Value
from tests.support.users_file import ATTEMPT, HASH, events, overwrite, refused, write

OTHER_HASH = argon2.PasswordHasher(1, 8, 1).hash("other")


def overwrite_leaving_size_and_time(path: Path, old: str, new: str) -> None:
    before = path.stat()
    path.write_text(path.read_text().replace(old, new))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def remove(path: Path) -> None:
    path.unlink()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "users.yaml"


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
