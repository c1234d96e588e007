"""Certificates of users, with real clients: whose are taken, as whom, and which forgeries are not."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import paramiko
import pytest

from containerssh.auth.public_keys import PublicKeys
from containerssh.auth.users import UsersFile
from containerssh.auth.webhook import open_webhook
from containerssh.config.auth import PublicKeyAuthConfig, WebhookConfig
from containerssh.core.codes import AuthCode, SSHCode
from containerssh.core.metadata import SocketAddress
from containerssh.layers.authentication import AuthenticationServer, Authenticators
from tests.support import server as product
from tests.support.certificates import Authority, new_authority
from tests.support.net import haproxy
from tests.support.oci import image
from tests.support.openssh import OpenSSH, run
from tests.support.ssh_front import Front, serving
from tests.support.trusted import enters, trusting
from tests.support.webhook import Reply, webhook


@pytest.fixture
def openssh(tmp_path: Path) -> OpenSSH:
    return OpenSSH(tmp_path, password=None)


@pytest.fixture
async def authority(openssh: OpenSSH) -> Authority:
    return await new_authority(openssh)


@pytest.fixture
async def key(openssh: OpenSSH) -> Path:
    return await openssh.make_key()


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
        assert not await enters(openssh, server, authority.key), "an authority is not a user"


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


async def test_an_address_counts_as_the_proxy_tells_it(
    openssh: OpenSSH, authority: Authority, key: Path, tmp_path: Path
) -> None:
    await authority.sign(key, "alice", options=("source-address=127.0.0.77/32,2001:db8::/32",))
    async with (
        trusting(authority, proxies=(ip_network("127.0.0.1/32"),)) as server,
        haproxy(tmp_path, server.port, "send-proxy-v2") as port,
    ):
        for source, in_time in (("127.0.0.77", True), ("127.0.0.78", False)):
            done = await openssh.run(
                replace(server, addresses=[SocketAddress("", port)]), "true", "-i", str(key), "-b", source
            )
            assert (done.status == 0) is in_time
    async with trusting(authority) as server:
        assert not await enters(openssh, server, key), "the proxy's own address is not enough"


async def test_an_authority_whose_signatures_are_made_with_sha1_is_not_trusted(openssh: OpenSSH, key: Path) -> None:
    authority = await new_authority(openssh, "ca", "rsa", "-b", "2048")
    await authority.sign(key, "alice", algorithm="ssh-rsa")
    async with trusting(authority) as server:
        assert not await enters(openssh, server, key)
        await authority.sign(key, "alice", algorithm="rsa-sha2-256")
        assert await enters(openssh, server, key)


# -- whose certificate it is ------------------------------------------------------------------------------


async def test_principals_may_be_listed_for_each_user(openssh: OpenSSH, authority: Authority, key: Path) -> None:
    listed = {"deploy": ["ci", "release"], "*": ["%u-login"], "nobody": []}
    cases = {"ci": {"deploy"}, "alice-login": {"alice"}, "deploy": set(), "nobody-login": set(), "*": set()}
    async with trusting(authority, authorizedPrincipals=listed) as server:
        for principal, users in cases.items():
            await authority.sign(key, principal)
            for user in ("deploy", "alice", "nobody", "*"):
                assert await enters(openssh, server, key, user) is (user in users), (principal, user)


async def test_who_is_not_listed_goes_by_the_own_name(openssh: OpenSSH, authority: Authority, key: Path) -> None:
    await authority.sign(key, "alice")
    async with trusting(authority, authorizedPrincipals={"deploy": ["ci"]}) as server:
        assert await enters(openssh, server, key)
        assert not await enters(openssh, server, key, "deploy")


async def test_principals_may_stand_in_files(openssh: OpenSSH, authority: Authority, key: Path) -> None:
    folder = openssh.folder / "principals"
    folder.mkdir()
    (folder / "alice").write_text('# alice\n\nops\nno-pty,from="192.0.2.0/24" far\nnonsense! x\nno-pty near \nx y\n')
    (folder / "bob").write_text("ops\n")
    (folder / "bob").chmod(0o666)
    async with trusting(authority, authorizedPrincipalsFile=f"{folder}/%u") as server:
        for principal, enters_as in {"ops": ["alice"], "near": ["alice"], "far": [], "alice": [], "x": []}.items():
            await authority.sign(key, principal)
            for user in ("alice", "bob", "carol", "../principals/alice", "."):
                assert await enters(openssh, server, key, user) is (user in enters_as), (principal, user)
        told = {event.text.rsplit(": ", 1)[0] for event, _ in server.log.of(AuthCode.KEY_LIST_FAILED)}
        assert told >= {f"Line {number} of {folder}/alice lets nobody in" for number in (5, 7)}
        assert any("bob" in text for text in told), "a file that anybody may write to"
        assert not any("carol" in text for text in told)
        assert "the user has no principals" in why_not(server)
        ops, near = server.backend.logins
        assert (ops.restrictions.pty, near.restrictions.pty) == (True, False)


def users_file(folder: Path, everyone: dict[str, Any]) -> UsersFile:
    path = folder / "users.yaml"
    path.write_text(json.dumps({"users": everyone}))
    path.chmod(0o600)
    return UsersFile(path)


async def test_with_a_users_file_only_its_users_log_in(openssh: OpenSSH, authority: Authority, key: Path) -> None:
    everyone = {"alice": {"environment": {"WHOSE": "hers"}}, "deploy": {"principals": ["ci"]}}
    users = users_file(openssh.folder, everyone)
    async with trusting(authority, users=users) as server:
        for principals, enters_as in ((("alice", "deploy", "mallory"), "alice"), (("ci",), "deploy")):
            await authority.sign(key, *principals)
            for user in ("alice", "deploy", "mallory"):
                assert await enters(openssh, server, key, user) is (user == enters_as), (principals, user)
        assert server.backend.logins[0].environment["WHOSE"].value == "hers"
    users.close()


async def test_a_line_of_authorized_keys_may_name_an_authority(
    openssh: OpenSSH, authority: Authority, key: Path
) -> None:
    other = await new_authority(openssh, "other")
    lines = [
        f'cert-authority,principals="ops,on call",no-pty {authority.line}',
        f"cert-authority {other.line}",
    ]
    users = users_file(openssh.folder, {"alice": {"authorizedKeys": lines}, "bob": {}})
    # The second authority is trusted for all, and alice has no principal of hers there.
    async with trusting(other, users=users, authorizedPrincipals={"alice": ["other"]}) as server:
        for signer, principal, enters_as in (
            (authority, "ops", "alice"),
            (authority, "on call", "alice"),
            (authority, "ops,on call", "alice"),
            (authority, "alice", ""),
            (authority, "bob", ""),
            (other, "alice", "alice"),
            (other, "other", "alice"),
            (other, "bob", "bob"),
        ):
            await signer.sign(key, principal)
            for user in ("alice", "bob"):
                assert await enters(openssh, server, key, user) is (user == enters_as), (principal, user)
        assert not await enters(openssh, server, authority.key), "an authority is not a key that logs in"
        assert [login.restrictions.pty for login in server.backend.logins[:2]] == [False, False]
    users.close()


# -- what a certificate allows, in a container ----------------------------------------------------------------


@pytest.mark.oci
async def test_a_certificate_says_what_its_login_may_do(openssh: OpenSSH, authority: Authority, key: Path) -> None:
    config = {
        "backend": "oci",
        "oci": {"image": str(image())},
        "auth": {"publicKey": {"certificates": {"trustedUserCAKeys": [authority.line]}}},
        "security": {"forwarding": {"forwardingMode": "enable"}},
    }
    forced = await authority.sign(
        key, "alice", options=("force-command=echo forced $SSH_ORIGINAL_COMMAND",), to="forced"
    )
    bare = await authority.sign(key, "alice", options=("clear",), to="bare")
    free = await authority.sign(key, "alice", to="free")
    async with product.serving(config) as server:
        done = await openssh.run(server, "rm -rf /", "-i", str(forced))
        assert done.stdout == b"forced rm -rf /\n"
        assert (await openssh.run(server, "echo in", "-i", str(bare))).stdout == b"in\n"
        for chosen, allowed in ((bare, False), (free, True)):
            terminal = await openssh.run(server, "tty", "-tt", "-i", str(chosen))
            assert (b"/dev/pts/" in terminal.stdout) is allowed
            assert (b"PTY allocation request failed" in terminal.stderr) is not allowed
            await openssh.run(server, None, "-W", "127.0.0.1:9", "-i", str(chosen))
            if allowed:
                assert not server.logged("SECURITY_FORWARDING_REJECTED")
            else:
                await server.told("SECURITY_FORWARDING_REJECTED")
            (server.folder / "server.log").write_text("")


async def test_config_explain_says_what_a_certificate_earns(openssh: OpenSSH, authority: Authority, key: Path) -> None:
    await authority.sign(key, "alice", options=("no-pty",))
    config = openssh.folder / "config.json"
    section = {"certificates": {"trustedUserCAKeys": [str(authority.public)]}}
    config.write_text(json.dumps({"backend": "oci", "oci": {"image": "/x"}, "auth": {"publicKey": section}}))
    asking = (sys.executable, "-m", "containerssh", "config", "explain", str(config), "--key", f"{key}-cert.pub")
    for user, says in (
        ("alice", ("Result: alice is let in", "no-pty")),
        ("bob", ("Result: bob is not let in (publickey: the certificate names none of the principals)",)),
    ):
        done = await run(*asking, "--user", user, env=dict(os.environ))
        assert all(text in done.stdout.decode() for text in says), done


# -- webhooks ---------------------------------------------------------------------------------------------------


async def test_a_webhook_gets_the_whole_certificate_and_judges_the_authority_and_the_principals(
    openssh: OpenSSH, authority: Authority, key: Path
) -> None:
    await authority.sign(key, "somebody else", options=("force-command=ls", "no-pty"))
    async with webhook() as hook, open_webhook(WebhookConfig.model_validate({"url": hook.url})) as asked:
        keys = PublicKeys(PublicKeyAuthConfig.default(), asked)
        async with serving(around=lambda inner: AuthenticationServer(inner, Authenticators(public_key=keys))) as server:
            hook.answers = [Reply({"success": False}), Reply({"success": True})]
            assert await enters(openssh, server, key)
            text = Path(f"{key}-cert.pub").read_text()  # noqa: ASYNC240  a look at a local disk
            assert hook.requests[-1].json["publicKey"] == " ".join(text.split()[:2])
            rights = server.backend.logins[0].restrictions
            # What is critical in a certificate holds; what it merely does not permit is for the configuration.
            assert (rights.force_command, rights.pty) == ("ls", True)
            count = len(hook.requests)
            for details in ({"validity": "20200101:20210101"}, {"options": ("source-address=192.0.2.1/32",)}):
                await authority.sign(key, "alice", **details)
                hook.answers = [Reply({"success": False})]
                assert not await enters(openssh, server, key)
            plain = [str(request.json["publicKey"]).split(maxsplit=1)[0] for request in hook.requests[count:]]
            assert plain == ["ssh-ed25519", "ssh-ed25519"], "it is not asked about a certificate that does not hold"
