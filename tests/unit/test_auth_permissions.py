"""Files that say whom to trust, and who may write to them."""

from __future__ import annotations

import json
import logging
import os
import subprocess
from pathlib import Path

import pytest

from containerssh.auth.authorities import Authorities
from containerssh.auth.public_keys import PublicKeys
from containerssh.auth.remember import open_memory
from containerssh.auth.users import UsersFile
from containerssh.auth.watched_file import tell_of_others
from containerssh.config.auth import AuthConfig, PublicKeyAuthConfig
from containerssh.config.certificates import CertificatesConfig
from containerssh.config.check import check
from containerssh.core.codes import AuthCode
from containerssh.core.handlers import PublicKey
from containerssh.core.messages import Event
from containerssh.core.metadata import AuthAttempt, Login, SocketAddress
from containerssh.core.writers import other_writers
from containerssh.keys.public import parse_public_key

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to other users")
NOBODY = 65534


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "etc"
    made.mkdir(0o755)
    return made


@pytest.fixture
def file(folder: Path) -> Path:
    path = folder / "users.json"
    path.write_text('{"users": {}}')
    path.chmod(0o644)
    return path


def authority(folder: Path) -> bytes:
    """The wire encoding of a new key ``ca``."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "ca"], check=True)
    blob = parse_public_key((folder / "ca.pub").read_text())
    assert blob
    return blob


def told(caplog: pytest.LogCaptureFixture, code: AuthCode = AuthCode.FILE_PERMISSIONS) -> list[str]:
    events = [record.msg for record in caplog.records if isinstance(record.msg, Event)]
    return [event.text for event in events if event.code is code]


def test_a_file_of_ours_in_folders_of_ours_has_no_other_writers(folder: Path, file: Path) -> None:
    assert other_writers(file) == ""
    folder.chmod(0o1777)
    assert other_writers(file) == "", "nobody can replace what is not theirs"


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777])
def test_who_may_write_to_a_folder_on_the_way_may_replace_the_file(folder: Path, file: Path, mode: int) -> None:
    folder.chmod(mode)
    assert str(folder) in other_writers(file)


def test_owners_count_that_are_neither_root_nor_the_server(folder: Path, file: Path) -> None:
    os.chown(file, NOBODY, NOBODY)
    assert "user 65534" in other_writers(file)
    os.chown(file, 0, 0)
    os.chown(folder, NOBODY, NOBODY)
    assert str(folder) in other_writers(file)


def test_the_folders_of_a_links_target_count_too(folder: Path, file: Path, tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    target = tmp_path / "open" / "target"
    target.write_text("{}")
    (folder / "link").symlink_to(target)
    assert str(target.parent) in other_writers(folder / "link")
    (target.parent / "back").symlink_to(file)
    assert str(target.parent) in other_writers(target.parent / "back")


def test_a_users_file_that_can_be_replaced_is_told_of(
    folder: Path, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    UsersFile(file).close()
    assert not told(caplog, AuthCode.USERS_FILE_PERMISSIONS)
    folder.chmod(0o777)
    UsersFile(file).close()
    (text,) = told(caplog, AuthCode.USERS_FILE_PERMISSIONS)
    assert str(folder) in text


def test_authorities_and_revoked_keys_that_others_may_write_are_told_of(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority(folder)
    subprocess.run(["ssh-keygen", "-q", "-k", "-f", folder / "revoked"], check=True)
    config = PublicKeyAuthConfig.model_validate(
        {"certificates": {"trustedUserCAKeys": [str(folder / "ca.pub")]}, "revokedKeys": str(folder / "revoked")}
    )
    PublicKeys(config, None)
    assert not told(caplog)
    (folder / "ca.pub").chmod(0o664)
    os.chown(folder / "revoked", NOBODY, NOBODY)
    PublicKeys(config, None)
    assert [str(folder / name) in text for name, text in zip(("ca.pub", "revoked"), told(caplog), strict=True)]


async def test_a_file_of_principals_that_others_may_write_is_told_of_once(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blob = authority(folder)
    (folder / "alice").write_text("ops\n")
    (folder / "alice").chmod(0o664)
    authorities = Authorities(
        CertificatesConfig.model_validate(
            {"trustedUserCAKeys": [str(folder / "ca.pub")], "authorizedPrincipalsFile": f"{folder}/%u"}
        )
    )
    for _ in range(3):
        (entry,) = await authorities.entries(blob, "alice")
        assert entry.principals == ("ops",)
    assert len(told(caplog)) == 1


def test_a_secret_that_everybody_may_read_is_told_of(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    file.chmod(0o600)
    tell_of_others(file, "keytab")
    tell_of_others(file.with_name("missing"), "keytab")
    assert not told(caplog)
    for mode, word in ((0o604, "read by anybody"), (0o620, "written by its group"), (0o602, "written by anybody")):
        file.chmod(mode)
        tell_of_others(file, "keytab")
        assert told(caplog)[-1].endswith(word)


def test_config_check_tells_of_folders_and_owners(folder: Path, file: Path) -> None:
    config = folder.parent / "config.json"
    config.write_text(json.dumps({"auth": {"password": {"method": "users"}, "users": {"file": str(file)}}}))
    config.chmod(0o600)
    file.chmod(0o600)

    def remarks() -> list[str]:
        return [finding.message for finding in check(config) if finding.path == "auth.users.file"]

    assert not remarks()
    folder.chmod(0o777)
    assert str(folder) in remarks()[0]
    folder.chmod(0o755)
    os.chown(file, NOBODY, 0)
    assert "user 65534" in remarks()[0]


async def test_what_was_remembered_under_another_users_file_does_not_count(tmp_path: Path) -> None:
    def auth(name: str) -> AuthConfig:
        return AuthConfig.model_validate(
            {
                "publicKey": {"method": "users"},
                "keyboardInteractive": {"method": "users"},
                "users": {"file": name},
                "remember": {"period": "1h"},
            }
        )

    key = PublicKey("ssh-ed25519", b"key")
    login = Login.of(AuthAttempt(SocketAddress("192.0.2.7", 4711), "0" * 32, username="alice"), "alice")
    await open_memory(auth("/one"), tmp_path).keep(login, login, key)
    assert await open_memory(auth("/one"), tmp_path).recall(login, key)
    assert await open_memory(auth("/other"), tmp_path).recall(login, key) is None
