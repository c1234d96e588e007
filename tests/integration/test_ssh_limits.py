"""Limits on who connects, how often and how long, as their clients and the log see them."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from containerssh.core.codes import AuthCode, SSHCode
from containerssh.core.descriptors import allow_many_descriptors
from containerssh.core.errors import AuthUnavailable
from containerssh.core.metadata import AuthAttempt
from containerssh.ssh.limits import reached
from containerssh.ssh.options import Admission, Limits, Penalties
from tests.support.local_backend import LocalBackend
from tests.support.net import dropped
from tests.support.openssh import OpenSSH, run
from tests.support.ssh_front import Front, serving
from tests.support.tools import tool
from tests.support.waiting import until

TOO_MANY = "Too many connections. Try again later."
FAILURES = "Too many failed logins from your address. Try again later."


def strict(**limits: Any) -> Admission:
    """Limits that hold for this machine's own addresses too."""
    return Admission(**{"allow": (), **limits})


async def log_in(server: Front, source: str = "127.0.0.1", password: str = "secret", **more: Any) -> Any:
    return await asyncssh.connect(
        "127.0.0.1",
        server.port,
        local_addr=(source, 0),
        username="alice",
        password=password,
        known_hosts=None,
        client_keys=None,
        agent_path=None,
        **more,
    )


@asynccontextmanager
async def strangers(server: Front, count: int, source: str = "127.0.0.1") -> AsyncIterator[list[bytes]]:
    """Connections that say nothing; gives the first line that each of them read."""
    async with AsyncExitStack() as stack:
        lines = []
        for _ in range(count):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port, local_addr=(source, 0))
            stack.callback(writer.close)
            lines.append(await reader.read(4096))
        yield lines


def counted(code: SSHCode) -> Callable[[], int]:
    """How often *code* was counted from here on."""
    before = reached(code)
    return lambda: reached(code) - before


# -- what a refused client sees --------------------------------------------------------------------------


async def test_openssh_tells_its_user_why_it_is_refused(tmp_path: Path) -> None:
    async with serving(admission=strict(connections=1)) as server, strangers(server, 1):
        done = await OpenSSH(tmp_path).run(server, "true")
    assert done.status == 255
    assert TOO_MANY.encode() in done.stderr


async def test_putty_tells_its_user_why_it_is_refused(tmp_path: Path) -> None:
    async with serving(admission=strict(connections=1)) as server, strangers(server, 1):
        options = ("-batch", "-P", str(server.port), "-l", "alice", "-pw", "secret")
        done = await run(tool("plink"), *options, "127.0.0.1", "true", env={"HOME": str(tmp_path)})
    assert done.status != 0
    assert TOO_MANY.encode() in done.stderr


async def test_dropbear_tells_its_user_that_it_was_sent_away(tmp_path: Path) -> None:
    async with serving(admission=strict(connections=1)) as server, strangers(server, 1):
        options = ("-y", "-y", "-p", str(server.port))
        done = await run(tool("dbclient"), *options, "alice@127.0.0.1", "true", env={"HOME": str(tmp_path)})
    # It shows no text, and its status is 0 whatever happens before a session.
    assert b"Disconnect received" in done.stderr


async def test_a_client_that_never_stops_sending_is_cut_off_after_its_refusal() -> None:
    async with serving(admission=strict(connections=1)) as server, strangers(server, 1):
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        with pytest.raises(ConnectionError):
            async with asyncio.timeout(10):
                while True:
                    writer.write(bytes(65536))
                    await writer.drain()
        writer.transport.abort()


# -- who is refused --------------------------------------------------------------------------------------


async def test_one_source_full_of_strangers_does_not_keep_another_out() -> None:
    hits = counted(SSHCode.LIMIT_UNAUTHENTICATED_PER_ADDRESS)
    async with serving(admission=strict(unauthenticated_per_address=5)) as server:
        async with strangers(server, 20, "127.0.0.2") as lines:
            assert sum(TOO_MANY.encode() in line for line in lines) == 15
            connection = await log_in(server, "127.0.0.3")
            assert (await connection.run("echo in")).stdout == "in\n"
            connection.abort()
        assert hits() == 15
        # They have gone, so there is room again.
        await until(lambda: not server.server.connections)
        (await log_in(server, "127.0.0.2")).abort()


async def test_while_three_thousand_strangers_hold_on_another_user_logs_in_within_two_seconds() -> None:
    allow_many_descriptors()
    async with serving(admission=strict()) as server, AsyncExitStack() as stack:
        loop = asyncio.get_running_loop()
        for number in range(3000):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.bind((f"127.1.{number % 200}.1", 0))
            await loop.sock_connect(sock, ("127.0.0.1", server.port))
        began = time.monotonic()
        connection = await log_in(server, "127.0.0.3")
        assert (await connection.run("echo in")).stdout == "in\n"
        assert time.monotonic() - began < 2
        connection.abort()


async def test_a_stranger_of_the_largest_crowd_makes_room_and_is_told_so() -> None:
    async with serving(admission=strict(unauthenticated_full=2, unauthenticated_start=2)) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        async with strangers(server, 1):
            (await log_in(server, "127.1.0.1")).abort()
            async with asyncio.timeout(5):
                assert TOO_MANY.encode() in await reader.read()
        writer.close()


async def test_logged_in_users_stay_while_strangers_are_refused() -> None:
    async with serving(admission=strict(unauthenticated_full=3, unauthenticated_start=3)) as server:
        connection = await log_in(server)
        async with strangers(server, 5) as lines:
            assert sum(TOO_MANY.encode() in line for line in lines) == 2
            assert (await connection.run("echo still here")).stdout == "still here\n"
        connection.abort()


async def test_connections_of_one_address_are_limited_after_the_login_too() -> None:
    async with serving(admission=strict(connections_per_address=2)) as server:
        first, second = await log_in(server), await log_in(server)
        with pytest.raises(asyncssh.DisconnectError, match="Too many connections"):
            await log_in(server)
        first.abort()
        await until(lambda: len(server.server.connections) == 1)
        third = await log_in(server)
        second.abort()
        third.abort()


async def test_addresses_of_the_allow_list_are_not_limited() -> None:
    strictest = Admission(connections_per_address=1, unauthenticated_per_address=1, unauthenticated_full=1)
    async with serving(admission=strictest) as server, strangers(server, 5) as lines:
        assert all(line.startswith(b"SSH-2.0-") and TOO_MANY.encode() not in line for line in lines)


async def test_a_flood_of_refusals_is_two_lines_in_the_log() -> None:
    async with serving(admission=strict(connections=1)) as server, strangers(server, 41):
        pass
    lines = [(event.text, labels) for event, labels in server.log.of(SSHCode.LIMIT_CONNECTIONS)]
    assert lines[0][0] == "Connections are refused: there are too many"
    assert lines[0][1]["remoteAddr"] == "127.0.0.1"
    assert [(text, labels["count"]) for text, labels in lines[1:]] == [
        ("39 more connections were refused: there are too many", 39)
    ]
    assert any("connections " in event.text for event, _ in server.log.of(SSHCode.LIMITS_REACHED))


# -- penalties -------------------------------------------------------------------------------------------


async def fail(server: Front, source: str = "127.0.0.1") -> None:
    with pytest.raises(asyncssh.PermissionDenied):
        await log_in(server, source, "wrong")
    await until(lambda: not server.server.connections)


async def test_an_address_that_fails_again_and_again_is_refused_and_told_so(tmp_path: Path) -> None:
    hits = counted(SSHCode.LIMIT_PENALTY)
    async with serving(admission=strict()) as server:
        for _ in range(4):
            await fail(server)
        asked = len(server.backend.asked)
        done = await OpenSSH(tmp_path).run(server, "true")
        assert FAILURES.encode() in done.stderr
        assert len(server.backend.asked) == asked
        (await log_in(server, "127.0.0.2")).abort()
    assert hits() == 1
    assert SSHCode.LIMIT_PENALTY in server.log


async def test_an_address_is_let_in_again_when_its_time_has_passed() -> None:
    quick = Penalties(auth_failed=timedelta(seconds=0.3), threshold=timedelta(seconds=0.5))
    async with serving(admission=strict(penalties=quick)) as server:
        for _ in range(2):
            await fail(server)
        with pytest.raises(asyncssh.DisconnectError, match="Too many failed logins"):
            await log_in(server)
        async with asyncio.timeout(5):
            while True:
                try:
                    connection = await log_in(server)
                except asyncssh.DisconnectError:
                    continue
                break
        connection.abort()


async def test_a_login_after_a_wrong_password_on_the_same_connection_costs_nothing() -> None:
    once = Penalties(threshold=timedelta(seconds=1))
    async with serving(admission=strict(penalties=once)) as server:
        connection = await asyncssh.connect(
            "127.0.0.1",
            server.port,
            username="alice",
            known_hosts=None,
            client_keys=[asyncssh.generate_private_key("ssh-ed25519")],
            password="secret",
        )
        assert SSHCode.AUTH_FAILED in server.log
        connection.abort()
        await until(lambda: not server.server.connections)
        (await log_in(server)).abort()


async def test_an_authentication_server_that_is_away_costs_clients_nothing() -> None:
    async def away(_: AuthAttempt, __: object) -> None:
        raise AuthUnavailable(AuthCode.BACKEND_ERROR, "nobody there")

    once = Penalties(threshold=timedelta(seconds=1))
    backend = LocalBackend(on_auth=away)
    async with serving(backend, admission=strict(penalties=once)) as server:
        await fail(server)
        backend.on_auth = None
        (await log_in(server)).abort()


async def test_strangers_who_never_try_are_refused_in_the_end() -> None:
    async with serving(admission=strict()) as server:
        for _ in range(14):
            async with strangers(server, 1):
                pass
        await until(lambda: not server.server.connections)
        (await log_in(server)).abort()
        await until(lambda: not server.server.connections)
        async with strangers(server, 3):
            pass
        await until(lambda: not server.server.connections)
        with pytest.raises(asyncssh.DisconnectError, match="Too many failed logins"):
            await log_in(server)


async def test_the_time_to_log_in_is_limited_counted_and_costs_a_penalty() -> None:
    hits = counted(SSHCode.LIMIT_LOGIN_GRACE)
    once = Penalties(threshold=timedelta(seconds=10))
    async with serving(login_grace=timedelta(seconds=0.2), admission=strict(penalties=once)) as server:
        async with strangers(server, 1):
            await until(lambda: not server.server.connections)
        with pytest.raises(asyncssh.DisconnectError, match="Too many failed logins"):
            await log_in(server)
    assert hits() == 1
    assert SSHCode.LIMIT_LOGIN_GRACE in server.log


# -- limits of one connection ----------------------------------------------------------------------------


class Passwords(asyncssh.SSHClient):
    """Gives a wrong password, as often as it is asked."""

    def password_auth_requested(self) -> str:
        return "wrong"


async def test_tries_of_one_connection_are_limited_and_counted() -> None:
    hits = counted(SSHCode.LIMIT_AUTH_TRIES)
    async with serving(limits=Limits(auth_tries=3)) as server:
        with pytest.raises(asyncssh.DisconnectError):
            await asyncssh.connect(
                "127.0.0.1", server.port, username="alice", client_factory=Passwords, known_hosts=None, client_keys=None
            )
        assert len(server.backend.asked) == 3
    assert hits() == 1


async def test_how_often_a_webhook_is_asked_for_one_connection_is_limited_and_counted() -> None:
    hits = counted(SSHCode.LIMIT_AUTH_CALLS)
    keys = [asyncssh.generate_private_key("ssh-ed25519") for _ in range(5)]
    async with serving(limits=Limits(auth_calls=2)) as server:
        with pytest.raises(asyncssh.DisconnectError):
            await asyncssh.connect(
                "127.0.0.1", server.port, username="alice", known_hosts=None, client_keys=keys, password="secret"
            )
        assert len(server.backend.asked) == 2
    assert hits() == 1


async def test_open_sessions_of_one_connection_are_limited_and_counted() -> None:
    hits = counted(SSHCode.LIMIT_SESSIONS)
    async with serving(limits=Limits(sessions=2)) as server:
        connection = await log_in(server)
        programs = [await connection.create_process("cat") for _ in range(2)]
        for _ in range(3):
            with pytest.raises(asyncssh.ChannelOpenError, match="Too many sessions"):
                await connection.run("true")
        programs[0].stdin.write_eof()
        await programs[0].wait()
        assert (await connection.run("echo again")).stdout == "again\n"
        connection.abort()
    assert hits() == 3
    assert len(server.log.of(SSHCode.LIMIT_SESSIONS)) == 1


async def test_variables_of_a_session_are_limited_and_counted() -> None:
    hits = counted(SSHCode.LIMIT_ENV)
    async with serving(limits=Limits(env_count=2)) as server:
        connection = await log_in(server)
        done = await connection.run("echo $A$B$C", env={"A": "1", "B": "2", "C": "3"})
        assert done.stdout == "12\n"
        connection.abort()
    assert hits() == 1


# -- hosts that are gone ---------------------------------------------------------------------------------


@pytest.mark.root
async def test_a_client_whose_host_has_vanished_is_noticed_whether_it_was_sent_something_or_not() -> None:
    hits = counted(SSHCode.LIMIT_UNREACHABLE)
    async with serving(limits=Limits(unreachable=timedelta(seconds=3))) as server, AsyncExitStack() as stack:
        silent, busy = await log_in(server), await log_in(server)
        await silent.create_process("sleep 100")
        program = await busy.create_process("while :; do echo tick; sleep 0.05; done")
        await program.stdout.readline()
        for connection in (silent, busy):
            stack.enter_context(dropped(server.port, connection.get_extra_info("sockname")[1]))
        began = time.monotonic()
        await until(lambda: not server.server.connections and server.backend.open_scopes == 0, 12)
        assert time.monotonic() - began > 1.5
        for connection in (silent, busy):
            connection.abort()
    assert hits() >= 1


async def test_a_client_that_sleeps_on_a_living_host_is_left_in_peace() -> None:
    async with serving(limits=Limits(unreachable=timedelta(seconds=1))) as server:
        connection = await log_in(server)
        program = await connection.create_process("cat /dev/zero", encoding=None, window=64 * 1024 * 1024)
        await program.stdout.readexactly(1024)
        connection._transport.pause_reading()
        # The absence of an event has no condition to wait for.
        await asyncio.sleep(3)
        assert len(server.server.connections) == 1
        connection.abort()
    assert SSHCode.LIMIT_UNREACHABLE not in server.log


# -- the log ---------------------------------------------------------------------------------------------


async def test_a_rejected_login_is_a_failed_handshake_as_well() -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("no container")

    async with serving(LocalBackend(on_login=broken)) as server:
        connection = await log_in(server)
        await connection.run("true")
        connection.abort()
        await until(lambda: not server.server.connections)
    codes = [(level, event.code) for level, event, _ in server.log.lines]
    rejected = codes.index((logging.ERROR, SSHCode.BACKEND_REJECTED_HANDSHAKE))
    assert codes.index((logging.INFO, SSHCode.HANDSHAKE_FAILED)) > rejected
    assert len(server.backend.failures) == 1
