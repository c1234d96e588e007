"""Certificates of users, with real clients: whose are taken, as whom, and which forgeries are not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import paramiko
import pytest

from containerssh.auth.public_keys import PublicKeys
from containerssh.auth.users import UsersFile
from containerssh.config.auth import PublicKeyAuthConfig
from containerssh.core.codes import SSHCode
from containerssh.layers.authentication import AuthenticationServer, Authenticators
from tests.support.certificates import Authority, new_authority
from tests.support.openssh import OpenSSH
from tests.support.ssh_front import Front, serving


@pytest.fixture
def openssh(tmp_path: Path) -> OpenSSH:
    return OpenSSH(tmp_path, password=None)


@pytest.fixture
async def authority(openssh: OpenSSH) -> Authority:
    return await new_authority(openssh)


@pytest.fixture
async def key(openssh: OpenSSH) -> Path:
    return await openssh.make_key()


@asynccontextmanager
async def trusting(
    *authorities: Authority, users: UsersFile | None = None, proxies: Any = (), revoked: str = "", **more: Any
) -> AsyncIterator[Front]:
    """A server that trusts *authorities*; *more* are other keys of ``auth.publicKey.certificates``."""
    section = {"trustedUserCAKeys": [authority.line for authority in authorities], **more}
    config = PublicKeyAuthConfig.model_validate({"certificates": section, "revokedKeys": revoked})
    keys = PublicKeys(config, users, users)
    async with serving(
        around=lambda inner: AuthenticationServer(inner, Authenticators(public_key=keys)), proxies=proxies
    ) as server:
        yield server


async def enters(openssh: OpenSSH, server: Front, key: Path, user: str = "alice") -> bool:
    """Whether the certificate beside *key* logs in."""
    client = OpenSSH(openssh.folder, user=user, password=None)
    done = await client.run(server, "echo in", "-i", str(key))
    if done.status != 0:
        assert b"Permission denied (publickey)" in done.stderr, done
    return done.stdout == b"in\n"


def why_not(server: Front) -> list[str]:
    """The reasons of the refusals of certificates, in the log only."""
    reasons = [str(labels["reason"]) for _, labels in server.log.of(SSHCode.AUTH_FAILED) if "reason" in labels]
    return [reason for reason in reasons if "listed" not in reason]


KINDS = [("ed25519",), ("ecdsa",), ("ecdsa", "-b", "384"), ("ecdsa", "-b", "521"), ("rsa", "-b", "2048")]


@pytest.mark.parametrize("kind", KINDS, ids=" ".join)
async def test_a_certificate_of_every_kind_by_an_authority_of_every_kind_logs_in(
    openssh: OpenSSH, kind: tuple[str, ...]
) -> None:
    authority = await new_authority(openssh, "ca", *kind)
    key = await authority.sign(await openssh.make_key("id", *kind), "alice", serial=7)
    async with trusting(authority) as server:
        assert await enters(openssh, server, key)
        login = server.backend.logins[0]
        _, labels = server.log.of(SSHCode.AUTH_SUCCESSFUL)[0]
    assert login.authenticated_username == "alice"
    assert login.metadata["SSH_CERTIFICATE_KEY_ID"].value == "someone"
    assert (labels["certificate"], labels["serial"]) == ("someone", "7")


async def test_paramiko_logs_in_with_a_certificate(openssh: OpenSSH, authority: Authority, key: Path) -> None:
    await authority.sign(key, "alice")

    def connect(port: int) -> bool:
        with paramiko.SSHClient() as client:
            client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
            own = paramiko.Ed25519Key.from_private_key_file(str(key))
            own.load_certificate(f"{key}-cert.pub")
            client.connect("127.0.0.1", port, "alice", pkey=own, allow_agent=False, look_for_keys=False)
            transport = client.get_transport()
            return transport is not None and transport.is_authenticated()

    async with trusting(authority) as server:
        assert await asyncio.to_thread(connect, server.port)


async def test_a_plain_key_does_not_log_in_with_what_its_certificate_earns(
    openssh: OpenSSH, authority: Authority, key: Path
) -> None:
    async with trusting(authority) as server:
        assert not await enters(openssh, server, key)
        assert not await enters(openssh, server, authority.key), "an authority is no user"


async def test_who_another_authority_has_signed_is_refused(openssh: OpenSSH, authority: Authority, key: Path) -> None:
    other = await new_authority(openssh, "other")
    async with trusting(authority) as server:
        assert not await enters(openssh, server, await other.sign(key, "alice"))
        assert why_not(server) == ["the certificate's authority is not trusted"]


@pytest.mark.parametrize(
    ("details", "reason"),
    [
        ({"principals": ["bob"]}, "the certificate names none of the principals"),
        ({"principals": []}, "the certificate names none of the principals"),
        (
            {"principals": ["Alice", "alice ", "alic", "*", "alice\u200b"]},
            "the certificate names none of the principals",
        ),
        ({"validity": "20200101:20210101"}, "the certificate has expired"),
        ({"validity": "20900101:20910101"}, "the certificate is not valid yet"),
        ({"options": ("source-address=192.0.2.0/24",)}, "the certificate may not be used from this address"),
        ({"options": ("critical:login@example.com=x",)}, "the certificate cannot be used: its critical option"),
        ({"host": True}, "the certificate is a host's"),
    ],
)
async def test_a_certificate_that_does_not_hold_is_refused(
    openssh: OpenSSH, authority: Authority, key: Path, details: dict[str, Any], reason: str
) -> None:
    principals = details.pop("principals", ["alice"])
    await authority.sign(key, *principals, **details)
    async with trusting(authority) as server:
        # OpenSSH's client does not offer a host's certificate unless it is told to.
        assert not await enters(openssh, server, key)
        if not details.get("host"):
            assert [text[: len(reason)] for text in why_not(server)] == [reason]


async def test_an_address_counts_as_the_proxy_tells_it(openssh: OpenSSH, authority: Authority, key: Path) -> None:
    await authority.sign(key, "alice", options=("source-address=127.0.0.0/8,10.0.0.0/8",))
    async with trusting(authority) as server:
        assert await enters(openssh, server, key)


async def test_an_authority_whose_signatures_are_made_with_sha1_is_not_trusted(openssh: OpenSSH, key: Path) -> None:
    authority = await new_authority(openssh, "ca", "rsa", "-b", "2048")
    await authority.sign(key, "alice", algorithm="ssh-rsa")
    async with trusting(authority) as server:
        assert not await enters(openssh, server, key)
        await authority.sign(key, "alice", algorithm="rsa-sha2-256")
        assert await enters(openssh, server, key)
