"""One-time codes: what they are, that each counts once, and that nobody can guess for long."""

from __future__ import annotations

import base64
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containerssh.auth.codes import CodeLedger
from containerssh.auth.totp import TOTP, parse_totp
from containerssh.config.codes import CodesConfig
from containerssh.core.errors import AuthFailed, AuthUnavailable, ConfigError

SECRET = b"12345678901234567890"
BASE32 = base64.b32encode(SECRET).decode()


@pytest.mark.parametrize(
    ("now", "algorithm", "code"),
    [
        (59, "sha1", "94287082"),
        (59, "sha256", "46119246"),
        (59, "sha512", "90693936"),
        (1111111109, "sha1", "07081804"),
        (1234567890, "sha256", "91819424"),
        (20000000000, "sha512", "47863826"),
    ],
)
def test_codes_are_those_of_rfc_6238(now: int, algorithm: str, code: str) -> None:
    secret = {"sha1": SECRET, "sha256": (SECRET * 2)[:32], "sha512": (SECRET * 4)[:64]}[algorithm]
    totp = TOTP(secret, algorithm, 8)
    assert totp.code(now // 30) == code
    assert totp.steps(code, now, 1) == [now // 30]


def test_a_code_counts_from_a_step_before_to_a_step_after() -> None:
    totp = TOTP(SECRET)
    code = totp.code(100)
    assert [bool(totp.steps(code, now, 1)) for now in (2969, 2970, 3000, 3029, 3059, 3060)] == [
        False, True, True, True, True, False,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (BASE32, TOTP(SECRET)),
        (BASE32.lower(), TOTP(SECRET)),
        (" ".join(BASE32[i : i + 4] for i in range(0, 32, 4)), TOTP(SECRET)),
        (f"otpauth://totp/gate:alice?secret={BASE32}&issuer=gate", TOTP(SECRET)),
        (f"otpauth://totp/a?secret={BASE32}&algorithm=SHA256&digits=8&period=60", TOTP(SECRET, "sha256", 8, 60)),
    ],
)
def test_secrets_are_read_as_apps_read_them(text: str, expected: TOTP) -> None:
    assert parse_totp(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "JBSWY3DPEHPK3PXP",
        "not base32 at all!",
        "",
        "otpauth://hotp/a?secret=" + BASE32,
        "otpauth://totp/a",
        f"otpauth://totp/a?secret={BASE32}&secret={BASE32}",
        f"otpauth://totp/a?secret={BASE32}&algorithm=MD5",
        f"otpauth://totp/a?secret={BASE32}&digits=1",
        f"otpauth://totp/a?secret={BASE32}&period=86400",
        "A" * 2000,
    ],
)
def test_weak_and_odd_secrets_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        parse_totp(text)
    assert BASE32 not in str(caught.value)


@given(st.one_of(st.text(), st.text().map("otpauth://totp/".__add__), st.text().map("otpauth:".__add__)))
def test_any_text_is_a_secret_or_a_value_error(text: str) -> None:
    with suppress(ValueError):
        assert len(parse_totp(text).secret) >= 16


@given(st.text(), st.integers(0, 2**33))
def test_any_answer_is_judged(code: str, now: int) -> None:
    assert all(abs(step - now // 30) <= 1 for step in TOTP(SECRET).steps(code, now, 1))


def test_a_secret_shows_in_no_message() -> None:
    assert "1234" not in repr(TOTP(SECRET))


class Clock:
    now = 3000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


Open = Callable[..., CodeLedger]
USUAL = CodesConfig()


@pytest.fixture
def opened(tmp_path: Path, clock: Clock) -> Open:
    return lambda config=USUAL: CodeLedger(tmp_path / "codes" / "used.sqlite", config, clock=clock)


def test_a_code_counts_once_also_after_a_restart(opened: Open) -> None:
    totp = TOTP(SECRET)
    opened().redeem(totp, totp.code(100))
    with pytest.raises(AuthFailed, match="used"):
        opened().redeem(totp, totp.code(100))
    with pytest.raises(AuthFailed, match="used"):
        opened().redeem(totp, totp.code(99))
    opened().redeem(totp, totp.code(101))


def test_of_many_who_use_a_code_at_once_one_succeeds(opened: Open) -> None:
    totp, ledgers = TOTP(SECRET), [opened() for _ in range(8)]

    def use(ledger: CodeLedger) -> bool:
        try:
            ledger.redeem(totp, totp.code(100))
        except AuthFailed:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(use, ledgers)) == 1


def test_after_too_many_wrong_codes_the_right_one_does_not_count_for_a_while(opened: Open, clock: Clock) -> None:
    totp, ledger = TOTP(SECRET), opened()
    for _ in range(USUAL.max_wrong):
        with pytest.raises(AuthFailed, match="wrong code"):
            ledger.redeem(totp, "000000")
    with pytest.raises(AuthFailed, match="too many"):
        opened().redeem(totp, totp.code(100))
    other = TOTP(SECRET[::-1])
    ledger.redeem(other, other.code(100))
    clock.now += USUAL.wrong_within.total_seconds()
    ledger.redeem(totp, totp.code(int(clock.now) // 30))


def test_the_configuration_says_how_many_wrong_codes_and_how_much_drift(opened: Open, clock: Clock) -> None:
    totp = TOTP(SECRET)
    config = CodesConfig.model_validate({"drift": 0, "maxWrong": 2, "wrongWithin": "1m"})
    with pytest.raises(AuthFailed, match="wrong code"):
        opened(config).redeem(totp, totp.code(99))
    with pytest.raises(AuthFailed, match="wrong code"):
        opened(config).redeem(totp, totp.code(101))
    with pytest.raises(AuthFailed, match="too many"):
        opened(config).redeem(totp, totp.code(100))
    clock.now += 60
    opened(config).redeem(totp, totp.code(102))
    opened(CodesConfig.model_validate({"drift": 3})).redeem(totp, totp.code(105))


@pytest.mark.parametrize(
    "section", [{"drift": -1}, {"drift": 11}, {"maxWrong": 0}, {"wrongWithin": "59s"}, {"wrongWithin": "169h"}]
)
def test_limits_that_would_be_none_are_refused(section: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        CodesConfig.model_validate(section)


def test_a_right_code_forgives_wrong_ones(opened: Open, clock: Clock) -> None:
    totp, ledger = TOTP(SECRET), opened()
    for _ in range(3):
        for _ in range(USUAL.max_wrong - 1):
            with pytest.raises(AuthFailed, match="wrong code"):
                ledger.redeem(totp, "000000")
        ledger.redeem(totp, totp.code(int(clock.now) // 30))
        clock.now += 30


def test_the_file_knows_no_secret_and_is_ours_alone(opened: Open, tmp_path: Path) -> None:
    totp = TOTP(SECRET)
    opened().redeem(totp, totp.code(100))
    file = tmp_path / "codes" / "used.sqlite"
    assert SECRET not in file.read_bytes()
    assert file.parent.stat().st_mode & 0o077 == 0


def test_a_file_that_cannot_be_used_lets_nobody_in(opened: Open, tmp_path: Path) -> None:
    ledger = opened()
    (tmp_path / "codes" / "used.sqlite").write_bytes(b"no database, but long enough to be looked at" * 100)
    with pytest.raises(AuthUnavailable):
        ledger.redeem(TOTP(SECRET), TOTP(SECRET).code(100))
    with pytest.raises(ConfigError):
        opened()


def test_a_locked_file_lets_nobody_in(opened: Open, tmp_path: Path) -> None:
    opened()
    ledger = CodeLedger(tmp_path / "codes" / "used.sqlite", USUAL, patience=0.05)
    with sqlite3.connect(tmp_path / "codes" / "used.sqlite", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(AuthUnavailable):
            ledger.redeem(TOTP(SECRET), TOTP(SECRET).code(100))
    other.close()
