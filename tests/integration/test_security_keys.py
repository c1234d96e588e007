"""
Security keys (FIDO): whether somebody was there, and how that can be waived or made stricter.

The authenticator is OpenSSH's own one for tests, ``sk-dummy.so``: it signs with whatever flags the key was made with.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from containerssh.auth.public_keys import PublicKeys
from containerssh.auth.users import UsersFile
from containerssh.auth.webhook import open_webhook
from containerssh.config.auth import PublicKeyAuthConfig, WebhookConfig
from containerssh.core.codes import SSHCode
from containerssh.layers.authentication import AuthenticationServer, Authenticators
from tests.support.certificates import Authority, new_authority
from tests.support.openssh import OpenSSH, ssh_options
from tests.support.ssh_front import Front, serving
from tests.support.webhook import Reply, webhook

PROVIDER = Path("/usr/lib/openssh/regress/misc/sk-dummy/sk-dummy.so")
KINDS = ("ed25519-sk", "ecdsa-sk")


@pytest.fixture
def openssh(tmp_path: Path) -> OpenSSH:
    # The password is the PIN, which the client asks for where the key was made so.
    return OpenSSH(tmp_path, password="1234")


async def new_key(openssh: OpenSSH, kind: str = "ed25519-sk", *options: str, name: str = "id") -> Path:
    if not PROVIDER.exists():  # noqa: ASYNC240  a look at a local disk
        pytest.fail("install the package openssh-tests", pytrace=False)
    more = [word for option in options for word in ("-O", option)]
    return await openssh.make_key(name, kind, "-w", str(PROVIDER), *more)


@asynccontextmanager
async def serving_users(
    openssh: OpenSSH, lines: list[str], rules: Mapping[str, Any] = {}, authority: Authority | None = None, **more: Any
) -> AsyncIterator[Front]:
    """A server with ``alice``'s keys, ``auth.publicKey.securityKeys`` and a trusted authority."""
    path = openssh.folder / "users.yaml"
    path.write_text(json.dumps({"users": {"alice": {"authorizedKeys": lines}}}))
    path.chmod(0o600)
    users = UsersFile(path)
    certificates = {"trustedUserCAKeys": [authority.line] if authority else [], **more}
    config = PublicKeyAuthConfig.model_validate({"securityKeys": dict(rules), "certificates": certificates})
    keys = PublicKeys(config, users, users)
    try:
        async with serving(around=lambda inner: AuthenticationServer(inner, Authenticators(public_key=keys))) as server:
            yield server
    finally:
        users.close()


async def refusal(openssh: OpenSSH, server: Front, key: Path) -> str:
    """Why the key does not log in; empty if it does."""
    before = len(server.log.of(SSHCode.AUTH_FAILED))
    options = ssh_options(f"SecurityKeyProvider={PROVIDER}", "PreferredAuthentications=publickey")
    done = await openssh.run(server, "echo in", "-i", str(key), *options)
    if done.status == 0:
        assert done.stdout == b"in\n"
        return ""
    assert b"Permission denied (publickey)" in done.stderr, done
    return str(server.log.of(SSHCode.AUTH_FAILED)[before:][-1][1]["reason"])


def public(key: Path) -> str:
    return Path(f"{key}.pub").read_text().strip()


UNTOUCHED = "nobody touched the security key"
UNVERIFIED = "the security key has not asked for a PIN or a fingerprint"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("made", "option", "rules", "reason"),
    [
        ((), "", {}, ""),
        (("no-touch-required",), "", {}, UNTOUCHED),
        (("no-touch-required",), "no-touch-required ", {}, ""),
        (("no-touch-required",), "no-touch-required ", {"touchRequired": True}, UNTOUCHED),
        ((), "verify-required ", {}, UNVERIFIED),
        ((), "", {"verifyRequired": True}, UNVERIFIED),
        (("verify-required",), "verify-required ", {"verifyRequired": True}, ""),
    ],
)
async def test_a_security_key_logs_in_if_somebody_was_there(
    openssh: OpenSSH, kind: str, made: tuple[str, ...], option: str, rules: Mapping[str, bool], reason: str
) -> None:
    key = await new_key(openssh, kind, *made)
    async with serving_users(openssh, [option + public(key)], rules) as server:
        assert await refusal(openssh, server, key) == reason


@pytest.mark.parametrize("kind", KINDS)
async def test_a_security_keys_certificate_needs_a_touch_too(openssh: OpenSSH, kind: str) -> None:
    authority = await new_authority(openssh)
    key = await authority.sign(await new_key(openssh, kind), "alice")
    lazy = await new_key(openssh, kind, "no-touch-required", name="lazy")
    await authority.sign(lazy, "alice", options=("no-touch-required",))
    async with serving_users(openssh, [], authority=authority) as server:
        assert await refusal(openssh, server, key) == ""
        assert await refusal(openssh, server, lazy) == UNTOUCHED
    async with serving_users(openssh, [], authority=authority, allowNoTouch=True) as server:
        assert await refusal(openssh, server, lazy) == ""
        # The configuration's word is not enough.
        await authority.sign(lazy, "alice")
        assert await refusal(openssh, server, lazy) == UNTOUCHED


async def test_a_certificate_may_ask_for_a_pin(openssh: OpenSSH) -> None:
    authority = await new_authority(openssh)
    asks = await new_key(openssh, "ed25519-sk", "verify-required")
    other = await new_key(openssh, name="other")
    for key in (asks, other):
        await authority.sign(key, "alice", options=("verify-required",))
    line = f"cert-authority {authority.line}"
    for lines, trusted in (([line], None), ([], authority)):
        async with serving_users(openssh, lines, authority=trusted) as server:
            assert await refusal(openssh, server, asks) == ""
            assert await refusal(openssh, server, other) == UNVERIFIED


async def test_a_line_for_an_authority_waives_the_touch_only_with_the_certificate(openssh: OpenSSH) -> None:
    authority = await new_authority(openssh)
    lazy = await new_key(openssh, "ed25519-sk", "no-touch-required")
    async with serving_users(openssh, [f"cert-authority,no-touch-required {authority.line}"]) as server:
        await authority.sign(lazy, "alice")
        assert await refusal(openssh, server, lazy) == UNTOUCHED
        await authority.sign(lazy, "alice", options=("no-touch-required",))
        assert await refusal(openssh, server, lazy) == ""


async def test_a_key_that_a_webhook_accepts_needs_a_touch(openssh: OpenSSH) -> None:
    key = await new_key(openssh)
    lazy = await new_key(openssh, "ed25519-sk", "no-touch-required", name="lazy")
    async with webhook() as hook, open_webhook(WebhookConfig.model_validate({"url": hook.url})) as asked:
        keys = PublicKeys(PublicKeyAuthConfig.default(), asked)
        async with serving(around=lambda inner: AuthenticationServer(inner, Authenticators(public_key=keys))) as server:
            assert await refusal(openssh, server, key) == ""
            assert await refusal(openssh, server, lazy) == UNTOUCHED
    assert [request.json["publicKey"] for request in hook.requests] == [
        " ".join(public(one).split()[:2]) for one in (key, lazy)
    ]


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa-256", "ecdsa-384", "ecdsa-521", "rsa-3072", *KINDS])
async def test_a_certificate_of_every_kind_reaches_the_webhook_whole(openssh: OpenSSH, kind: str) -> None:
    """ContainerSSH 0.5: the blob is the certificate itself; whose authority it is, is the webhook's to judge."""
    name, _, bits = kind.partition("-")
    key = await (
        new_key(openssh, kind) if kind in KINDS else openssh.make_key("id", name, *(["-b", bits] if bits else []))
    )
    authority = await new_authority(openssh, "ca", "ed25519")
    await authority.sign(key, "whoever", serial=2**64 - 1, options=("extension:login@example.com=alice",))
    certificate = " ".join(public(Path(f"{key}-cert")).split()[:2])
    # The client offers the plain key first.
    yes, no = Reply({"success": True, "authenticatedUsername": "who"}), Reply({"success": False})
    async with webhook() as hook, open_webhook(WebhookConfig.model_validate({"url": hook.url})) as asked:
        hook.answers = [no, yes]
        keys = PublicKeys(PublicKeyAuthConfig.default(), asked)
        async with serving(around=lambda inner: AuthenticationServer(inner, Authenticators(public_key=keys))) as server:
            assert await refusal(openssh, server, key) == ""
            assert [login.authenticated_username for login in server.backend.logins] == ["who"]
    assert [request.json["publicKey"] for request in hook.requests][1:] == [certificate]
