"""Lists of revoked keys: ssh-keygen writes them, and says itself which keys they hold."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from containerssh.keys.certificate import Certificate, parse_certificate
from containerssh.keys.public import fingerprint, parse_public_key
from containerssh.keys.revoked import LARGEST, MAGIC, Revoked
from containerssh.keys.wire import Malformed, string

HEAD = MAGIC + (1).to_bytes(4, "big") + bytes(24) + string(b"") + string(b"")


def keygen(*arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["ssh-keygen", *arguments], check=False, capture_output=True, stdin=subprocess.DEVNULL)


def new_key(folder: Path, name: str, kind: str = "ed25519") -> Path:
    assert keygen("-q", "-t", kind, "-N", "", "-f", folder / name).returncode == 0
    return folder / name


def sign(authority: Path, key: Path, serial: int, name: str) -> Path:
    """A certificate for *key* in a file of its own."""
    copy = key.with_name(f"{key.name}-{serial}-{name.replace(' ', '_')}.pub")
    copy.write_bytes(Path(f"{key}.pub").read_bytes())
    assert keygen("-q", "-s", authority, "-I", name, "-z", str(serial), "-n", "alice", copy).returncode == 0
    return copy.with_name(f"{copy.stem}-cert.pub")


def read(path: Path) -> tuple[bytes, Certificate | None]:
    text = path.read_text()
    if "-cert-v01" in text:
        certificate = parse_certificate(text)[1]
        return certificate.key, certificate
    key = parse_public_key(text)
    assert key
    return key, None


def check_against_openssh(list_: Path, keys: tuple[Path, ...]) -> None:
    """Our answer about each of *keys* is that of ssh-keygen."""
    done = keygen("-Q", "-f", list_, *keys)
    assert done.returncode in (0, 1), done
    theirs = [line.endswith(": REVOKED") for line in done.stdout.decode().splitlines()]
    revoked = Revoked.parse(list_.read_bytes())
    assert [bool(revoked.why(*read(key))) for key in keys] == theirs


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys")


@cache
def zoo(folder: Path) -> tuple[Path, ...]:
    """Keys and certificates of two authorities."""
    authorities = [new_key(folder, "ca1"), new_key(folder, "ca2", "ecdsa")]
    keys = [new_key(folder, "one"), new_key(folder, "two", "ecdsa"), new_key(folder, "three")]
    certificates = [
        sign(authority, keys[0], serial, f"id {serial} {authority.name}")
        for authority in authorities
        for serial in (1, 7, 8, 100, 109, 163, 164, 5000, 2**64 - 1)
    ]
    certificates += [sign(authorities[0], keys[1], 3, "by name"), sign(authorities[1], keys[2], 0, "by name")]
    return (*(Path(f"{key}.pub") for key in (*keys, *authorities)), *certificates)


CASES = {
    "nothing": "",
    "a key": "key: {one}",
    "by SHA-1": "sha1: {two}",
    "by SHA-256": "sha256: {three}",
    "by fingerprint": "hash: {three_hash}",
    "an authority": "key: {ca2}",
    "one serial number": "serial: 7",
    "a range": "serial: 8-109",
    "many, as a bitmap": "\n".join(f"serial: {number}" for number in range(100, 200, 3)),
    "the highest": "serial: 18446744073709551615\nserial: 18446744073709551000-18446744073709551614",
    "lists, ranges and bitmaps": "serial: 1\nserial: 5-9\nserial: 164\nserial: 166\nserial: 168\nserial: 4000-6000",
    "a key id": "id: id 7 ca1\nid: by name",
    "all kinds": "key: {one}\nsha1: {two}\nserial: 163\nid: by name\nsha256: {ca1}",
}


@pytest.mark.parametrize("authority", ["ca1", "ca2", "NONE"])
@pytest.mark.parametrize("case", CASES)
def test_a_list_holds_what_openssh_says_that_it_holds(folder: Path, case: str, authority: str) -> None:
    paths = zoo(folder)
    words = {path.stem: path.read_text().strip() for path in paths}
    key = parse_public_key(words["three"])
    assert key
    specification = folder / "specification"
    specification.write_text(CASES[case].format(**words, three_hash=fingerprint(key)) + "\n")
    list_ = folder / "list"
    made_by = authority if authority == "NONE" else folder / f"{authority}.pub"
    done = keygen("-q", "-k", "-f", list_, "-s", made_by, specification)
    assert done.returncode == 0, done
    check_against_openssh(list_, paths)


def test_a_list_may_revoke_for_several_authorities(folder: Path) -> None:
    paths = zoo(folder)
    list_, specification = folder / "list", folder / "specification"
    specification.write_text("serial: 7\n")
    assert keygen("-q", "-k", "-f", list_, "-s", folder / "ca1.pub", specification).returncode == 0
    specification.write_text("serial: 8\nid: by name\n")
    assert keygen("-q", "-k", "-u", "-f", list_, "-s", folder / "ca2.pub", specification).returncode == 0
    check_against_openssh(list_, paths)


def test_a_list_may_be_text(folder: Path) -> None:
    one, two, three, ca1, *_ = zoo(folder)
    hashed = parse_public_key(three.read_text())
    assert hashed
    text = f"# gone\n\n{one.read_text()}{fingerprint(hashed)} three\n  {ca1.read_text()}"
    revoked = Revoked.parse(text.encode())
    assert [bool(revoked.why(*read(path))) for path in (one, two, three, ca1)] == [True, False, True, True]
    certificate = next(path for path in zoo(folder) if path.name.startswith("two-3-"))
    assert revoked.why(*read(certificate)) == "the certificate's authority is revoked"


@pytest.mark.parametrize("line", ["nonsense", "ssh-ed25519", "SHA256:short", "ssh-ed25519 AAAA", "\xff", "SHA1:abc"])
def test_a_text_with_a_line_that_is_nothing_cannot_be_used(folder: Path, line: str) -> None:
    good = zoo(folder)[0].read_text()
    with pytest.raises(Malformed):
        Revoked.parse(good.encode() + line.encode("latin-1"))


@pytest.mark.parametrize(
    "content",
    [
        HEAD[:-1],
        HEAD.replace(b"\0\0\0\1", b"\0\0\0\2", 1),
        HEAD + b"\x09" + string(b""),
        HEAD + b"\x03" + string(string(b"x" * 19)),
        HEAD + b"\x02" + string(b"\0\0\0\x09x"),
        HEAD + b"\xff" + string(string(b"new") + b"\1" + string(b"")),
        HEAD + b"\x01" + string(string(b"") + string(b"") + b"\x77" + string(b"")),
        HEAD + b"\x01" + string(string(b"") + string(b"") + b"\x20" + string(b"\0" * 7)),
        HEAD + b"\x01" + string(string(b"") + string(b"") + b"\x21" + string(bytes(7) + b"\2" + bytes(7) + b"\1")),
        HEAD + b"\x01" + string(string(b"") + string(b"") + b"\x22" + string(bytes(8) + string(b"\xff"))),
        HEAD + b"\x01" + string(string(b"") + string(b"") + b"\x22" + string(b"\xff" * 8 + string(b"\1\1"))),
        HEAD + b"\x01" + string(string(b"") + string(b"") + b"\x39" + string(string(b"new") + b"\1" + string(b""))),
        HEAD + bytes(LARGEST),
    ],
)
def test_a_list_that_cannot_be_read_as_a_whole_is_none(content: bytes) -> None:
    with pytest.raises(Malformed):
        Revoked.parse(content)


def test_what_may_be_passed_over_is() -> None:
    """A signature of former versions; an extension that says that it is not critical."""
    extension = string(string(b"new") + b"\0" + string(b"whatever"))
    signature = b"\x04" + string(b"key") + string(b"signature")
    part = string(string(b"") + string(b"") + b"\x39" + extension)
    assert not Revoked.parse(HEAD + b"\xff" + extension + b"\x01" + part + signature).why(b"key")


@given(st.binary(max_size=400))
@example(b"\x01" + string(string(b"") + string(b"") + b"\x22" + string(bytes(8) + string(b""))))
def test_noise_behind_the_head_is_a_list_or_refused(noise: bytes) -> None:
    with suppress(Malformed):
        Revoked.parse(HEAD + noise).why(b"key", None)


def parts() -> st.SearchStrategy[bytes]:
    number = st.integers(0, 2**64 - 1).map(lambda n: n.to_bytes(8, "big"))
    body = st.one_of(
        st.lists(number, max_size=5).map(b"".join),
        st.builds(lambda n, b: n + string(b), number, st.binary(max_size=12)),
        st.lists(st.binary(max_size=6).map(string), max_size=4).map(b"".join),
    )
    return st.builds(
        lambda kind, data: bytes([kind]) + string(data), st.sampled_from([0x20, 0x21, 0x22, 0x23, 0x39, 0x40]), body
    )


@settings(max_examples=200)
@given(st.lists(parts(), max_size=6), st.integers(0, 2**64 - 1))
def test_any_section_about_certificates_is_read_or_refused(pieces: list[bytes], serial: int) -> None:
    section = string(b"") + string(b"") + b"".join(pieces)
    certificate = Certificate(
        "user", b"k", "ssh-ed25519", b"ca", serial, b"id", (), 0, 1, None, None, False, frozenset()
    )
    try:
        revoked = Revoked.parse(HEAD + b"\x01" + string(section))
    except Malformed:
        return
    assert revoked.why(b"k", certificate) in ("", "the certificate is revoked")


@given(st.sets(st.integers(0, 2000), max_size=60), st.integers(0, 2**64 - 2100))
def test_a_bitmap_holds_exactly_its_bits(serials: set[int], first: int) -> None:
    number = sum(1 << serial for serial in serials)
    bits = number.to_bytes(number.bit_length() // 8 + 1, "big")
    section = string(b"") + string(b"") + b"\x22" + string(first.to_bytes(8, "big") + string(bits))
    revoked = Revoked.parse(HEAD + b"\x01" + string(section))
    for place in {0, 1, 7, 8, 9, 1999, 2000, 2001, *serials, *(serial + 1 for serial in serials)}:
        certificate = Certificate(
            "user", b"k", "ssh-ed25519", b"ca", first + place, b"id", (), 0, 1, None, None, False, frozenset()
        )
        assert bool(revoked.why(b"k", certificate)) is (place in serials)


def test_an_empty_list_is_no_list() -> None:
    """It may just be written, or the disk be full: then nobody knows what is revoked."""
    with pytest.raises(Malformed, match="empty"):
        Revoked.parse(b"")
