"""Passwords judged by a real KDC, and by ones that are away, spoofed or silent."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from containerssh.core.errors import AuthFailed, AuthUnavailable
from containerssh.core.metadata import Value
from tests.support.kdc import ABROAD, HOME, KDC, running_kdc
from tests.support.tickets import attempt, kerberos


@pytest.fixture(autouse=True)
def libraries(kdc: KDC, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's side runs in this process."""
    monkeypatch.setenv("KRB5_CONFIG", str(kdc.config))


async def test_a_password_logs_in_with_a_ticket(kdc: KDC, tmp_path: Path) -> None:
    async with kerberos(kdc) as authenticator:
        login = await authenticator.authenticate_password(attempt(), b"alice-pw")
    assert (login.username, login.authenticated_username) == ("alice", "alice")
    assert (login.metadata["from"].value, login.environment["A"].value) == ("before", "b")
    assert login.metadata["KERBEROS_PRINCIPAL"] == Value(f"alice@{HOME}")
    (tmp_path / "cache").write_bytes(login.files["/tmp/krb5cc"].value)
    assert f"krbtgt/{HOME}@{HOME}" in await kdc.klist(tmp_path / "cache")


@pytest.mark.parametrize(
    ("user", "password", "reason"),
    [
        ("alice", b"wrong", "password is wrong"),
        ("nobody", b"alice-pw", "no such principal"),
        ("locked", b"locked-pw", "locked"),
        ("expired", b"expired-pw", "account has expired"),
        ("mustchange", b"mustchange-pw", "password has expired"),
        ("alice", b"", "no password"),
        ("alice", b"alice-pw\0more", "no password"),
        ("alice", bytes(1025), "no password"),
        (f"alice@{ABROAD}", b"alice-pw", "no name"),
        (f"alice@{HOME}", b"alice-pw", "no name"),
        ("al\\ice", b"alice-pw", "no name"),
    ],
)
async def test_a_password_that_the_kdc_refuses_is_a_failure(kdc: KDC, user: str, password: bytes, reason: str) -> None:
    async with kerberos(kdc) as authenticator:
        begun = time.monotonic()
        with pytest.raises(AuthFailed, match=reason):
            await authenticator.authenticate_password(attempt(user), password)
    assert time.monotonic() - begun > 0.24, "refusals take alike, whoever exists"


async def test_a_kdc_that_lacks_our_key_is_not_believed(kdc: KDC, tmp_path: Path) -> None:
    with running_kdc(tmp_path) as spoofed:
        async with kerberos(kdc, configPath=str(spoofed.config)) as authenticator:
            with pytest.raises(AuthUnavailable, match="could not prove"):
                await authenticator.authenticate_password(attempt(), b"alice-pw")


async def test_a_kdc_that_is_away_is_no_failure_of_the_user(kdc: KDC, tmp_path: Path) -> None:
    with running_kdc(tmp_path) as other:
        pass
    async with kerberos(kdc, configPath=str(other.config)) as authenticator:
        with pytest.raises(AuthUnavailable):
            await authenticator.authenticate_password(attempt(), b"alice-pw")
