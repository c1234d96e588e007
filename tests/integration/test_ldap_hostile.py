"""Servers that answer a directory's questions with what a directory would not."""

from __future__ import annotations

import asyncio
import ssl
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from containerssh.auth.ldap.authenticator import LDAPAuthenticator, open_ldap
from containerssh.config.ldap import LDAPConfig
from containerssh.core.codes import AuthCode
from containerssh.core.counters import counters
from containerssh.core.errors import AuthFailed, AuthUnavailable
from containerssh.core.metadata import AuthAttempt, SocketAddress
from containerssh.core.metrics import AUTH_SERVER_FAILURES, AUTH_SERVER_REQUESTS
from tests.support.ldap_stand_in import (
    BIND,
    BOUND,
    DONE,
    ENTRY,
    EXTENDED,
    REFERENCE,
    SEARCH,
    START_TLS,
    UNBIND,
    Asked,
    Behaviour,
    StandIn,
    ber,
    entry,
    message,
    result,
    stand_in,
)
from tests.support.waiting import until
from tests.support.webhook import Authority

DIRECT = {"userBind": "uid={username},dc=test"}
ALICE = b"uid=alice,dc=test"
INVALID_CREDENTIALS, REFERRAL, BUSY = 49, 10, 51


@asynccontextmanager
async def ldap(*servers: StandIn, **more: Any) -> AsyncIterator[LDAPAuthenticator]:
    section = {
        "urls": [server.url for server in servers],
        "allowPlaintext": True,
        "userBase": "dc=test",
        "timeout": "400ms",
        "authTimeout": "500ms",
        **more,
    }
    async with open_ldap(LDAPConfig.model_validate(section)) as authenticator:
        yield authenticator


def attempt(user: str = "alice") -> AuthAttempt:
    return AuthAttempt(SocketAddress("192.0.2.7", 4711), "0" * 32, username=user)


async def password(authenticator: LDAPAuthenticator, user: str = "alice") -> str:
    return (await authenticator.authenticate_password(attempt(user), b"secret")).authenticated_username


def counted(name: str, **labels: str) -> int:
    return sum(counters.value(name, authtype="password", retry=retry, **labels) for retry in "01")


def say(*data: bytes) -> Behaviour:
    """Send this, whatever was asked."""

    async def behave(asked: Asked, writer: asyncio.StreamWriter) -> None:
        for piece in data:
            writer.write(piece)

    return behave


async def find_alice(asked: Asked, writer: asyncio.StreamWriter) -> None:
    writer.write(entry(asked.number, ALICE, uid=b"alice") + result(asked.number, DONE))


async def hang_up(asked: Asked, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def nothing(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """Let the client wait."""


async def trickle(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """One byte after another of an answer that would take minutes."""
    for byte in entry(asked.number, ALICE, uid=b"alice" * 100):
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0.1)


async def endless_message(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """A message of two gibibytes, as fast as it goes."""
    writer.write(bytes([0x30, 0x84, 0x7F, 0xFF, 0xFF, 0xFF]) + ber(0x02, bytes([asked.number])) + bytes([ENTRY]))
    writer.write(bytes([0x84, 0x7F, 0xFF, 0xFF, 0x00]))
    while True:
        writer.write(bytes(1 << 16))
        await writer.drain()


async def endless_entries(asked: Asked, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(message(asked.number, ber(REFERENCE, ber(0x04, b"ldap://elsewhere/"))) * 100)
        await writer.drain()


async def endless_values(asked: Asked, writer: asyncio.StreamWriter) -> None:
    writer.write(entry(asked.number, ALICE, uid=b"alice", memberOf=[b"cn=group,dc=test"] * 20_000))
    writer.write(result(asked.number, DONE))


async def many_deep(asked: Asked, writer: asyncio.StreamWriter) -> None:
    nested = b""
    for _ in range(5000):
        nested = ber(0x30, nested)
    writer.write(message(asked.number, ber(ENTRY, nested)))


FAULTS: dict[str, Behaviour] = {
    "garbage": say(b"\x00\xff" * 5000),
    "another protocol": say(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    "no length": say(b"\x30\x80"),
    "a length of nothing": say(b"\x30\x00"),
    "another number": say(result(99, DONE)),
    "hanging up": hang_up,
    "silence": nothing,
    "trickling": trickle,
    "an endless message": endless_message,
    "endless references": endless_entries,
    "an entry without end": endless_values,
    "deep": many_deep,
    "names that are not text": say(entry(2, b"\xff\xfe", uid=b"alice"), result(2, DONE)),
}


AT_THE_BIND = ("garbage", "another number", "silence", "an entry without end")


@pytest.mark.parametrize(("when", "what"), [(SEARCH, what) for what in FAULTS] + [(BIND, what) for what in AT_THE_BIND])
async def test_nonsense_is_no_judgement_and_the_next_login_is_judged(what: str, when: int) -> None:
    async with stand_in({SEARCH: find_alice, when: FAULTS[what]}) as server, ldap(server, **DIRECT) as authenticator:
        failures = counted(AUTH_SERVER_FAILURES, type="hard", reason=AuthCode.BACKEND_ERROR)
        async with asyncio.timeout(10):
            with pytest.raises(AuthUnavailable):
                await password(authenticator)
        assert counted(AUTH_SERVER_FAILURES, type="hard", reason=AuthCode.BACKEND_ERROR) == failures + 1
        server.on = {SEARCH: find_alice}
        assert await password(authenticator) == "alice"


async def test_a_slow_server_holds_up_nobody_but_who_asked_it() -> None:
    async with stand_in({SEARCH: nothing}) as slow, stand_in({SEARCH: find_alice}) as quick:
        more = {**DIRECT, "authTimeout": "10s"}
        async with ldap(slow, quick, **more) as authenticator:
            loop = asyncio.get_running_loop()
            began, turns = loop.time(), 0
            judging = asyncio.create_task(password(authenticator))
            while not judging.done():
                await asyncio.sleep(0.01)
                turns += 1
            assert await judging == "alice"
            assert turns > 10, "the event loop went on"
            assert loop.time() - began > 0.3, "the slow one was waited for"
            asked = len(slow.asked)
            requests = counted(AUTH_SERVER_REQUESTS)
            assert await password(authenticator) == "alice"
            assert len(slow.asked) == asked, "it is avoided for a while"
            assert counted(AUTH_SERVER_REQUESTS) == requests + 1


async def test_a_referral_is_not_followed() -> None:
    async with stand_in() as elsewhere:
        referral = ber(0xA3, ber(0x04, elsewhere.url.encode()))

        async def refer(asked: Asked, writer: asyncio.StreamWriter) -> None:
            tag = BOUND if asked.operation == BIND else DONE
            writer.write(message(asked.number, ber(tag, ber(0x0A, bytes([REFERRAL])), ber(0x04), ber(0x04), referral)))

        for when in (BIND, SEARCH):
            async with stand_in({when: refer}) as server, ldap(server, **DIRECT) as authenticator:
                with pytest.raises((AuthUnavailable, AuthFailed)):
                    await password(authenticator)
                assert server.asked
        assert not elsewhere.asked


async def test_nothing_is_said_before_tls_and_nothing_without() -> None:
    async def refuse(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(result(asked.number, EXTENDED, 2))

    async def not_tls(asked: Asked, writer: asyncio.StreamWriter) -> None:
        # What follows the answer in plain text must not count as said under TLS.
        writer.write(result(asked.number, EXTENDED) + result(asked.number + 1, BOUND))

    for behaviour in (refuse, not_tls, hang_up):
        async with stand_in({START_TLS: behaviour}) as server:
            async with ldap(server, startTLS=True, **DIRECT) as authenticator:
                with pytest.raises(AuthUnavailable):
                    await password(authenticator)
            assert {asked.operation for asked in server.asked} <= {START_TLS, UNBIND}
            assert not any(b"secret" in asked.raw for asked in server.asked)


async def test_the_name_that_binds_and_the_entry_that_is_found_are_one_persons() -> None:
    # Mallory's explicit name for logins is alice@corp.test; the account alice is somebody else's.
    async def bind(asked: Asked, writer: asyncio.StreamWriter) -> None:
        right = b"alice@corp.test" in asked.raw
        writer.write(result(asked.number, BOUND, 0 if right else INVALID_CREDENTIALS))

    more = {"userBind": "{username}@corp.test"}
    async with stand_in({BIND: bind, SEARCH: find_alice}) as server, ldap(server, **more) as authenticator:
        with pytest.raises(AuthFailed):
            await password(authenticator)
    assert [ALICE in asked.raw for asked in server.asked if asked.operation == BIND] == [False, True]


@pytest.mark.parametrize("name", ["alice@other.test", "CORP\\alice", "alice ", "a/b", 'a"b', "a\0b", "*"])
async def test_names_that_lead_into_another_domain_are_shown_to_nobody(name: str) -> None:
    more = {"userBind": "{username}@corp.test", "enforceUsername": False}
    async with stand_in({SEARCH: find_alice}) as server, ldap(server, **more) as authenticator:
        with pytest.raises(AuthFailed):
            await password(authenticator, name)
    assert not any(asked.operation == BIND for asked in server.asked)


async def test_a_directory_that_says_yes_without_a_search_lets_nobody_in() -> None:
    async with stand_in() as server:
        async with ldap(server) as authenticator:
            with pytest.raises(AuthFailed, match="no such user"):
                await password(authenticator)
        async with ldap(server, **DIRECT) as authenticator:
            with pytest.raises(AuthFailed, match="no entry"):
                await password(authenticator)


async def test_who_does_not_exist_is_asked_for_like_who_does() -> None:
    groups = {"groupBase": "dc=test", "groupFilter": "(member={dn})"}

    async def wrong(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(result(asked.number, BOUND, INVALID_CREDENTIALS))

    async with stand_in({BIND: wrong}) as server, ldap(server, **groups) as authenticator:
        for search in (None, find_alice):
            server.on = {BIND: wrong, **({SEARCH: search} if search else {})}
            with pytest.raises(AuthFailed):
                await password(authenticator)
    operations = [asked.operation for asked in server.asked if asked.operation in (BIND, SEARCH)]
    assert operations == [SEARCH, SEARCH, BIND] * 2


async def test_a_busy_server_is_asked_again() -> None:
    async def busy(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(result(asked.number, BOUND, BUSY))
        server.on = {SEARCH: find_alice}

    more = {**DIRECT, "authTimeout": "10s"}
    async with stand_in({BIND: busy}) as server, ldap(server, **more) as authenticator:
        assert await password(authenticator) == "alice"


async def test_too_many_attempts_are_told_so() -> None:
    more = {**DIRECT, "timeout": "20s", "authTimeout": "30s"}
    async with stand_in({BIND: nothing}) as server, ldap(server, **more) as authenticator:
        tasks = [asyncio.create_task(password(authenticator)) for _ in range(300)]
        await until(lambda: sum(task.done() for task in tasks) >= 300 - 256)
        failed = [task for task in tasks if task.done() and isinstance(task.exception(), AuthUnavailable)]
        assert len(failed) == 300 - 256
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        server.on = {SEARCH: find_alice}
        assert await password(authenticator) == "alice"


@pytest.mark.parametrize(
    ("wanted", "spoken", "talks"),
    [("1.2", "1.2", True), ("1.2", "1.3", True), ("1.3", "1.2", False), ("1.3", "1.3", True)],
)
async def test_no_older_tls_is_spoken_than_is_configured(tmp_path: Path, wanted: str, spoken: str, talks: bool) -> None:
    authority = Authority(tmp_path)
    tls = authority.server_tls("directory")
    tls.minimum_version = tls.maximum_version = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}[spoken]
    more = {**DIRECT, "cacert": str(authority.cert), "tlsVersion": wanted, "timeout": "3s"}
    async with stand_in({SEARCH: find_alice}, tls) as server, ldap(server, **more) as authenticator:
        if talks:
            assert await password(authenticator) == "alice"
        else:
            with pytest.raises(AuthUnavailable):
                await password(authenticator)
            assert not server.asked


async def test_tls_1_1_is_spoken_to_nobody(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    tls = authority.server_tls("directory")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        tls.minimum_version = tls.maximum_version = ssl.TLSVersion.TLSv1_1
    tls.set_ciphers("ALL:@SECLEVEL=0")
    more = {**DIRECT, "cacert": str(authority.cert)}
    async with stand_in({SEARCH: find_alice}, tls) as server, ldap(server, **more) as authenticator:
        with pytest.raises(AuthUnavailable):
            await password(authenticator)


async def test_authorities_may_stand_in_the_configuration_itself(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    more = {**DIRECT, "cacert": authority.cert.read_text(), "timeout": "3s"}
    tls = authority.server_tls("directory")
    async with stand_in({SEARCH: find_alice}, tls) as server, ldap(server, **more) as authenticator:
        assert await password(authenticator) == "alice"
