"""Password hashes: what is understood, what is refused, and that wrong passwords stay wrong."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path

import argon2
import bcrypt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from containerssh.auth.hashes import KINDS, hash_password, parse_hash
from tests.support.tools import tool

CHEAP = {
    "argon2id": argon2.PasswordHasher(1, 8, 1).hash("right"),
    "argon2i": argon2.PasswordHasher(1, 8, 1, type=argon2.Type.I).hash("right"),
    "argon2d": argon2.PasswordHasher(1, 8, 1, type=argon2.Type.D).hash("right"),
    "bcrypt": bcrypt.hashpw(b"right", bcrypt.gensalt(4)).decode(),
    "2y": "$2y" + bcrypt.hashpw(b"right", bcrypt.gensalt(4)).decode()[3:],
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_made_hash_is_understood_and_tells_passwords_apart(kind: str) -> None:
    made = hash_password("pä ss", kind)
    assert made != hash_password("pä ss", kind)
    judge = parse_hash(made)
    assert judge.verify("pä ss".encode())
    for wrong in (b"", b"pa ss", "pä ss ".encode(), b"p\xe4 ss"):
        assert not judge.verify(wrong)


@pytest.mark.parametrize("text", CHEAP.values(), ids=CHEAP)
def test_each_kind_of_hash_is_understood(text: str) -> None:
    judge = parse_hash(text)
    assert judge.verify(b"right")
    assert not judge.verify(b"wrong")


def test_scrypt_agrees_with_the_vector_of_rfc_7914() -> None:
    """Section 12: password "pleaseletmein", salt "SodiumChloride", N 16384, r 8, p 1."""
    digest = bytes.fromhex(
        "7023bdcb3afd7348461c06cd81fd38ebfda8fbba904f8e3ea9b543f6545da1f2"
        "d5432955613f0fcf62d49705242a9af9e61e85dc0d651e40dfcf017b45575887"
    )
    salt, wanted = (base64.b64encode(part).decode().rstrip("=") for part in (b"SodiumChloride", digest))
    text = f"$scrypt$ln=14,r=8,p=1${salt}${wanted}"
    assert parse_hash(text).verify(b"pleaseletmein")
    assert not parse_hash(text).verify(b"pleaseletmeim")


def test_what_htpasswd_makes_is_understood() -> None:
    made = subprocess.run(
        [tool("htpasswd"), "-nbB", "-C", "4", "u", "right"], capture_output=True, text=True, check=True
    )
    assert parse_hash(made.stdout.strip().partition(":")[2]).verify(b"right")


def test_htpasswd_understands_what_is_made_here(tmp_path: Path) -> None:
    file = tmp_path / "htpasswd"
    file.write_text(f"u:{hash_password('right', 'bcrypt')}\n")
    judged = [
        subprocess.run([tool("htpasswd"), "-vb", str(file), "u", word], capture_output=True).returncode == 0
        for word in ("right", "wrong")
    ]
    assert judged == [True, False]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "secret",
        "{SHA}qUqP5cyxm6YcTAhz05Hph5gvu9M=",
        "$1$abc$JjJVUCK2FIlqR2WBhTkyz.",
        "$6$abc$x",
        "$apr1$x$y",
        "$argon2id$v=16$m=8,t=1,p=1$c29tZXNhbHQ$eHh4eHh4eHh4eHh4eHh4eA",
        "$argon2id$v=19$m=99999999,t=1,p=1$c29tZXNhbHQ$eHh4eHh4eHh4eHh4eHh4eA",
        "$argon2id$v=19$m=8,t=9999,p=1$c29tZXNhbHQ$eHh4eHh4eHh4eHh4eHh4eA",
        "$argon2id$v=19$m=8,t=1,p=2$c29tZXNhbHQ$eHh4eHh4eHh4eHh4eHh4eA",
        "$2b$31$" + "a" * 53,
        "$2b$04$" + "a" * 52,
        "$2x$04$" + "a" * 53,
        "$scrypt$ln=30,r=8,p=1$U29kaXVtQ2hsb3JpZGU$cCO9yzr9c0hGHAbNgf06/2o",
        "$scrypt$ln=20,r=8,p=1$U29kaXVtQ2hsb3JpZGU$cCO9yzr9c0hGHAbNgf06/2o",
        "$scrypt$ln=0,r=8,p=1$U29kaXVtQ2hsb3JpZGU$cCO9yzr9c0hGHAbNgf06/2o",
        # Salted anew in each process: no part of a test's name.
        pytest.param(CHEAP["argon2id"] + "\n", id="a line end behind"),
        pytest.param(" " + CHEAP["bcrypt"], id="a blank before"),
    ],
)
def test_anything_else_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_hash(text)
    assert len(text) < 5 or text not in str(caught.value)


@given(st.one_of(st.text(), st.from_regex(r"\A\$(argon2id|2b|scrypt)\$[a-z0-9=,$./]{0,120}\Z")))
def test_any_text_is_a_hash_or_refused(text: str) -> None:
    try:
        parse_hash(text)
    except ValueError:
        return
    assert text.startswith("$")


@given(st.binary(max_size=200))
@pytest.mark.parametrize("text", CHEAP.values(), ids=CHEAP)
def test_any_password_is_judged(text: str, password: bytes) -> None:
    assert parse_hash(text).verify(password) is (password == b"right")


def test_bcrypt_counts_the_first_72_bytes_as_it_always_did_and_is_not_made_for_longer_ones() -> None:
    judge = parse_hash(bcrypt.hashpw(b"a" * 72, bcrypt.gensalt(4)).decode())
    assert judge.verify(b"a" * 100)
    assert not judge.verify(b"a" * 71)
    with pytest.raises(ValueError, match="72"):
        hash_password("a" * 73, "bcrypt")


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="argon2id"):
        hash_password("x", "md5")


def test_a_hash_does_not_show_in_its_text() -> None:
    assert CHEAP["bcrypt"] not in repr(parse_hash(CHEAP["bcrypt"]))
