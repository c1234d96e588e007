"""Host certificates: clients that trust their authority need not know the host's keys."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from containerssh.core.codes import CoreCode
from containerssh.core.errors import ConfigError
from containerssh.keys.certificate import parse_certificate
from containerssh.ssh.algorithms import CLIENT_SIGNATURES
from containerssh.ssh.host_keys import load_host_keys, with_certificates
from containerssh.ssh.key_exchange import prepare
from containerssh.ssh.options import ServerOptions
from tests.support.certificates import Authority, new_authority
from tests.support.openssh import OpenSSH, ssh_options
from tests.support.ssh_front import Front, serving


@pytest.fixture
async def authority(openssh: OpenSSH) -> Authority:
    return await new_authority(openssh)


def certificate(key: Path) -> str:
    return f"{key}-cert.pub"


def text_of(key: Path) -> str:
    return Path(certificate(key)).read_text()


async def connects(openssh: OpenSSH, server: Front, *trusted: Authority, options: tuple[str, ...] = ()) -> str:
    """What the client says when it trusts these authorities and no key; empty if it logs in."""
    known_hosts = openssh.folder / "known_hosts"
    known_hosts.write_text("".join(f"@cert-authority * {authority.line}\n" for authority in trusted))
    settings = ssh_options("StrictHostKeyChecking=yes", *options)
    done = await openssh.run(server, "echo in", *settings)
    assert known_hosts.read_text().count("\n") == len(trusted)
    return "" if (done.status, done.stdout) == (0, b"in\n") else f"status {done.status}: {done.stderr.decode()}"


@pytest.mark.parametrize("kind", [("ed25519",), ("ecdsa",), ("ecdsa", "-b", "521"), ("rsa", "-b", "2048")])
async def test_a_client_that_trusts_the_authority_connects_without_a_question(
    openssh: OpenSSH, authority: Authority, kind: tuple[str, ...]
) -> None:
    key = await authority.sign(await openssh.make_key("host", *kind), "127.0.0.1", host=True)
    other = await new_authority(openssh, "other")
    async with serving(host_keys=[str(key)], host_certificates=[certificate(key)]) as server:
        assert await connects(openssh, server, authority) == ""
        assert await connects(openssh, server, authority, options=("RekeyLimit=1K",)) == ""
        assert "host key" in (await connects(openssh, server, other)).lower()
        # A client that knows nothing of authorities goes on with the plain key.
        (openssh.folder / "known_hosts").unlink()
        (await openssh.run(server, "true", *ssh_options("UpdateHostKeys=yes"))).check()


@pytest.mark.parametrize("algorithm", ["rsa-sha2-512", "rsa-sha2-256"])
async def test_an_rsa_keys_certificate_goes_with_both_signatures(
    openssh: OpenSSH, authority: Authority, algorithm: str
) -> None:
    key = await authority.sign(await openssh.make_key("host", "rsa"), "127.0.0.1", host=True)
    async with serving(host_keys=[str(key)], host_certificates=[certificate(key)]) as server:
        options = (f"HostKeyAlgorithms={algorithm}-cert-v01@openssh.com",)
        assert await connects(openssh, server, authority, options=options) == ""


async def test_a_certificate_for_another_host_is_the_clients_to_refuse(openssh: OpenSSH, authority: Authority) -> None:
    key = await authority.sign(await openssh.make_key("host"), "gate.example.com", host=True)
    async with serving(host_keys=[str(key)], host_certificates=[certificate(key)]) as server:
        assert await connects(openssh, server, authority) != ""
        assert await connects(openssh, server, authority, options=("HostKeyAlias=gate.example.com",)) == ""


async def test_asyncssh_trusts_it_too(openssh: OpenSSH, authority: Authority) -> None:
    key = await authority.sign(await openssh.make_key("host"), "127.0.0.1", host=True)
    trusted: Any = ([], [asyncssh.read_public_key(authority.public)], [])
    async with (
        serving(host_keys=[str(key)], host_certificates=[text_of(key)]) as server,
        asyncssh.connect(
            "127.0.0.1", server.port, username="alice", password="secret", known_hosts=trusted, client_keys=None
        ) as client,
    ):
        assert (await client.run("echo ok")).stdout == "ok\n"


@pytest.mark.parametrize("wrong", ["has expired", "for none of the host keys"])
async def test_a_certificate_that_would_not_help_is_told_and_left_out(
    openssh: OpenSSH, authority: Authority, wrong: str
) -> None:
    key = await openssh.make_key("host")
    if wrong == "has expired":
        await authority.sign(key, "127.0.0.1", host=True, validity="20200101:20210101")
        signed = key
    else:
        signed = await authority.sign(await openssh.make_key("other"), "127.0.0.1", host=True)
    async with serving(host_keys=[str(key)], host_certificates=[certificate(signed)]) as server:
        (event, labels) = server.log.of(CoreCode.HOST_CERTIFICATE_UNUSED)[0]
        assert event.text.endswith(wrong)
        assert labels["certificate"] == "someone"
        assert await connects(openssh, server, authority) != ""
        offered = await connects(openssh, server, options=("HostKeyAlgorithms=ssh-ed25519-cert-v01@openssh.com",))
        assert offered == "status 255: ", "no common algorithm, which this level of the client's log leaves out"
        (openssh.folder / "known_hosts").unlink()
        (await openssh.run(server, "true")).check()


@pytest.mark.parametrize("wrong", ["a user's", "a plain key", "nothing", "missing"])
async def test_what_is_no_hosts_certificate_keeps_the_server_from_starting(
    openssh: OpenSSH, authority: Authority, wrong: str
) -> None:
    key = await authority.sign(await openssh.make_key("host"), "alice")
    (openssh.folder / "nothing").write_text("")
    path = {"a user's": certificate(key), "a plain key": f"{key}.pub", "nothing": str(openssh.folder / "nothing")}
    with pytest.raises(ConfigError, match=r"hostCertificates\[0\]"):
        with_certificates(load_host_keys([str(key)]), [path.get(wrong, "/nonexistent")])


async def test_clients_get_what_holds_when_they_come(openssh: OpenSSH, authority: Authority) -> None:
    key = await authority.sign(await openssh.make_key("host"), "127.0.0.1", host=True, validity="-1h:+1h")
    _, read = parse_certificate(text_of(key))
    keys = with_certificates(load_host_keys([str(key)]), [certificate(key)])
    options = ServerOptions([str(key)])
    offer = await prepare(options, keys, ["curve25519-sha256"], ["aes128-ctr"], ["hmac-sha2-256"], CLIENT_SIGNATURES)
    both = [b"ssh-ed25519-cert-v01@openssh.com", b"ssh-ed25519"]
    assert list(offer.keys) == both
    assert offer.at(time.time()) is offer
    for moment, names in (
        (read.valid_after - 1, both[1:]),
        (read.valid_after, both),
        (read.valid_before - 1, both),
        (read.valid_before, both[1:]),
    ):
        then = offer.at(moment)
        assert list(then.keys) == names
        assert then.at(moment) is then
        assert list(then.at(time.time()).keys) == both


async def test_a_certificate_that_expires_while_the_server_runs_is_left_out(
    openssh: OpenSSH, authority: Authority
) -> None:
    key = await authority.sign(await openssh.make_key("host"), "127.0.0.1", host=True, validity="-1h:+1h")
    async with serving(host_keys=[str(key)], host_certificates=[certificate(key)]) as server:
        assert await connects(openssh, server, authority) == ""
        _expire(server)
        assert await connects(openssh, server, authority) != ""
        assert len(server.log.of(CoreCode.HOST_CERTIFICATE_UNUSED)) == 1
        (openssh.folder / "known_hosts").unlink()
        await asyncio.gather(*((openssh.run(server, "true")) for _ in range(2)))
        assert len(server.log.of(CoreCode.HOST_CERTIFICATE_UNUSED)) == 1


def _expire(server: Front) -> None:
    """As if an hour had passed, for the certificates."""
    settings = server.server._settings
    assert settings.offer
    gone = {name: replace(key, valid=(0, 1)) for name, key in settings.offer.certified.items()}
    server.server._settings = replace(settings, offer=replace(settings.offer, certified=gone))
