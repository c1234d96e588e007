"""Certificates as ssh-keygen makes them, and what nobody made: none of it is taken for a certificate."""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from containerssh.keys.certificate import (
    LARGEST,
    Certificate,
    certificate_name,
    is_certificate,
    parse_authorities,
    parse_certificate,
    plain_name,
    read_certificate,
)
from containerssh.keys.public import check_public_key, decode_key, fingerprint, parse_public_key
from containerssh.keys.signatures import flags_of, verify
from containerssh.keys.wire import Malformed, Reader, string

SIGNER = ed25519.Ed25519PrivateKey.from_private_bytes(b"a" * 32)
RSA = rsa.generate_private_key(65537, 2048)


def ed25519_blob(key: ed25519.Ed25519PrivateKey) -> bytes:
    return string(b"ssh-ed25519") + string(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))


def mpint(number: int) -> bytes:
    return string(number.to_bytes(number.bit_length() // 8 + 1, "big"))


def rsa_blob(key: rsa.RSAPrivateKey) -> bytes:
    numbers = key.public_key().public_numbers()
    return string(b"ssh-rsa") + mpint(numbers.e) + mpint(numbers.n)


def by_ed25519(data: bytes) -> bytes:
    return string(b"ssh-ed25519") + string(SIGNER.sign(data))


def forge(
    *,
    name: bytes = b"ssh-ed25519-cert-v01@openssh.com",
    key: bytes = string(b"k" * 32),
    kind: int = 1,
    principals: bytes = string(b"alice"),
    critical: bytes = b"",
    extensions: bytes = b"",
    authority: bytes = b"",
    sign: Callable[[bytes], bytes] = by_ed25519,
    more: bytes = b"",
    before: int = 2**64 - 1,
) -> bytes:
    """A certificate that ssh-keygen would not make."""
    body = string(name) + string(b"nonce") + key + (7).to_bytes(8, "big") + kind.to_bytes(4, "big") + string(b"id")
    body += string(principals) + bytes(8) + before.to_bytes(8, "big") + string(critical) + string(extensions)
    body += string(b"") + string(authority or ed25519_blob(SIGNER))
    return body + string(sign(body)) + more


def option(name: bytes, value: bytes = b"") -> bytes:
    return string(name) + string(value)


def keygen(*arguments: str | Path) -> None:
    subprocess.run(["ssh-keygen", "-q", *arguments], check=True, capture_output=True, stdin=subprocess.DEVNULL)


@cache
def made(folder: Path, kind: str, *options: str) -> tuple[bytes, Certificate]:
    """What ssh-keygen makes, with an authority of the same kind."""
    for name in ("id", "ca"):
        size = ["-b", kind.partition("-")[2]] if "-" in kind else []
        keygen("-t", kind.partition("-")[0], *size, "-N", "", "-f", folder / f"{name}{kind}")
    keygen(
        "-s", folder / f"ca{kind}", "-I", "Jos\u00e9", "-z", "18446744073709551615", *options, folder / f"id{kind}.pub"
    )
    return parse_certificate((folder / f"id{kind}-cert.pub").read_text())


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa-256", "ecdsa-384", "ecdsa-521", "rsa-2048", "rsa-4096"])
def test_a_certificate_says_what_ssh_keygen_wrote(tmp_path: Path, kind: str) -> None:
    now = time.time()
    blob, certificate = made(
        tmp_path, kind, "-n", "alice,on call", "-V", "-1m:+1h", "-O", "force-command=echo \u00fc", "-O", "no-pty",
        "-O", "source-address=192.0.2.0/24,2001:db8::/32", "-O", "verify-required", "-O", "extension:own@example.com=x",
    )  # fmt: skip
    key = parse_public_key((tmp_path / f"id{kind}.pub").read_text())
    authority = parse_public_key((tmp_path / f"ca{kind}.pub").read_text())
    assert (certificate.key, certificate.authority) == (key, authority)
    assert certificate.key_type == check_public_key(certificate.key)
    assert (certificate.kind, certificate.name, certificate.serial) == ("user", "Jos\u00e9", 2**64 - 1)
    assert certificate.principals == ("alice", "on call")
    assert (certificate.force_command, certificate.verify_required) == ("echo \u00fc", True)
    assert "permit-pty" not in certificate.extensions
    assert {"permit-port-forwarding", "permit-user-rc", "own@example.com"} <= certificate.extensions
    assert [certificate.allows_source(host) for host in ("192.0.2.9", "2001:db8::9", "192.0.3.1", "x")] == [
        True, True, False, False,
    ]  # fmt: skip
    assert [bool(certificate.invalid(now + late)) for late in (-120, 0, 3500, 3700)] == [True, False, False, True]
    assert string(certificate_name(certificate.key_type).encode()) == blob[: 4 + blob[3]]


def test_a_hosts_certificate_is_told_from_a_users(tmp_path: Path) -> None:
    _, certificate = made(tmp_path, "ed25519", "-h", "-n", "gate.example.com")
    assert (certificate.kind, certificate.extensions) == ("host", frozenset())


def test_what_one_forges_with_the_right_key_is_a_certificate() -> None:
    """The other tests here would be worth nothing if it were not."""
    certificate = read_certificate(forge(extensions=option(b"permit-pty")))
    assert (certificate.principals, certificate.extensions) == (("alice",), frozenset({"permit-pty"}))
    assert not certificate.invalid(time.time())


def test_any_byte_that_is_changed_makes_a_certificate_worthless() -> None:
    blob = forge()
    whole = read_certificate(blob)
    for place in range(len(blob)):
        for bit in (1, 128):
            changed = blob[:place] + bytes([blob[place] ^ bit]) + blob[place + 1 :]
            with pytest.raises(Malformed):
                read_certificate(changed)
    assert read_certificate(blob) == whole


def sha1(data: bytes) -> bytes:
    return string(b"ssh-rsa") + string(RSA.sign(data, padding.PKCS1v15(), hashes.SHA1()))


def sha1_called_otherwise(data: bytes) -> bytes:
    return string(b"rsa-sha2-256") + string(RSA.sign(data, padding.PKCS1v15(), hashes.SHA1()))


def rsa_sha2(data: bytes) -> bytes:
    return string(b"rsa-sha2-512") + string(RSA.sign(data, padding.PKCS1v15(), hashes.SHA512()))


@pytest.mark.parametrize(
    ("what", "blob"),
    [
        ("nothing", b""),
        ("a plain key", ed25519_blob(SIGNER)),
        ("bytes left over", forge(more=b"\0")),
        ("an unknown type", forge(name=b"ssh-ed25519-cert-v02@openssh.com")),
        ("the type of a key", forge(name=b"ssh-ed25519")),
        ("a former type", forge(name=b"ssh-dss-cert-v01@openssh.com", key=string(b"1") * 4)),
        ("another's name twice", forge(name=b"sk-ssh-ed25519@openssh.com-cert-v01@openssh.com")),
        ("a key that is none", forge(key=string(b"k" * 31))),
        ("neither a user's nor a host's", forge(kind=3)),
        ("an unknown critical option", forge(critical=option(b"new", string(b"x")))),
        ("a critical option of users in a host's", forge(kind=2, critical=option(b"force-command", string(b"x")))),
        ("an option twice", forge(critical=option(b"force-command", string(b"a")) * 2)),
        ("a forced command that is empty", forge(critical=option(b"force-command", string(b"")))),
        ("a forced command of blanks", forge(critical=option(b"force-command", string(b" \t")))),
        ("a forced command that ends early", forge(critical=option(b"force-command", string(b"rm\0x")))),
        ("a forced command with a tail", forge(critical=option(b"force-command", string(b"a") + b"x"))),
        ("a source address that is none", forge(critical=option(b"source-address", string(b"10.0.0.1/8")))),
        ("a source address that is empty", forge(critical=option(b"source-address", string(b"")))),
        ("a flag with a value", forge(extensions=option(b"permit-pty", string(b"no")))),
        ("a critical flag with a value", forge(critical=option(b"verify-required", string(b"no")))),
        ("options without end", forge(extensions=b"".join(option(b"x%d" % number) for number in range(100)))),
        ("principals without end", forge(principals=string(b"alice") * 300)),
        ("principals cut off", forge(principals=string(b"alice")[:-1])),
        ("more than is read", forge(extensions=option(b"x", bytes(LARGEST)))),
        ("a certificate as authority", forge(authority=forge())),
        ("another authority than the signer", forge(authority=ed25519_blob(ed25519.Ed25519PrivateKey.generate()))),
        ("SHA-1", forge(authority=rsa_blob(RSA), sign=sha1)),
        ("SHA-1 in disguise", forge(authority=rsa_blob(RSA), sign=sha1_called_otherwise)),
        ("a signature of another kind of key", forge(authority=rsa_blob(RSA))),
        ("an exponent of 1", forge(authority=string(b"ssh-rsa") + mpint(1) + mpint(2**2047 + 1), sign=lambda _: string(
            b"rsa-sha2-256") + string(b"x" * 256))),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_cannot_be_used_is_refused(what: str, blob: bytes) -> None:
    with pytest.raises(Malformed):
        read_certificate(blob)


def test_an_authority_with_a_short_key_does_not_count() -> None:
    weak = rsa.generate_private_key(65537, 1024)

    def sign(data: bytes) -> bytes:
        return string(b"rsa-sha2-256") + string(weak.sign(data, padding.PKCS1v15(), hashes.SHA256()))

    assert read_certificate(forge(authority=rsa_blob(RSA), sign=rsa_sha2))
    with pytest.raises(Malformed, match="2048 bits"):
        read_certificate(forge(authority=rsa_blob(weak), sign=sign))
    with pytest.raises(Malformed, match="2048 bits"):
        parse_authorities(f"ssh-rsa {base64.b64encode(rsa_blob(weak)).decode()}")


def test_names_and_lists_of_authorities() -> None:
    line = f"ssh-ed25519 {base64.b64encode(ed25519_blob(SIGNER)).decode()}"
    assert parse_authorities(f"# ours\n\n{line} comment\n{line}") == {ed25519_blob(SIGNER)}
    for text in ("", "# none", "nonsense", f"{line}\ncert-authority {line}", line[:-4], f"ssh-rsa {line.split()[1]}"):
        with pytest.raises(Malformed):
            parse_authorities(text)
    with pytest.raises(Malformed):
        parse_certificate(line)
    for kind in ("ssh-ed25519", "sk-ssh-ed25519@openssh.com", "rsa-sha2-512"):
        assert is_certificate(certificate_name(kind))
        assert plain_name(certificate_name(kind)) == kind
        assert plain_name(kind) == kind


def test_a_key_id_is_fit_for_a_log() -> None:
    body = forge().replace(string(b"id"), string(b"a\n\x1b[31m\xff\0\xe2\x80\xae"), 1)
    signed = body[: -4 - len(by_ed25519(b""))]
    name = read_certificate(signed + string(by_ed25519(signed))).name
    assert name.isprintable()
    assert name.startswith("a\\n\\x1b[31m")


@given(st.binary(max_size=300))
def test_noise_is_no_certificate(noise: bytes) -> None:
    for blob in (noise, string(b"ssh-ed25519-cert-v01@openssh.com") + noise):
        with pytest.raises(Malformed):
            read_certificate(blob)


@given(st.binary(max_size=120), st.binary(max_size=120), st.binary(max_size=60), st.integers(1, 2))
def test_a_signed_certificate_with_noise_in_it_is_read_or_refused(
    critical: bytes, extensions: bytes, principals: bytes, kind: int
) -> None:
    with suppress(Malformed):
        read_certificate(forge(critical=critical, extensions=extensions, principals=principals, kind=kind))


@given(st.binary(max_size=200), st.sampled_from(["ssh-rsa", "ecdsa-sha2-nistp521", "sk-ssh-ed25519@openssh.com"]))
def test_noise_is_no_key_and_no_signature(noise: bytes, kind: str) -> None:
    for call in (
        lambda: check_public_key(noise),
        lambda: check_public_key(string(kind.encode()) + noise),
        lambda: decode_key(kind, base64.b64encode(noise).decode()),
        lambda: verify(ed25519_blob(SIGNER), b"message", noise),
        lambda: verify(rsa_blob(RSA), b"message", string(b"rsa-sha2-256") + string(noise)),
    ):
        with pytest.raises(Malformed):
            call()


def security_key(kind: str, flags: int, message: bytes) -> tuple[bytes, bytes]:
    """A fake authenticator's key, and its signature."""
    whole = hashlib.sha256(b"ssh:").digest() + bytes([flags]) + bytes(4) + hashlib.sha256(message).digest()
    if "ed25519" in kind:
        own = ed25519_blob(SIGNER).removeprefix(string(b"ssh-ed25519"))
        proof = SIGNER.sign(whole)
    else:
        point = ec.generate_private_key(ec.SECP256R1())
        raw = point.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        own = string(b"nistp256") + string(raw)
        r, s = utils.decode_dss_signature(point.sign(whole, ec.ECDSA(hashes.SHA256())))
        proof = mpint(r) + mpint(s)
    signature = string(kind.encode()) + string(proof) + bytes([flags]) + bytes(4)
    return string(kind.encode()) + own + string(b"ssh:"), signature


@pytest.mark.parametrize("kind", ["sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com"])
def test_a_security_key_signs_its_flags_too(kind: str) -> None:
    message = os.urandom(40)
    blob, signature = security_key(kind, 0x05, message)
    verify(blob, message, signature)
    assert flags_of(signature) == 0x05
    for wrong in (
        signature[:-5] + b"\x01" + signature[-4:],
        signature[:-1] + b"\1",
        signature + b"\0",
        signature[:-5],
    ):
        with pytest.raises(Malformed):
            verify(blob, message, wrong)
    with pytest.raises(Malformed):
        verify(blob[:-1] + b"x", message, signature)


def test_a_security_key_may_be_an_authority() -> None:
    def sign(data: bytes) -> bytes:
        whole = hashlib.sha256(b"ssh:").digest() + b"\1" + bytes(4) + hashlib.sha256(data).digest()
        return string(b"sk-ssh-ed25519@openssh.com") + string(SIGNER.sign(whole)) + b"\1" + bytes(4)

    authority, _ = security_key("sk-ssh-ed25519@openssh.com", 1, b"")
    assert read_certificate(forge(authority=authority, sign=sign)).authority == authority


def test_fingerprints_are_those_of_openssh(tmp_path: Path) -> None:
    keygen("-t", "ed25519", "-N", "", "-f", tmp_path / "key")
    shown = subprocess.run(["ssh-keygen", "-l", "-f", tmp_path / "key"], check=True, capture_output=True, text=True)
    key = parse_public_key((tmp_path / "key.pub").read_text())
    assert key
    assert fingerprint(key) == shown.stdout.split()[1]


def test_a_reader_takes_no_more_than_there_is() -> None:
    reader = Reader(b"\xff\xff\xff\xff")
    with pytest.raises(Malformed):
        reader.string()


@pytest.mark.parametrize("raw", [b"\0", b"\0\x01", b"\0\0\x80"])
def test_a_number_has_one_form_only(raw: bytes) -> None:
    """Another one would give a revoked key a fingerprint that no list knows."""
    with pytest.raises(Malformed, match="needless zeros"):
        Reader(len(raw).to_bytes(4, "big") + raw).natural()
    assert Reader(b"\0\0\0\2\0\x80").natural() == 0x80
    assert Reader(b"\0\0\0\0").natural() == 0


def weak_rsa(exponent: int, modulus: int) -> bytes:
    return string(b"ssh-rsa") + mpint(exponent) + mpint(modulus)


N = RSA.public_key().public_numbers().n


@pytest.mark.parametrize(
    ("exponent", "modulus"),
    [
        pytest.param(1, N, id="every signature is right"),
        pytest.param(0, N, id="none"),
        pytest.param(2, N, id="two"),
        pytest.param(65536, N, id="an even exponent"),
        pytest.param(65537, N + 1, id="an even modulus"),
        pytest.param((1 << 33) + 1, N, id="a long exponent"),
        pytest.param(N - 2, N, id="an exponent as long as the modulus"),
        pytest.param(65537, (1 << 16384) + 1, id="a long modulus"),
        pytest.param(65537, (1 << 1_900_000) + 1, id="a quarter of a million bytes"),
        pytest.param((1 << 1_900_000) + 1, N, id="as many in the exponent"),
    ],
)
def test_rsa_keys_that_cost_much_or_prove_nothing_are_no_keys(exponent: int, modulus: int) -> None:
    blob = weak_rsa(exponent, modulus)
    began = time.process_time()
    for _ in range(20):
        with pytest.raises(Malformed):
            check_public_key(blob)
        with pytest.raises(Malformed):
            verify(blob, b"", string(b"rsa-sha2-256") + string(b"x"))
    assert time.process_time() - began < 0.5


def test_the_costliest_rsa_key_that_counts_is_verified_in_no_time() -> None:
    """The modulus and the exponent as long as they may be; what the library refuses by itself is none either."""
    blob = weak_rsa((1 << 32) - 1, (1 << 16384) - 1)
    assert check_public_key(blob) == "ssh-rsa"
    signature = string(b"rsa-sha2-512") + string(b"\1" * 2048)
    began = time.process_time()
    for _ in range(10):
        with pytest.raises(Malformed):
            verify(blob, b"message", signature)
    assert (time.process_time() - began) / 10 < 0.1
