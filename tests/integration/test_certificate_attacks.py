"""What no honest client sends: certificates that are not the client's, or not what they seem."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import asyncssh
import paramiko
import pytest

from containerssh.auth.public_keys import PublicKeys
from containerssh.config.auth import PublicKeyAuthConfig
from containerssh.core.codes import SSHCode
from containerssh.layers.authentication import AuthenticationServer, Authenticators
from tests.support.certificates import Authority, new_authority
from tests.support.openssh import OpenSSH
from tests.support.ssh_front import Front, serving
from tests.support.waiting import until

NOT_TRUSTED = "the certificate's authority is not trusted"
NO_PRINCIPAL = "the certificate names none of the principals"
CERTIFICATE = b"ssh-ed25519-cert-v01@openssh.com"


@pytest.fixture
def openssh(tmp_path: Path) -> OpenSSH:
    return OpenSSH(tmp_path, password=None)


@pytest.fixture
async def authority(openssh: OpenSSH) -> Authority:
    return await new_authority(openssh)


class Attacker:
    """A client that sends what it likes; *server* trusts an authority."""

    def __init__(self, server: Front, transport: paramiko.Transport) -> None:
        self._server = server
        self._transport: Any = transport
        self._answers: list[str] = []
        # The library would not expect an answer to what it has not asked itself.
        handler: Any = self._transport.auth_handler
        handler._parse_userauth_info_request = lambda _: self._answers.append("acceptable")
        handler._parse_userauth_failure = lambda _: self._answers.append("refused")
        handler._parse_userauth_success = lambda _: self._answers.append("let in")

    async def request(
        self,
        blob: bytes,
        key: Path | None = None,
        *,
        algorithm: bytes = CERTIFICATE,
        user: bytes = b"alice",
        signed: Callable[[bytes], bytes] = lambda data: data,
    ) -> str:
        """
        A question about *blob*, or with a *key* a login signed by it, and the answer: why it was refused, for the log
        only. *signed* changes what is signed.
        """
        message = paramiko.Message()
        message.add_byte(bytes([50]))
        for text in (user, b"ssh-connection", b"publickey"):
            message.add_string(text)
        message.add_boolean(key is not None)
        message.add_string(algorithm)
        message.add_string(blob)
        if key is not None:
            head = paramiko.Message()
            head.add_string(self._transport.session_id)
            own = asyncssh.read_private_key(key)
            message.add_string(own.sign(signed(head.asbytes() + message.asbytes()), own.algorithm))
        count = len(self._answers)
        self._transport._send_message(message)
        await until(lambda: len(self._answers) > count)
        if self._answers[-1] != "refused":
            return self._answers[-1]
        assert SSHCode.AUTH_SUCCESSFUL not in self._server.log
        return str(self._server.log.of(SSHCode.AUTH_FAILED)[-1][1]["reason"])


@asynccontextmanager
async def attacking(*authorities: Authority) -> AsyncIterator[Attacker]:
    section = {"certificates": {"trustedUserCAKeys": [one.line for one in authorities]}}
    keys = PublicKeys(PublicKeyAuthConfig.model_validate(section), None)
    async with serving(around=lambda inner: AuthenticationServer(inner, Authenticators(public_key=keys))) as server:
        transport = await asyncio.to_thread(paramiko.Transport, ("127.0.0.1", server.port))
        try:
            await asyncio.to_thread(transport.start_client, None, 10)
            # The library starts the authentication service with a first request only.
            with suppress(paramiko.SSHException):
                await asyncio.to_thread(transport.auth_none, "alice")
            yield Attacker(server, transport)
        finally:
            await asyncio.to_thread(transport.close)


def blob_of(path: Path) -> bytes:
    return base64.b64decode(Path(f"{path}.pub").read_text().split()[1])


def certificate_of(key: Path) -> bytes:
    return blob_of(Path(f"{key}-cert"))


async def test_the_right_key_with_the_right_certificate_is_let_in(openssh: OpenSSH, authority: Authority) -> None:
    """The other tests here would be worth nothing if it were not."""
    key = await authority.sign(await openssh.make_key(), "alice")
    async with attacking(authority) as attacker:
        assert await attacker.request(certificate_of(key)) == "acceptable"
        assert await attacker.request(certificate_of(key), key) == "let in"


async def test_a_stolen_certificate_is_worth_nothing_without_its_key(openssh: OpenSSH, authority: Authority) -> None:
    key = await authority.sign(await openssh.make_key(), "alice")
    own = await authority.sign(await openssh.make_key("own"), "mallory")
    async with attacking(authority) as attacker:
        assert await attacker.request(certificate_of(key)) == "acceptable"
        assert await attacker.request(certificate_of(key), own) == "the signature is wrong"
        assert await attacker.request(certificate_of(own), own) == NO_PRINCIPAL


async def test_a_yes_for_one_certificate_is_none_for_another_of_the_same_key(
    openssh: OpenSSH, authority: Authority
) -> None:
    """A question about a good one; then a login with one that the user has made, or under another name."""
    key = await openssh.make_key()
    theirs = certificate_of(await authority.sign(key, "bob", to="theirs"))
    forged = certificate_of(await (await new_authority(openssh, "own")).sign(key, "alice", to="forged"))
    async with attacking(authority) as attacker:
        assert await attacker.request(theirs, user=b"bob") == "acceptable"
        assert await attacker.request(theirs, key, user=b"alice") == NO_PRINCIPAL
        assert await attacker.request(forged, key, user=b"bob") == NOT_TRUSTED
        assert await attacker.request(forged, key) == NOT_TRUSTED
        assert await attacker.request(theirs, key, user=b"bob") == "let in"


async def test_a_signature_for_another_certificate_does_not_count(openssh: OpenSSH, authority: Authority) -> None:
    """The signature covers the certificate: it cannot be swapped after the client has signed."""
    key = await openssh.make_key()
    good = certificate_of(await authority.sign(key, "alice", to="good"))
    other = certificate_of(await authority.sign(key, "bob", to="other"))
    async with attacking(authority) as attacker:
        swapped = await attacker.request(good, key, signed=lambda data: data.replace(good, other))
        assert swapped == "the signature is wrong"


async def test_a_hosts_certificate_is_no_users(openssh: OpenSSH, authority: Authority) -> None:
    key = await authority.sign(await openssh.make_key(), "alice", host=True)
    async with attacking(authority) as attacker:
        assert await attacker.request(certificate_of(key), key) == "the certificate is a host's"


async def test_a_certificate_that_was_changed_is_none(openssh: OpenSSH, authority: Authority) -> None:
    key = await authority.sign(await openssh.make_key(), "bobby", options=("force-command=echo",))
    blob = certificate_of(key)
    own = await openssh.make_key("own")
    async with attacking(authority) as attacker:
        for changed in (
            blob.replace(b"bobby", b"alice"),
            blob.replace(b"force-command", b"forcf-command"),
            blob.replace(blob_of(key)[-32:], blob_of(own)[-32:]),
            blob[:-1] + bytes([blob[-1] ^ 1]),
        ):
            assert changed != blob
            assert "cannot be used: the signature is wrong" in await attacker.request(changed, key)


async def test_the_name_of_the_algorithm_must_be_the_certificates(openssh: OpenSSH, authority: Authority) -> None:
    key = await authority.sign(await openssh.make_key(), "alice")
    async with attacking(authority) as attacker:
        certificate = certificate_of(key)
        assert "cannot be read" in await attacker.request(certificate, key, algorithm=b"ssh-ed25519")
        assert "cannot be used" in await attacker.request(blob_of(key), key)
        for algorithm, reason in (
            (b"sk-ssh-ed25519-cert-v01@openssh.com", "the key does not fit its algorithm"),
            (b"ssh-ed25519-cert-v00@openssh.com", "the signature algorithm is not accepted"),
            (b"ssh-rsa-cert-v01@openssh.com", "the signature algorithm is not accepted"),
        ):
            assert await attacker.request(certificate, key, algorithm=algorithm) == reason


async def test_an_authority_cannot_be_a_certificate(openssh: OpenSSH, authority: Authority) -> None:
    """Nested: a user signs as an authority with a key for which a trusted authority has made a certificate."""
    middle = await openssh.make_key("middle")
    await authority.sign(middle, "alice")
    key = await Authority(middle, openssh).sign(await openssh.make_key(), "alice")
    blob = certificate_of(key)
    plain, certified = blob_of(middle), certificate_of(middle)
    nested = blob.replace(len(plain).to_bytes(4, "big") + plain, len(certified).to_bytes(4, "big") + certified)
    async with attacking(authority) as attacker:
        assert await attacker.request(blob, key) == NOT_TRUSTED
        assert "is not a known type of key" in await attacker.request(nested, key)


async def test_refusals_say_the_same_to_every_client(openssh: OpenSSH, authority: Authority) -> None:
    """Whatever is wrong, and whether the user exists: one word, and the same methods."""
    other = await new_authority(openssh, "other")
    key = await openssh.make_key()
    said = set()
    section = {"certificates": {"trustedUserCAKeys": [authority.line], "authorizedPrincipals": {"alice": ["ops"]}}}
    keys = PublicKeys(PublicKeyAuthConfig.model_validate(section), None)
    async with serving(around=lambda inner: AuthenticationServer(inner, Authenticators(public_key=keys))) as server:
        for signer, principal, validity in (
            (authority, "alice", ""),
            (other, "alice", ""),
            (authority, "ops", "20200101:20210101"),
        ):
            await signer.sign(key, principal, validity=validity)
            for user in ("alice", "nobody"):
                client = OpenSSH(openssh.folder, user=user, password=None)
                done = await client.run(server, "true", "-i", str(key))
                said.add((done.status, done.stderr.replace(user.encode(), b"USER")))
    assert len(said) == 1, said
