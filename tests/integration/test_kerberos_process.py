"""The process apart in which tickets and passwords are judged: its children, its deaths, its end."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from containerssh.auth.kerberos.authenticator import KerberosAuthenticator
from containerssh.auth.kerberos.helper import Helper
from containerssh.core.errors import AuthFailed, AuthUnavailable, ConfigError
from tests.support.kdc import HOME, KDC
from tests.support.tickets import Client, attempt, judged, kerberos
from tests.support.waiting import until


@pytest.fixture(autouse=True)
def libraries(kdc: KDC, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's side runs in this process."""
    monkeypatch.setenv("KRB5_CONFIG", str(kdc.config))


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
