"""Certificates and authorities that are revoked while the server runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from containerssh.core.codes import AuthCode, SSHCode
from tests.support.certificates import Authority, new_authority
from tests.support.openssh import OpenSSH
from tests.support.trusted import enters, trusting


@pytest.fixture
def openssh(tmp_path: Path) -> OpenSSH:
    return OpenSSH(tmp_path, password=None)


@pytest.fixture
async def authority(openssh: OpenSSH) -> Authority:
    return await new_authority(openssh)


@pytest.fixture
async def key(openssh: OpenSSH) -> Path:
    return await openssh.make_key()


async def revoke(openssh: OpenSSH, list_: Path, *what: str, authority: Authority | None = None) -> None:
    """Replace the list, as an administrator would: whole."""
    specification, fresh = openssh.folder / "specification", list_.with_suffix(".new")
    specification.write_text("\n".join(what) + "\n")
    signer = ["-s", str(authority.public)] if authority else []
    await openssh.keygen("-q", "-k", "-f", str(fresh), *signer, str(specification))
    fresh.rename(list_)


async def test_a_certificate_is_refused_from_the_moment_it_is_revoked(
    openssh: OpenSSH, authority: Authority, key: Path
) -> None:
    await authority.sign(key, "alice", serial=77, name="alice 2026")
    list_ = openssh.folder / "revoked"
    await revoke(openssh, list_)
    async with trusting(authority, revoked=str(list_)) as server:
        for what, by in (
            (["serial: 70-80"], authority),
            (["id: alice 2026"], authority),
            ([f"key: {Path(f'{key}.pub').read_text()}"], None),  # noqa: ASYNC240  a look at a local disk
            ([f"sha256: {authority.line}"], None),
        ):
            assert await enters(openssh, server, key)
            await revoke(openssh, list_, *what, authority=by)
            assert not await enters(openssh, server, key), what
            await revoke(openssh, list_, "serial: 76", "serial: 78", "id: alice", authority=authority)
        assert len(server.log.of(AuthCode.KEY_REVOKED)) >= 4


async def test_while_the_list_cannot_be_read_no_key_logs_in(openssh: OpenSSH, authority: Authority, key: Path) -> None:
    await authority.sign(key, "alice")
    list_ = openssh.folder / "revoked"
    list_.write_text("# nobody\n")
    async with trusting(authority, revoked=str(list_)) as server:
        assert await enters(openssh, server, key)
        for spoil in (
            list_.unlink,
            lambda: list_.write_bytes(b"SSHKRL\n\0\0\0"),
            lambda: list_.write_text("who is this?\n"),
            lambda: list_.chmod(0o666),
        ):
            spoil()
            assert not await enters(openssh, server, key)
            assert server.log.of(SSHCode.AUTH_UNAVAILABLE)[-1][1]["reason"] == "nobody can tell which keys are revoked"
            list_.write_text(f"# nobody {spoil}\n")
            list_.chmod(0o600)
            assert await enters(openssh, server, key)
        assert len(server.log.of(AuthCode.KEY_LIST_FAILED)) == 4, "once for each state"


async def test_an_authority_is_trusted_as_long_as_it_is_listed(
    openssh: OpenSSH, authority: Authority, key: Path
) -> None:
    other = await new_authority(openssh, "other")
    await authority.sign(key, "alice")
    listed = openssh.folder / "authorities"
    listed.write_text(f"# ours\n{other.line}\n{authority.line} main\n")
    async with trusting(trustedUserCAKeys=[str(listed)]) as server:
        assert await enters(openssh, server, key)
        listed.write_text(f"{other.line}\n")
        assert not await enters(openssh, server, key)
        listed.write_text(f"{authority.line}\n")
        assert await enters(openssh, server, key)
        listed.unlink()
        assert not await enters(openssh, server, key)
