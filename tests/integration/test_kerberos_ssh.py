"""GSSAPI authentication over SSH (RFC 4462 section 3): real clients on a real server, and clients that cheat."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from containerssh.auth.kerberos.authenticator import KerberosAuthenticator, open_kerberos
from containerssh.config.auth import KerberosConfig
from containerssh.core.codes import SSHCode
from containerssh.layers.authentication import AuthenticationServer, Authenticators
from tests.support import server as product
from tests.support.kdc import HOME, KDC
from tests.support.local_backend import LocalBackend
from tests.support.oci import image
from tests.support.openssh import OpenSSH, ssh_options
from tests.support.raw_client import ERROR_TOKEN, FAILURE, REQUEST, RESPONSE, SUCCESS, TOKEN
from tests.support.ssh_front import Front, serving
from tests.support.ticket_client import TicketClient, context
from tests.support.ticket_openssh import client_of
from tests.support.waiting import until
from tests.support.webhook import Reply, webhook

GSSAPI = ssh_options("GSSAPIAuthentication=yes", "PreferredAuthentications=gssapi-with-mic", "HostName=localhost")
COMPLETE, MIC = 63, 66


# -- the whole server, with OpenSSH's client ---------------------------------------------------------------------------


def whole(kdc: KDC, **more: object) -> dict[str, Any]:
    return {"backend": "oci", "oci": {"image": str(image())}, "auth": {"gssapi": kdc.settings(**more)}}


@pytest.mark.oci
async def test_a_ticket_logs_in_and_delegated_ones_are_the_users_alone(kdc: KDC, tmp_path: Path) -> None:
    client = await client_of(kdc, tmp_path)
    delegates = ssh_options("GSSAPIDelegateCredentials=yes")
    async with product.serving(whole(kdc)) as server:
        done = await client.run(
            server, "echo $KRB5CCNAME; stat -c '%a %u' /tmp/krb5cc; cat /tmp/krb5cc", *GSSAPI, *delegates
        )
        name, mode, cache = done.check().stdout.split(b"\n", 2)
        assert (name, mode) == (b"FILE:/tmp/krb5cc", b"600 0")
        (tmp_path / "cache").write_bytes(cache)
        assert f"Default principal: alice@{HOME}" in await kdc.klist(tmp_path / "cache")
        without = await client.run(server, "echo [$KRB5CCNAME]; ls /tmp/krb5cc", *GSSAPI)
        assert without.stdout == b"[]\n"


@pytest.mark.oci
@pytest.mark.parametrize("exchanges", [True, False])
async def test_a_client_that_would_exchange_keys_by_its_ticket_logs_in_with_it(
    kdc: KDC, tmp_path: Path, exchanges: bool
) -> None:
    client = await client_of(kdc, tmp_path)
    asked = ssh_options("GSSAPIKeyExchange=yes", "PreferredAuthentications=gssapi-keyex,gssapi-with-mic")
    config = whole(kdc)
    config["auth"]["gssapi"]["keyExchange"] = exchanges
    async with product.serving(config) as server:
        done = await client.run(server, "true", *asked, *GSSAPI, *ssh_options("LogLevel=DEBUG1"))
    assert done.status == 0, done
    assert (b"kex: algorithm: gss-" in done.stderr) is exchanges
    assert (b'using "gssapi-keyex"' in done.stderr) is exchanges
    assert (b'using "gssapi-with-mic"' in done.stderr) is not exchanges


@pytest.mark.oci
async def test_a_ticket_of_another_user_is_refused_and_logged(kdc: KDC, tmp_path: Path) -> None:
    client = await client_of(kdc, tmp_path, user="bob", ticket="alice")
    async with product.serving(whole(kdc)) as server:
        done = await client.run(server, "true", *GSSAPI)
        assert (done.status, b"Permission denied" in done.stderr) == (255, True)
        await server.until(lambda: bool(server.logged("SSH_AUTH_FAILED")), "the refusal is logged")
        refusal, *_ = server.logged("SSH_AUTH_FAILED")
        assert f"alice@{HOME} may not log in as bob" in str(refusal)


@pytest.mark.oci
async def test_the_authorization_webhook_hears_of_the_principal_and_of_no_ticket(kdc: KDC, tmp_path: Path) -> None:
    client = await client_of(kdc, tmp_path)
    delegates = ssh_options("GSSAPIDelegateCredentials=yes")
    async with webhook() as hook:
        hook.answers = [Reply({"success": True})]
        config = whole(kdc)
        config["auth"]["authz"] = {"method": "webhook", "webhook": {"url": hook.url}}
        async with product.serving(config) as server:
            (await client.run(server, "test -s /tmp/krb5cc", *GSSAPI, *delegates)).check()
    (question,) = (asked.json for asked in hook.requests)
    assert question["authenticatedUsername"] == "alice"
    assert f"alice@{HOME}" in str(question["metadata"])
    assert question.get("files", {}) == {}


@pytest.mark.oci
async def test_a_password_is_judged_by_the_kdc(kdc: KDC, tmp_path: Path) -> None:
    config = whole(kdc)
    config["auth"] = {"password": kdc.settings()}
    async with product.serving(config) as server:
        good, bad = OpenSSH(tmp_path, password="alice-pw"), OpenSSH(tmp_path, password="wrong-pw")
        assert (await good.run(server, "echo $KRB5CCNAME")).check().stdout == b"FILE:/tmp/krb5cc\n"
        assert (await bad.run(server, "true")).status == 255
        await server.until(lambda: bool(server.logged("SSH_AUTH_FAILED")), "the refusal is logged")
        assert not server.logged("SSH_AUTH_UNAVAILABLE")
        log = (server.folder / "server.log").read_text()
    assert "alice-pw" not in log
    assert "wrong-pw" not in log


# -- the front, with clients that cheat --------------------------------------------------------------------------------


@asynccontextmanager
async def front(kdc: KDC, **options: Any) -> AsyncIterator[Front]:
    section = {"keytab": str(kdc.keytab), "configPath": str(kdc.config)}
    async with open_kerberos(KerberosConfig.model_validate(section)) as authenticator:
        backend = LocalBackend()
        async with serving(backend, around=lambda inner: _with(inner, authenticator), **options) as server:
            yield server


def _with(inner: Any, authenticator: KerberosAuthenticator) -> AuthenticationServer:
    return AuthenticationServer(inner, Authenticators(gssapi=authenticator))


@pytest.fixture
async def ticket(kdc: KDC, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    environment = await kdc.ticket()
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return environment


pytestmark_ticket = pytest.mark.usefixtures("ticket")


@pytestmark_ticket
async def test_the_exchange_of_the_rfc_logs_in(kdc: KDC) -> None:
    async with front(kdc) as server, TicketClient.connected(server) as client:
        mine = context()
        await client.exchange("alice", mine)
        client.send(MIC, client.signed(mine, "alice"))
        await client.answer(SUCCESS)
        await until(lambda: bool(server.backend.logins))
    assert server.backend.logins[0].authenticated_username == "alice"


@pytestmark_ticket
@pytest.mark.parametrize("what", ["user", "session", "nothing", "complete", "error"])
async def test_a_login_takes_the_code_over_this_session_and_this_user(kdc: KDC, what: str) -> None:
    async with front(kdc) as server, TicketClient.connected(server) as client, TicketClient.connected(server) as other:
        mine = context()
        await client.exchange("alice", mine)
        match what:
            case "user":
                client.send(MIC, client.signed(mine, "bob"))
            case "session":
                client.send(MIC, client.signed(mine, "alice", other.session))
            case "nothing":
                client.send(MIC, b"")
            case "complete":
                client.send(COMPLETE)
            case "error":
                client.send(ERROR_TOKEN, b"no")
        await client.answer(FAILURE)
    assert server.backend.logins == []
    assert SSHCode.AUTH_SUCCESSFUL not in server.log


@pytestmark_ticket
@pytest.mark.parametrize("signs", ["alice", "bob"])
@pytest.mark.parametrize("step", ["request", "token", "code"])
async def test_a_user_switched_in_mid_exchange_is_never_logged_in(kdc: KDC, step: str, signs: str) -> None:
    """At a step of alice's exchange the client asks for bob, and goes on as if nothing had been."""
    async with front(kdc) as server, TicketClient.connected(server) as client:
        mine = context()
        if step == "request":
            client.request("alice")
            client.request("bob")
            await client.answer(RESPONSE)
            client.send(TOKEN, mine.step() or b"")
            kind, message = await client.next()
            if kind == RESPONSE:
                # Alice's exchange had begun before bob's request arrived.
                message = await client.answer(TOKEN)
            mine.step(message.get_binary())
        elif step == "token":
            client.request("alice")
            await client.answer(RESPONSE)
            client.send(TOKEN, mine.step() or b"")
            client.request("bob")
            kind, message = await client.next()
            if kind == TOKEN:
                mine.step(message.get_binary())
                await client.answer(RESPONSE)
        else:
            await client.exchange("alice", mine)
            client.request("bob")
            await client.answer(RESPONSE)
        client.send(MIC, client.signed(mine, signs) if mine.complete else b"code")
        await client.answer(FAILURE)
    assert server.backend.logins == []
    assert SSHCode.AUTH_SUCCESSFUL not in server.log


@pytestmark_ticket
async def test_messages_out_of_turn_are_refused_and_the_connection_lives(kdc: KDC) -> None:
    async with front(kdc) as server, TicketClient.connected(server) as client:
        client.request("alice")
        await client.answer(RESPONSE)
        client.send(MIC, b"code")
        await client.answer(FAILURE)
        client.request("alice", bytes.fromhex("06062b0601050502"))
        await client.answer(FAILURE)
        client.request("alice", *(bytes([6, 1, number]) for number in range(17)))
        await client.answer(FAILURE)
        client.send(REQUEST, b"alice", b"ssh-connection", b"gssapi-with-mic", raw=b"\xff\xff\xff\xff")
        await client.answer(FAILURE)
        mine = context()
        await client.exchange("alice", mine)
        client.send(MIC, client.signed(mine, "alice"))
        await client.answer(SUCCESS)


@pytestmark_ticket
async def test_a_client_that_leaves_in_mid_exchange_leaves_nothing(kdc: KDC) -> None:
    async with front(kdc) as server:
        for _ in range(5):
            async with TicketClient.connected(server) as client:
                await client.exchange("alice", context())
        await until(lambda: not server.backend.open_scopes)
    assert server.backend.logins == []


@pytestmark_ticket
async def test_asyncssh_logs_in_too(kdc: KDC) -> None:
    """In a process of its own: here asyncssh may have been loaded by the server, which keeps Kerberos out of it."""
    async with front(kdc) as server:
        client = partial(subprocess.run, capture_output=True, text=True, timeout=30, check=False)
        done = await asyncio.to_thread(client, [sys.executable, "-c", ASYNCSSH, str(server.port)])
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stderr


ASYNCSSH = """
import asyncio, sys, asyncssh

async def main():
    options = {"username": "alice", "known_hosts": None, "gss_host": "localhost", "gss_kex": False}
    async with asyncssh.connect("127.0.0.1", int(sys.argv[1]), **options) as client:
        print((await client.run("echo ok")).stdout, end="")

asyncio.run(main())
"""
