"""What a configuration says about certificates and revoked keys, and what ``config check`` says to that."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from containerssh.config.check import check


def keygen(*arguments: str | Path) -> None:
    subprocess.run(["ssh-keygen", "-q", *arguments], check=True, capture_output=True, stdin=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``ca``, ``host``, ``other`` and ``id``, each with its public half."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("ca", "host", "other", "id"):
        keygen("-t", "ed25519", "-N", "", "-f", folder / name)
    return folder


def public(path: Path) -> str:
    return Path(f"{path}.pub").read_text().strip()


def findings(folder: Path, public_key: dict[str, Any], **sections: Any) -> list[str]:
    """What ``config check`` finds about keys and certificates."""
    path = folder / "config.yaml"
    webhook = {"method": "webhook", "webhook": {"url": "https://h.example.org"}}
    auth = {"publicKey": {**({} if "method" in public_key else webhook), **public_key}}
    path.write_text(json.dumps({"auth": auth, "docker": {"execution": {"container": {"image": "i"}}}, **sections}))
    path.chmod(0o600)
    found = [f"{one.severity} {one.path}: {one.message}" for one in check(path)]
    return [text for text in found if "publicKey" in text or "ertificate" in text]


def host(keys: Path, name: str, *options: str) -> str:
    """The path of a new host certificate for one of the keys."""
    copy = keys / f"{name}-{abs(hash(options))}.pub"
    copy.write_text(public(keys / name))
    keygen("-s", keys / "ca", "-I", "host", *options, copy)
    return str(copy.with_name(f"{copy.stem}-cert.pub"))


def test_a_good_section_has_no_remark(tmp_path: Path, keys: Path) -> None:
    listed = tmp_path / "authorities"
    listed.write_text(f"# ours\n{public(keys / 'ca')}\n")
    revoked = tmp_path / "revoked"
    keygen("-k", "-f", revoked, f"{keys / 'id'}.pub")
    section = {
        "trustedUserCAKeys": [str(listed), public(keys / "other")],
        "authorizedPrincipalsFile": "/etc/containerssh/principals/%u",
    }
    ssh = {
        "hostkeys": [str(keys / "host")],
        "hostCertificates": [host(keys, "host", "-h", "-n", "gate", "-V", "-1m:+52w")],
    }
    more = {"certificates": section, "revokedKeys": str(revoked), "securityKeys": {"verifyRequired": True}}
    assert findings(tmp_path, more, ssh=ssh) == []


def test_authorities_alone_are_a_way_to_log_in(tmp_path: Path, keys: Path) -> None:
    certificates = {"trustedUserCAKeys": [public(keys / "ca")]}
    assert findings(tmp_path, {"method": "", "certificates": certificates}) == []
    (told,) = findings(tmp_path, {}, auth={"publicKey": {}})
    assert "no authentication method is configured" in told


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"trustedUserCAKeys": ["/nonexistent/ca.pub"]}, "cannot read it: No such file or directory"),
        ({"trustedUserCAKeys": ["/dev/null"]}, "there is no public key in it"),
        ({"trustedUserCAKeys": ["ssh-ed25519 AAAA"]}, "it is cut off"),
        ({"trustedUserCAKeys": ["ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQC7"]}, "cut off"),
        ({"trustedUserCAKeys": ["{ca}"]}, "line 1: there is no public key in it"),
        ({"authorizedPrincipals": {"a": ["b"]}, "authorizedPrincipalsFile": "/p/%u"}, "one of them can hold"),
        ({"authorizedPrincipalsFile": "principals/%u"}, "must be an absolute path"),
        ({"authorizedPrincipalsFile": "/p/%h/%u"}, "must be an absolute path"),
        ({"authorizedPrincipals": {"a": [""]}}, "a principal must not be empty"),
        ({"authorizedPrincipals": {"a": ["b"]}}, "has no effect without trustedUserCAKeys"),
        ({"trustedUserCAKeys": ["{line}"], "authorizedPrincipalsFile": "/p/all"}, "under any name"),
        ({"trustedUserCaKeys": []}, "unknown key"),
    ],
)
def test_mistakes_about_authorities_are_told(tmp_path: Path, keys: Path, section: Any, message: str) -> None:
    text = json.dumps(section).replace("{ca}", str(keys / "ca")).replace("{line}", public(keys / "ca"))
    assert any(message in finding for finding in findings(tmp_path, {"certificates": json.loads(text)}))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "error auth.publicKey.revokedKeys: cannot read"),
        (b"who?\n", "error auth.publicKey.revokedKeys: '{path}' is not a list of revoked keys: line 1 is neither"),
        (b"", "is not a list of revoked keys: it is empty"),
        (b"SSHKRL\n\0\0\0", "is not a list of revoked keys: it ends too early"),
    ],
)
def test_mistakes_about_revoked_keys_are_told(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "revoked"
    if content is not None:
        path.write_bytes(content)
    (told,) = findings(tmp_path, {"revokedKeys": str(path)})
    assert message.replace("{path}", str(path)) in told


def test_files_that_others_may_write_to_are_told(tmp_path: Path, keys: Path) -> None:
    listed, revoked = tmp_path / "authorities", tmp_path / "revoked"
    listed.write_text(public(keys / "ca"))
    revoked.write_text("# nobody yet\n")
    for path in (listed, revoked):
        path.chmod(0o666)
    more = {"certificates": {"trustedUserCAKeys": [str(listed)]}, "revokedKeys": str(revoked)}
    assert [text.split(": ")[1].partition(" /")[0] for text in findings(tmp_path, more)] == [
        "others may write to the authorities' keys in", "others may write to the list of revoked keys",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("other", ("-h", "-n", "gate"), "warning ssh.hostCertificates.0: is for none of the host keys"),
        ("host", ("-h", "-n", "gate", "-V", "20200101:20210101"), "the certificate has expired"),
        ("host", ("-h", "-n", "gate", "-V", "20900101:20910101"), "the certificate is not valid yet"),
        ("host", ("-h", "-n", "gate", "-V", "-1d:+50h"), "expires in 2 days"),
        ("host", ("-h",), "names no host"),
        ("host", ("-n", "gate"), "error ssh.hostCertificates.0: this is a user's certificate"),
    ],
)
@pytest.mark.parametrize("given", ["keys", "folder"])
def test_remarks_about_host_certificates(
    tmp_path: Path, keys: Path, name: str, options: tuple[str, ...], message: str, given: str
) -> None:
    ssh: dict[str, Any] = {"hostCertificates": [host(keys, name, *options)]}
    if given == "keys":
        ssh["hostkeys"] = [str(keys / "host")]
    else:
        ssh["hostKeyDirectory"] = str(tmp_path)
        (tmp_path / "ssh_host_ed25519_key").write_bytes((keys / "host").read_bytes())
    (told,) = findings(tmp_path, {}, ssh=ssh)
    assert message in told


def test_what_is_no_certificate_is_told(tmp_path: Path, keys: Path) -> None:
    for source in ("/nonexistent", f"{keys / 'host'}.pub", public(keys / "host"), "/dev/null"):
        (told,) = findings(tmp_path, {}, ssh={"hostCertificates": [source]})
        assert told.startswith("error ssh.hostCertificates.0: ")
