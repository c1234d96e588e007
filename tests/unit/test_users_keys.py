"""Public keys of the users file, and of files beside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from containerssh.auth.users import UsersFile
from containerssh.core.codes import AuthCode
from containerssh.core.handlers import PublicKey
from containerssh.core.metadata import SocketAddress, Value
from tests.support.users_file import ATTEMPT, HASH, events, key, refused, write


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "users.yaml"


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


@pytest.mark.parametrize("separator", ["\v", "\f", "\x1c", "\x85", "\u2028", "\r"])
async def test_only_a_line_feed_ends_a_line_of_a_key_file(path: Path, separator: str) -> None:
    """A comment may hold anything else: it must not begin a line, which would be a key without its options."""
    line = f'command="only" {key().authorized_key} comment{separator}{key(1).authorized_key}\n'
    (path.parent / "keys").write_bytes(line.encode())
    write(path, {"alice": {"authorizedKeysFile": "keys"}})
    await refused(UsersFile(path).authenticate_public_key(ATTEMPT, key(1)))
