"""Tickets judged by the real libraries with a real KDC; the client's GSSAPI is the real one as well."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import gssapi
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from containerssh.auth.kerberos.authenticator import KERBEROS
from containerssh.core.errors import AuthFailed, AuthUnavailable
from containerssh.core.gssapi import GSSAPIExchange, IntegrityProof
from containerssh.core.metadata import SocketAddress, Value
from tests.support.kdc import ABROAD, HOME, KDC
from tests.support.openssh import run
from tests.support.tickets import MESSAGE, SPNEGO, Client, attempt, judged, kerberos
from tests.support.tools import tool


@pytest.fixture(autouse=True)
def libraries(kdc: KDC, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's side runs in this process."""
    monkeypatch.setenv("KRB5_CONFIG", str(kdc.config))


async def test_a_ticket_logs_its_principal_in_and_what_was_known_stays(kdc: KDC) -> None:
    async with kerberos(kdc) as authenticator:
        login = await judged(authenticator, Client(await kdc.ticket()))
    assert (login.username, login.authenticated_username) == ("alice", "alice")
    assert {name: value.value for name, value in login.metadata.items()} == {
        "from": "before",
        "KERBEROS_PRINCIPAL": f"alice@{HOME}",
        "KERBEROS_REALM": HOME,
    }
    assert (login.environment, login.files) == ({"A": Value("b")}, {})


async def test_delegated_tickets_come_along_as_a_secret_file(kdc: KDC, tmp_path: Path) -> None:
    async with kerberos(kdc, credentialCachePath="/run/tickets") as authenticator:
        login = await judged(authenticator, Client(await kdc.ticket("alice", "-f"), delegates=True))
    assert login.environment["KRB5CCNAME"] == Value("FILE:/run/tickets")
    tickets = login.files["/run/tickets"]
    assert tickets.sensitive
    assert login.without_sensitive().files == {}
    (tmp_path / "cache").write_bytes(tickets.value)
    listed = await kdc.klist(tmp_path / "cache")
    assert f"Default principal: alice@{HOME}" in listed
    assert f"krbtgt/{HOME}" in listed


async def test_a_ticket_opens_no_other_account(kdc: KDC) -> None:
    ticket, admin = await kdc.ticket("alice"), await kdc.ticket("alice/admin")
    async with kerberos(kdc) as authenticator:
        for environment, user in ((ticket, "bob"), (ticket, "Alice"), (ticket, f"alice@{HOME}"), (admin, "alice")):
            with pytest.raises(AuthFailed, match="may not log in as"):
                await judged(authenticator, Client(environment), user)
        assert (await judged(authenticator, Client(admin), "alice/admin")).authenticated_username == "alice/admin"


async def test_a_user_of_another_realm_is_another_user(kdc: KDC) -> None:
    ticket = await kdc.ticket("alice", realm=ABROAD)
    async with kerberos(kdc) as authenticator:
        with pytest.raises(AuthFailed, match=f"alice@{ABROAD} may not log in as alice"):
            await judged(authenticator, Client(ticket))
        login = await judged(authenticator, Client(ticket), f"alice@{ABROAD}")
    assert login.authenticated_username == f"alice@{ABROAD}"
    assert login.metadata["KERBEROS_REALM"] == Value(ABROAD)


async def test_without_enforce_username_the_principal_is_told_and_the_name_stays(kdc: KDC) -> None:
    async with kerberos(kdc, enforceUsername=False) as authenticator:
        login = await judged(authenticator, Client(await kdc.ticket("alice", realm=ABROAD)), "bob")
    assert (login.username, login.authenticated_username) == ("bob", f"alice@{ABROAD}")


async def test_a_replayed_ticket_is_refused_by_this_server_another_and_the_next(kdc: KDC) -> None:
    client = Client(await kdc.ticket())
    async with kerberos(kdc) as authenticator, kerberos(kdc) as other:
        await judged(authenticator, client)
        for again in (authenticator, other):
            with pytest.raises(AuthFailed, match="replay"):
                await judged(again, client)
    async with kerberos(kdc) as restarted:
        with pytest.raises(AuthFailed, match="replay"):
            await judged(restarted, client)
    assert client.error, "the client is told why"


async def test_a_code_over_anything_else_is_refused(kdc: KDC) -> None:
    ticket = await kdc.ticket()
    async with kerberos(kdc) as authenticator:
        for signs in (MESSAGE[:-1], MESSAGE + b"\0", b""):
            with pytest.raises(AuthFailed, match="integrity code"):
                await judged(authenticator, Client(ticket, signs=signs))


async def test_a_code_of_another_context_is_refused(kdc: KDC) -> None:
    ticket = await kdc.ticket()
    async with kerberos(kdc) as authenticator:
        mine, other = Client(ticket), Client(ticket)
        await judged(authenticator, other)

        class Mixed(Client):
            async def finish(self, token: bytes = b"") -> IntegrityProof:
                return IntegrityProof(MESSAGE, other.context.get_signature(MESSAGE))

        mixed = Mixed(ticket)
        with pytest.raises(AuthFailed, match="integrity code"):
            await judged(authenticator, mixed)
        await judged(authenticator, mine)


@pytest.mark.parametrize(
    ("acceptor", "accepts"), [("any", {"host", "imap"}), ("host/localhost", {"host"}), ("host/elsewhere", set())]
)
async def test_the_acceptor_says_which_tickets_count(kdc: KDC, acceptor: str, accepts: set[str]) -> None:
    ticket = await kdc.ticket()
    async with kerberos(kdc, acceptor=acceptor) as authenticator:
        for service in ("host", "imap"):
            client = Client(ticket, f"{service}/localhost@{HOME}")
            if service in accepts:
                await judged(authenticator, client)
            else:
                with pytest.raises((AuthFailed, AuthUnavailable)):
                    await judged(authenticator, client)


async def test_spnego_is_not_accepted_under_either_name(kdc: KDC) -> None:
    ticket = await kdc.ticket()
    async with kerberos(kdc) as authenticator:
        only = Client(ticket)
        only.offers = [SPNEGO]
        with pytest.raises(AuthFailed, match="does not offer Kerberos"):
            await judged(authenticator, only)
        wrapped = gssapi.SecurityContext(
            name=gssapi.Name(f"host/localhost@{HOME}", gssapi.NameType.kerberos_principal),
            creds=gssapi.Credentials(usage="initiate", store={"ccache": ticket["KRB5CCNAME"]}),
            mech=gssapi.OID.from_int_seq("1.3.6.1.5.5.2"),
            usage="initiate",
        )
        disguised = Client(ticket)
        disguised.first = wrapped.step() or b""
        with pytest.raises(AuthFailed):
            await judged(authenticator, disguised)


async def test_a_ticket_for_some_addresses_is_refused_from_others(
    kdc: KDC, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "krb5.conf"
    lines = "[libdefaults]\nnoaddresses = false\nextra_addresses = 127.0.0.1\n"
    config.write_text(kdc.config.read_text().replace("[libdefaults]\n", lines))
    env = {"KRB5_CONFIG": str(config), "KRB5CCNAME": f"FILE:{tmp_path}/cache"}
    (await run(tool("kinit"), "-a", "alice", stdin=b"alice-pw\n", env=env)).check()
    monkeypatch.setenv("KRB5_CONFIG", str(config))
    async with kerberos(kdc) as authenticator:
        await judged(authenticator, Client(env))
        async with AsyncExitStack() as undo:
            elsewhere = replace(attempt(), remote_address=SocketAddress("203.0.113.7", 4711))
            with pytest.raises(AuthFailed, match="net address"):
                await authenticator.authenticate_gssapi(elsewhere, Client(env), undo)


@pytest.mark.parametrize(("skew", "accepted"), [("5m", False), ("20m", True)])
async def test_clocks_may_differ_by_the_clock_skew(kdc: KDC, skew: str, accepted: bool) -> None:
    ticket = await kdc.ticket()
    Client(ticket)  # asks the KDC, which has a limit of its own, for the ticket to the server
    program = (
        "import gssapi, sys\n"
        f"name = gssapi.Name('host/localhost@{HOME}', gssapi.NameType.kerberos_principal)\n"
        "sys.stdout.write(gssapi.SecurityContext(name=name, usage='initiate').step().hex())\n"
    )
    made = (await run(tool("faketime"), "-f", "+10m", sys.executable, "-c", program, env=ticket)).check()
    token = bytes.fromhex(made.stdout.decode())
    async with kerberos(kdc, clockSkew=skew) as authenticator:
        # The context is another process's, so that the code cannot be right.
        with pytest.raises(AuthFailed, match="integrity code" if accepted else "[Cc]lock skew"):
            await judged(authenticator, Unsigned(token))


class Unsigned(GSSAPIExchange):
    """A client that sends what it is told to, and no good code."""

    def __init__(self, token: bytes) -> None:
        self.token = token

    @property
    def mechanisms(self) -> Sequence[bytes]:
        return [KERBEROS]

    async def choose(self, mechanism: bytes) -> bytes:
        return self.token

    async def answer(self, token: bytes) -> bytes:
        return self.token

    async def finish(self, token: bytes = b"") -> IntegrityProof:
        return IntegrityProof(MESSAGE, b"code")

    def tell_error(self, token: bytes) -> None: ...


@given(
    noise=st.one_of(st.none(), st.binary(max_size=400)),
    changes=st.lists(st.tuples(st.integers(0, 4000), st.integers(1, 255)), min_size=1, max_size=8),
    cut=st.integers(0, 4000),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_tokens_of_any_bytes_are_refused_and_nothing_breaks(
    kdc: KDC, noise: bytes | None, changes: list[tuple[int, int]], cut: int
) -> None:
    async def play() -> None:
        token = bytearray(Client(await kdc.ticket()).first)
        for place, change in changes:
            token[place % len(token)] ^= change
        del token[max(1, cut) :]
        async with kerberos(kdc) as authenticator:
            with pytest.raises((AuthFailed, AuthUnavailable)):
                await judged(authenticator, Unsigned(bytes(token) if noise is None else noise))

    asyncio.run(play())


async def test_a_token_of_more_than_64_kib_is_refused(kdc: KDC) -> None:
    async with kerberos(kdc) as authenticator:
        with pytest.raises(AuthFailed, match="too long"):
            await judged(authenticator, Unsigned(bytes(65537)))
