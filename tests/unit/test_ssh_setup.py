"""What the SSH front checks before it starts: algorithms, host keys, the library."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import asyncssh
import pytest

from containerssh.core.codes import CoreCode
from containerssh.core.errors import ConfigError
from containerssh.ssh.algorithms import DEFAULTS, Kind, accepted, check
from containerssh.ssh.host_keys import generate_host_keys, load_host_keys
from containerssh.ssh.selfcheck import check_library, missing_methods

UPSTREAM = {
    Kind.KEX: (
        "curve25519-sha256@libssh.org",
        "ecdh-sha2-nistp521",
        "ecdh-sha2-nistp384",
        "ecdh-sha2-nistp256",
        "diffie-hellman-group14-sha1",
        "diffie-hellman-group1-sha1",
    ),
    Kind.CIPHERS: (
        "chacha20-poly1305@openssh.com",
        "aes256-gcm@openssh.com",
        "aes128-gcm@openssh.com",
        "aes256-ctr",
        "aes192-ctr",
        "aes128-ctr",
        "aes128-cbc",
    ),
    Kind.MACS: ("hmac-sha2-256-etm@openssh.com", "hmac-sha2-256", "hmac-sha1", "hmac-sha1-96"),
}


@pytest.mark.parametrize("kind", Kind)
def test_the_defaults_are_available_and_hold_nothing_weak(kind: Kind) -> None:
    names = check(None, kind)
    assert names == list(DEFAULTS[kind])
    assert not [name for name in names if re.search("sha1|cbc|arcfour|diffie-hellman", name)]


@pytest.mark.parametrize("kind", Kind)
def test_every_name_of_upstream_is_accepted(kind: Kind) -> None:
    assert len(check(UPSTREAM[kind], kind)) == len(UPSTREAM[kind])


@pytest.mark.parametrize("kind", Kind)
def test_every_name_that_is_said_to_be_accepted_is_or_says_why_not(kind: Kind) -> None:
    refused = {}
    for name in accepted(kind):
        try:
            check([name], kind)
        except ConfigError as exc:
            refused[name] = exc.explanation
    # RC4 and 3DES are leaving the cryptography library; their names stay known.
    assert set(refused) <= {"3des-cbc", "arcfour256", "arcfour128", "arcfour"}
    assert all("not available" in text for text in refused.values())


def test_a_misspelt_name_is_refused_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match=r"ssh\.kex: 'curve25519-sha265'.*Did you mean curve25519-sha256\?"):
        check(["curve25519-sha265"], Kind.KEX)


def test_an_empty_list_is_refused() -> None:
    with pytest.raises(ConfigError, match="no client could connect"):
        check([], Kind.CIPHERS)


def test_a_name_given_twice_counts_once() -> None:
    assert check(["aes256-ctr", "aes256-ctr"], Kind.CIPHERS) == ["aes256-ctr"]


# -- host keys ------------------------------------------------------------------------------------


def test_missing_host_keys_are_made_once_and_are_private(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    first = generate_host_keys(folder)
    again = generate_host_keys(folder)
    assert [key.type for key in first] == ["ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa"]
    assert [key.fingerprint for key in first] == [key.fingerprint for key in again]
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert len(list(folder.iterdir())) == 3


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError) as refused:
        generate_host_keys(tmp_path / "file" / "keys")
    assert refused.value.code is CoreCode.HOST_KEY_GENERATION_FAILED


def key_text(kind: str = "ssh-ed25519", form: str = "openssh", passphrase: str | None = None) -> str:
    return asyncssh.generate_private_key(kind).export_private_key(form, passphrase).decode()


def test_keys_are_read_from_texts_and_files(tmp_path: Path) -> None:
    (tmp_path / "rsa").write_text(key_text("ssh-rsa", "pkcs1-pem"))
    keys = load_host_keys([str(tmp_path / "rsa"), key_text()])
    assert [key.type for key in keys] == ["ssh-ed25519", "ssh-rsa"]
    assert keys[1].algorithms == ("rsa-sha2-512", "rsa-sha2-256")


@pytest.mark.parametrize(
    ("sources", "text"),
    [
        ([], "at least one host key"),
        ([""], r"ssh.hostkeys\[0\] is empty"),
        (["/no/such/file"], "cannot be read"),
        (["-----BEGIN nothing"], "not a private key"),
        ([key_text(passphrase="x")], "encrypted"),
        ([key_text(), key_text()], r"ssh.hostkeys\[1\]: there is another key of type ssh-ed25519"),
        ([key_text("ssh-ed448", "pkcs8-pem")], "keys of type ssh-ed448 cannot be used"),
    ],
)
def test_keys_that_cannot_be_used_are_refused_by_place(sources: list[str], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        load_host_keys(sources)


# -- the library ------------------------------------------------------------------------------------


def test_the_installed_library_has_what_is_overridden() -> None:
    check_library()


@pytest.mark.parametrize("version", ["2.24.0", "2.23.1", "2.25.0", "3.0.0"])
def test_another_version_of_the_library_is_refused(version: str) -> None:
    with pytest.raises(ConfigError, match=r"Install asyncssh>=2\.24\.1,<2\.25"):
        check_library(version)


def test_a_method_with_other_parameters_is_noticed() -> None:
    class Changed:
        def kept(self, exc: object) -> None: ...

        def changed(self, exc: object, more: object) -> None: ...

    names = {"kept": ("self", "exc"), "changed": ("self", "exc"), "gone": ("self",)}
    assert missing_methods(Changed, names) == ["changed", "gone"]
