"""Exchanges of keys by tickets (RFC 4462 section 2) and logins by them (section 4): OpenSSH's client, and cheats."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from containerssh.auth.kerberos.authenticator import KerberosAuthenticator, open_kerberos
from containerssh.auth.kerberos.limits import CHILDREN
from containerssh.config.auth import KerberosConfig
from containerssh.core import metrics
from containerssh.core.codes import SSHCode
from containerssh.core.counters import counters
from containerssh.core.handlers import ServerHandler
from containerssh.layers.authentication import AuthenticationServer, Authenticators
from containerssh.layers.metrics import MetricsServer
from tests.support.kdc import HOME, KDC
from tests.support.local_backend import LocalBackend
from tests.support.openssh import run, ssh_options
from tests.support.raw_client import FAILURE, REQUEST, RawClient
from tests.support.ssh_front import Front, serving
from tests.support.ticket_openssh import TicketOpenSSH, client_of
from tests.support.tools import tool
from tests.support.waiting import until

BY_TICKET = ssh_options(
    "GSSAPIAuthentication=yes",
    "GSSAPIKeyExchange=yes",
    "PreferredAuthentications=gssapi-keyex",
    "HostName=localhost",
    "LogLevel=DEBUG1",
)


@asynccontextmanager
async def front(kdc: KDC) -> AsyncIterator[Front]:
    async with judging(kdc) as judge, judged_by(judge) as server:
        yield server


def judging(kdc: KDC, **more: Any) -> AbstractAsyncContextManager[KerberosAuthenticator]:
    section = {"keytab": str(kdc.keytab), "configPath": str(kdc.config), **more}
    return open_kerberos(KerberosConfig.model_validate(section))


@asynccontextmanager
async def judged_by(judge: KerberosAuthenticator) -> AsyncIterator[Front]:
    found = Authenticators(gssapi=judge, key_exchange=judge)

    def around(inner: ServerHandler) -> ServerHandler:
        return MetricsServer(AuthenticationServer(inner, found), lambda _: "XX", authorizes=False)

    async with serving(LocalBackend(), around=around, exchange_by_tickets=True) as server:
        yield server


@pytest.mark.parametrize("method", ["gss-curve25519-sha256-", "gss-nistp256-sha256-"])
async def test_a_ticket_alone_proves_server_and_user_and_may_be_passed_on(
    kdc: KDC, tmp_path: Path, method: str
) -> None:
    """No host key is known to the client, and it would not take an unknown one."""
    client = await client_of(kdc, tmp_path)
    strict = ssh_options("StrictHostKeyChecking=yes", "UserKnownHostsFile=/dev/null", f"GSSAPIKexAlgorithms={method}")
    async with front(kdc) as server:
        refused = await client.run(server, "true", *strict, *ssh_options("HostName=localhost"))
        assert (refused.status, b"Host key verification failed" in refused.stderr) == (255, True)
        done = await client.run(server, "echo in", *strict, *BY_TICKET, *ssh_options("GSSAPIDelegateCredentials=yes"))
        assert done.check().stdout == b"in\n"
        assert f"kex: algorithm: {method}".encode() in done.stderr
    (login,) = server.backend.logins
    assert login.authenticated_username == "alice"
    assert login.metadata["KERBEROS_PRINCIPAL"].value == f"alice@{HOME}"
    (file,) = login.files.values()
    assert file.sensitive
    (tmp_path / "cache").write_bytes(file.value)
    assert f"Default principal: alice@{HOME}" in await kdc.klist(tmp_path / "cache")


async def test_putty_exchanges_keys_by_the_ticket_and_then_again_with_the_host_key(kdc: KDC, tmp_path: Path) -> None:
    """It does so by itself, and fetches a host key right after the login, for times without a ticket."""
    client = await client_of(kdc, tmp_path)
    async with front(kdc) as server:
        done = await run(
            *(tool("plink"), "-v", "-ssh", "-batch", "-P", str(server.port), "-l", "alice", "localhost", "echo in"),
            env={**client.environment(), "HOME": str(tmp_path)},
        )
    assert (done.status, done.stdout) == (0, b"in\n"), done.stderr
    for said in (b"GSSAPI Key Exchange complete", b"Trying gssapi-keyex", b"Post-GSS rekey provided fallback host key"):
        assert said in done.stderr


async def test_keys_are_exchanged_by_the_ticket_again_and_again(kdc: KDC, tmp_path: Path) -> None:
    client = await client_of(kdc, tmp_path)
    async with front(kdc) as server:
        done = await client.run(
            server, "head -c 5000000 /dev/zero | wc -c; head -c 5000000 /dev/zero",
            *BY_TICKET, *ssh_options("RekeyLimit=1M"),
        )  # fmt: skip
    assert done.check().stdout == b"5000000\n" + bytes(5_000_000)
    assert done.stderr.count(b"SSH2_MSG_NEWKEYS received") > 2
    assert len(server.backend.logins) == 1


async def test_a_ticket_of_another_user_exchanges_keys_and_opens_nothing(kdc: KDC, tmp_path: Path) -> None:
    client = await client_of(kdc, tmp_path, user="bob", ticket="alice")
    both = ssh_options("PreferredAuthentications=gssapi-keyex,gssapi-with-mic")
    async with front(kdc) as server:
        done = await client.run(server, "true", *both, *BY_TICKET)
        assert done.status == 255
        assert b"gssapi-keyex,gssapi-with-mic" in done.stderr
        reasons = [labels["reason"] for _, labels in server.log.of(SSHCode.AUTH_FAILED)]
    assert any(f"alice@{HOME} may not log in as bob" in str(reason) for reason in reasons)
    assert not server.backend.logins


async def test_a_client_without_a_ticket_exchanges_keys_as_usual(kdc: KDC, tmp_path: Path) -> None:
    client = TicketOpenSSH(tmp_path, "alice", password=None)
    client.tickets = {"KRB5_CONFIG": str(kdc.config), "KRB5CCNAME": f"FILE:{tmp_path}/none"}
    async with front(kdc) as server:
        done = await client.run(server, "true", *BY_TICKET)
        assert b"kex: algorithm: gss-" not in done.stderr
        assert b"Permission denied (gssapi-with-mic)" in done.stderr, "what needs such an exchange is not offered"


async def test_without_a_keytab_or_a_helper_other_clients_come_in_as_usual(kdc: KDC, tmp_path: Path) -> None:
    """And who comes by a ticket is told, once it can be judged again let in, and no process is left."""
    client = await client_of(kdc, tmp_path)
    keytab, away = tmp_path / "keytab", tmp_path / "away"
    keytab.write_bytes(kdc.keytab.read_bytes())
    async with judging(kdc, keytab=str(keytab)) as judge, judged_by(judge) as server:
        keytab.rename(away)
        done = await client.run(server, "true", *BY_TICKET)
        assert done.status == 255
        assert b"Tickets cannot be judged now" in done.stderr
        ((_, labels),) = server.log.of(SSHCode.AUTH_UNAVAILABLE)
        assert "keytab" in str(labels["reason"])
        done = await client.run(server, "true", *ssh_options("GSSAPIKeyExchange=no"))
        assert b"Permission denied (gssapi-with-mic)" in done.stderr, "keys were exchanged"
        away.rename(keytab)
        process = judge._helper._process
        assert process is not None
        os.kill(process.pid, signal.SIGKILL)
        await process.wait()
        assert (await client.run(server, "echo in", *BY_TICKET)).check().stdout == b"in\n"
        process = judge._helper._process
        assert process is not None
        assert not server.log.errors
    assert process.returncode is not None


async def test_a_stranger_who_leaves_while_a_ticket_is_judged_leaves_nothing(kdc: KDC, tmp_path: Path) -> None:
    """The helper does not answer: neither who waits nor who has gone holds up anybody, once it does."""
    client = await client_of(kdc, tmp_path)
    async with judging(kdc) as judge, judged_by(judge) as server:
        process = judge._helper._process
        assert process is not None
        os.kill(process.pid, signal.SIGSTOP)
        try:
            strangers = [asyncio.create_task(client.run(server, "true", *BY_TICKET)) for _ in range(3)]
            await until(lambda: judge._helper._places._value == CHILDREN - 3)
            for stranger in strangers:
                stranger.cancel()
            await asyncio.gather(*strangers, return_exceptions=True)
            await until(lambda: judge._helper._places._value == CHILDREN)
            assert not server.backend.open_scopes
        finally:
            os.kill(process.pid, signal.SIGCONT)
        assert (await client.run(server, "echo in", *BY_TICKET)).check().stdout == b"in\n"
        assert not server.log.errors


async def test_who_has_not_exchanged_keys_by_a_ticket_cannot_log_in_by_one(kdc: KDC) -> None:
    async with front(kdc) as server, RawClient.connected(server) as client:
        for code in (b"", b"code", bytes(70_000)):
            client.send(REQUEST, b"alice", b"ssh-connection", b"gssapi-keyex", code)
            assert (await client.answer(FAILURE)).get_text() == "gssapi-with-mic"
        client.send(REQUEST, b"alice", b"ssh-connection", b"gssapi-keyex", raw=b"\0\0\0\7")
        await client.answer(FAILURE)
    assert not server.backend.logins


CHEATS = """
import asyncio, asyncssh, json, sys
from asyncssh import gss_unix, kex_dh
from gssapi import RequirementFlag

Client, Base = gss_unix.GSSClient, kex_dh._KexGSSBase
ORIGINAL = {"step": Client.step, "sign": Client.sign, "_send_init": Base._send_init}
tokens = []

def kept(self, token=None):
    made = ORIGINAL["step"](self, token)
    if token is None:
        tokens.append(made)
    return made

def instead(data):
    return lambda self, token=None: data() if token is None else ORIGINAL["step"](self, token)

def twice(self):
    ORIGINAL["_send_init"](self)
    ORIGINAL["_send_init"](self)

def signs(change):
    return lambda self, data: ORIGINAL["sign"](self, change(data))

def one_way(self, token=None):
    if not self._ctx:
        self._flags &= ~RequirementFlag.mutual_authentication
    return ORIGINAL["step"](self, token)

WAYS = {
    "honest": {"step": kept},
    "as bob": {},
    "another code": {"sign": lambda self, data: b"no code"},
    "a code for bob": {"sign": signs(lambda data: data.replace(b"alice", b"carol"))},
    "a code for another session": {"sign": signs(lambda data: b"\\0\\0\\0\\x20" + bytes(32) + data[36:])},
    "noise": {"step": instead(lambda: b"\\x60\\x82noise")},
    "a long token": {"step": instead(lambda: bytes(70000))},
    "an old token": {"step": instead(lambda: tokens[0])},
    "two tokens": {"_send_init": twice},
    "a client that is told nothing": {"step": one_way},
    "honest again": {},
}

async def main():
    ends = {}
    for way, changes in WAYS.items():
        for name, original in ORIGINAL.items():
            setattr(Base if name == "_send_init" else Client, name, changes.get(name, original))
        try:
            async with asyncssh.connect(
                "127.0.0.1", int(sys.argv[1]), username="bob" if way == "as bob" else "alice", known_hosts=None,
                gss_host="localhost", kex_algs=["gss-curve25519-sha256", "curve25519-sha256"],
                preferred_auth="gssapi-keyex", client_keys=None,
            ) as client:
                ends[way] = (await client.run("echo in")).stdout.strip()
        except (asyncssh.Error, OSError) as exc:
            ends[way] = type(exc).__name__
    print(json.dumps(ends))

asyncio.run(main())
"""


async def test_no_cheat_exchanges_keys_or_logs_in(kdc: KDC, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own: here asyncssh may have been loaded by the server, which keeps Kerberos out of it."""
    for name, value in (await kdc.ticket()).items():
        monkeypatch.setenv(name, value)
    async with front(kdc) as server:
        before = counters.value(metrics.AUTH_FAILURES, authtype="gssapi", country="XX")
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", CHEATS, str(server.port)],
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        ends = json.loads(done.stdout)
        refusals = [str(labels["reason"]) for _, labels in server.log.of(SSHCode.AUTH_FAILED)]
    assert {way for way, end in ends.items() if end == "in"} == {"honest", "honest again"}, ends
    denied = {"as bob", "another code", "a code for bob", "a code for another session"}
    assert {way for way, end in ends.items() if end == "PermissionDenied"} == denied, ends
    assert [login.username for login in server.backend.logins] == ["alice", "alice"]
    counted = counters.value(metrics.AUTH_FAILURES, authtype="gssapi", country="XX") - before
    assert counted == len(refusals), "those of key exchanges, too"
    assert sum("integrity code is wrong" in reason for reason in refusals) == 3
    assert sum("the ticket was refused" in reason for reason in refusals) == 2, "noise, and the old token"
    assert sum("does not want to know who the server is" in reason for reason in refusals) == 1
    assert sum("too long" in reason for reason in refusals) == 1
