"""Tickets and passwords judged by the real libraries with a real KDC; the client's GSSAPI is the real one as well."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import gssapi
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from containerssh.auth.kerberos.authenticator import KERBEROS, KerberosAuthenticator, open_kerberos
from containerssh.auth.kerberos.helper import Helper
from containerssh.config.auth import KerberosConfig
from containerssh.core.errors import AuthFailed, AuthUnavailable, ConfigError
from containerssh.core.handlers import GSSAPIExchange, IntegrityProof
from containerssh.core.metadata import AuthAttempt, Login, SocketAddress, Value
from tests.support.kdc import ABROAD, HOME, KDC, running_kdc
from tests.support.openssh import run
from tests.support.tools import tool
from tests.support.waiting import until

SPNEGO = bytes.fromhex("06062b0601050502")
MESSAGE = b"the session and the request"


@pytest.fixture(scope="module")
def kdc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KDC]:
    with running_kdc(tmp_path_factory.mktemp("kdc")) as found:
        yield found


@pytest.fixture(autouse=True)
def libraries(kdc: KDC, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's side runs in this process."""
    monkeypatch.setenv("KRB5_CONFIG", str(kdc.config))


def attempt(user: str = "alice") -> AuthAttempt:
    known = {"from": Value("before")}
    return AuthAttempt(SocketAddress("127.0.0.1", 4711), "0" * 32, known, {"A": Value("b")}, username=user)


@asynccontextmanager
async def kerberos(kdc: KDC, **more: object) -> AsyncIterator[KerberosAuthenticator]:
    section = {"keytab": str(kdc.keytab), "configPath": str(kdc.config), **more}
    async with open_kerberos(KerberosConfig.model_validate(section)) as authenticator:
        yield authenticator


class Client(GSSAPIExchange):
    """A client with a ticket: the contract's other side, without the SSH between them."""

    def __init__(
        self,
        environment: dict[str, str],
        service: str = f"host/localhost@{HOME}",
        *,
        delegates: bool = False,
        signs: bytes = MESSAGE,
    ) -> None:
        flags = gssapi.RequirementFlag.mutual_authentication | gssapi.RequirementFlag.integrity
        if delegates:
            flags |= gssapi.RequirementFlag.delegate_to_peer
        store: dict[bytes | str, bytes | str] = {"ccache": environment["KRB5CCNAME"]}
        self.context = gssapi.SecurityContext(
            name=gssapi.Name(service, gssapi.NameType.kerberos_principal),
            creds=gssapi.Credentials(usage="initiate", store=store),
            mech=gssapi.OID.from_int_seq("1.2.840.113554.1.2.2"),
            flags=flags,
            usage="initiate",
        )
        self.first = self.context.step() or b""
        self.signs = signs
        self.offers: Sequence[bytes] = [SPNEGO, KERBEROS]
        self.error = b""

    @property
    def mechanisms(self) -> Sequence[bytes]:
        return self.offers

    async def choose(self, mechanism: bytes) -> bytes:
        assert mechanism == KERBEROS
        return self.first

    async def answer(self, token: bytes) -> bytes:
        return self.context.step(token) or b""

    async def finish(self, token: bytes = b"") -> IntegrityProof:
        if not self.context.complete:
            self.context.step(token)
        return IntegrityProof(MESSAGE, self.context.get_signature(self.signs))

    def tell_error(self, token: bytes) -> None:
        self.error = token


async def judged(authenticator: KerberosAuthenticator, client: GSSAPIExchange, user: str = "alice") -> Login:
    async with AsyncExitStack() as undo:
        return await authenticator.authenticate_gssapi(attempt(user), client, undo)


# -- tickets -----------------------------------------------------------------------------------------------------------


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


# -- passwords ---------------------------------------------------------------------------------------------------------


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


@asynccontextmanager
async def silent_kdc(folder: Path) -> AsyncIterator[tuple[Path, asyncio.Event]]:
    """A KDC that takes questions and never answers: its krb5.conf, and whether it was asked."""
    asked = asyncio.Event()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4)
        asked.set()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    config = folder / "silent.conf"
    config.write_text(
        f"[libdefaults]\ndefault_realm = {HOME}\nudp_preference_limit = 1\n"
        f"[realms]\n{HOME} = {{\nkdc = 127.0.0.1:{port}\n}}\n"
    )
    async with server:
        yield config, asked


async def test_giving_up_ends_the_child_that_waits_for_a_silent_kdc(kdc: KDC, tmp_path: Path) -> None:
    async with (
        silent_kdc(tmp_path) as (config, asked),
        kerberos(kdc, configPath=str(config)) as authenticator,
        asyncio.TaskGroup() as tasks,
    ):
        helper = helper_of(authenticator)
        waiting = tasks.create_task(authenticator.authenticate_password(attempt(), b"alice-pw"))
        await asyncio.wait_for(asked.wait(), 10)
        assert len(children(helper)) == 1
        # Meanwhile a ticket is judged: it needs no KDC.
        assert (await judged(authenticator, Client(await kdc.ticket()))).authenticated_username == "alice"
        waiting.cancel()
        await until(lambda: all(state(pid) in "ZX" for pid in children(helper)))


async def test_a_child_that_dies_costs_its_own_attempt(kdc: KDC, tmp_path: Path) -> None:
    async with silent_kdc(tmp_path) as (config, asked), kerberos(kdc, configPath=str(config)) as authenticator:
        waiting = asyncio.create_task(authenticator.authenticate_password(attempt(), b"alice-pw"))
        await asyncio.wait_for(asked.wait(), 10)
        (child,) = children(helper_of(authenticator))
        os.kill(child, signal.SIGSEGV)
        with pytest.raises(AuthUnavailable, match="took too long or crashed"):
            await waiting
        assert (await judged(authenticator, Client(await kdc.ticket()))).authenticated_username == "alice"


# -- the helper --------------------------------------------------------------------------------------------------------


def helper_of(authenticator: KerberosAuthenticator) -> Helper:
    return authenticator._helper


def process_of(helper: Helper) -> int:
    assert helper._process is not None
    return helper._process.pid


def children(helper: Helper) -> list[int]:
    pid = process_of(helper)
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def state(pid: int) -> str:
    """The letter of proc(5); X for a process that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "X"


async def test_a_helper_that_was_killed_is_started_again(kdc: KDC) -> None:
    async with kerberos(kdc) as authenticator:
        process = helper_of(authenticator)._process
        assert process is not None
        os.kill(process.pid, signal.SIGKILL)
        await process.wait()
        assert (await authenticator.authenticate_password(attempt(), b"alice-pw")).authenticated_username == "alice"


async def test_the_end_leaves_no_process_and_no_file(kdc: KDC) -> None:
    async with kerberos(kdc) as authenticator:
        await authenticator.authenticate_password(attempt(), b"alice-pw")
        helper = helper_of(authenticator)
        pid, folder = process_of(helper), helper._folder
        assert sorted(path.name for path in folder.iterdir()) == ["first.conf"]
    assert (state(pid), folder.exists()) == ("X", False)


async def test_many_attempts_at_once_are_all_judged(kdc: KDC) -> None:
    async with kerberos(kdc) as authenticator, asyncio.TaskGroup() as tasks:
        for number in range(100):
            password = b"alice-pw" if number % 2 else b"wrong"
            tasks.create_task(judged_password(authenticator, password, right=bool(number % 2)))


async def judged_password(authenticator: KerberosAuthenticator, password: bytes, *, right: bool) -> None:
    if right:
        await authenticator.authenticate_password(attempt(), password)
    else:
        with pytest.raises(AuthFailed):
            await authenticator.authenticate_password(attempt(), password)


async def test_a_keytab_without_keys_is_told_at_the_start(kdc: KDC, tmp_path: Path) -> None:
    for number, content in enumerate((b"", b"\x05\x02", b"no keytab")):
        keytab = tmp_path / str(number)
        keytab.write_bytes(content)
        with pytest.raises(ConfigError, match="keytab"):
            async with kerberos(kdc, keytab=str(keytab)):
                pytest.fail("unreachable")


async def test_without_a_default_realm_the_keytabs_counts(kdc: KDC, tmp_path: Path) -> None:
    config = tmp_path / "krb5.conf"
    config.write_text(kdc.config.read_text().replace(f"default_realm = {HOME}\n", ""))
    async with kerberos(kdc, configPath=str(config)) as authenticator:
        assert (await judged(authenticator, Client(await kdc.ticket()))).authenticated_username == "alice"
        assert (await authenticator.authenticate_password(attempt("bob"), b"bob-pw")).authenticated_username == "bob"
