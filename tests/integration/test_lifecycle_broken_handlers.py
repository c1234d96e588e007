"""A fault in any handler costs one session, or one connection, and nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncssh
import pytest

from containerssh.core.handlers import AuthMethod, Prompts
from containerssh.core.metadata import AuthAttempt, Login
from tests.support.local_backend import LocalBackend
from tests.support.raising import Fault, RaisingServer
from tests.support.ssh_front import Front, serving
from tests.support.waiting import until

Connection = asyncssh.SSHClientConnection
GONE = (asyncssh.Error, OSError)

CONNECTION_PLACES = [
    "accept", "accept's end", "auth_methods", "authenticate_password", "authenticate_public_key",
    "authenticate_interactive", "authenticated", "handshake_failed", "login", "login's end",
]  # fmt: skip
SESSION_PLACES = [
    "session", "session's end", "set_env", "request_pty", "run_shell", "run_command", "run_subsystem", "send_signal",
    "send_break", "resize", "connect_tcp", "connect_unix",
]  # fmt: skip
ERRORS = [RuntimeError("raised on purpose"), TimeoutError("raised on purpose")]


async def interactive(attempt: AuthAttempt, prompts: Prompts) -> Login:
    await prompts.ask("", [("Question: ", False)])
    return Login.of(attempt, attempt.username)


class Neighbour:
    """A session whose program answers all the time."""

    def __init__(self, process: asyncssh.SSHClientProcess[bytes]) -> None:
        self._process = process

    async def answers(self) -> bool:
        self._process.stdin.write(b"are you there\n")
        async with asyncio.timeout(5):
            return await self._process.stdout.readline() == b"are you there\n"


async def connect(server: Front, **options: Any) -> Connection:
    settings: dict[str, Any] = {"username": "alice", "password": "secret", "client_keys": None, **options}
    return await asyncssh.connect(
        "127.0.0.1", server.port, known_hosts=None, config=[], agent_path=None, login_timeout=10, **settings
    )


async def alone(server: Front) -> None:
    """Wait until there is one connection with one session."""
    await until(lambda: server.backend.open_scopes == 3 and len(server.server.connections) == 1)


@asynccontextmanager
async def faulty() -> AsyncIterator[tuple[Front, Fault, list[dict[str, Any]]]]:
    """A server whose handlers raise on demand; what the loop's exception handler was told."""
    backend = LocalBackend(methods=frozenset(AuthMethod) - {AuthMethod.GSSAPI}, subsystems={"echo": "cat"})
    backend.on_interactive = interactive
    fault, unseen = Fault(), list[dict[str, Any]]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unseen.append(context))
    async with serving(backend, around=lambda inner: RaisingServer(inner, fault)) as server:
        yield server, fault, unseen


async def provoke(server: Front, connection: Connection | None, place: str) -> None:
    """Do, as a client, what leads the server to *place*; *connection* is used unless it is about another one."""
    if place in CONNECTION_PLACES:
        options: dict[str, Any] = {}
        if place == "authenticate_public_key":
            options = {"client_keys": [asyncssh.generate_private_key("ssh-ed25519")], "password": None}
        if place == "authenticate_interactive":
            options = {"preferred_auth": "keyboard-interactive"}
        if place == "handshake_failed":
            options = {"password": "wrong"}
        with suppress(*GONE):
            async with await connect(server, **options) as other:
                with suppress(*GONE):
                    await other.run("true", timeout=5)
        return
    assert connection is not None
    actions: dict[str, Callable[[], Awaitable[object]]] = {
        "set_env": lambda: connection.run("true", env={"A": "b"}),
        "request_pty": lambda: connection.run("true", term_type="xterm"),
        "run_shell": lambda: connection.run(None, input="exit\n"),
        "run_subsystem": lambda: connection.run(subsystem="echo", input=""),
        "connect_tcp": lambda: connection.open_connection("localhost", 1),
        "connect_unix": lambda: connection.open_unix_connection("/nowhere"),
        "send_signal": lambda: _while_running(connection, lambda process: process.send_signal("USR1")),
        "send_break": lambda: _while_running(connection, lambda process: process.send_break(100)),
        "resize": lambda: _while_running(connection, lambda process: process.change_terminal_size(99, 33)),
    }
    with suppress(*GONE):
        async with asyncio.timeout(10):
            await actions.get(place, lambda: connection.run("true"))()


async def _while_running(connection: Connection, action: Callable[[asyncssh.SSHClientProcess[bytes]], None]) -> None:
    async with connection.create_process("sleep 0.3", term_type="xterm", encoding=None) as process:
        action(process)
        await process.wait_closed()


@pytest.mark.parametrize("error", ERRORS, ids=["fault", "timeout"])
async def test_a_fault_in_any_handler_of_a_connection_costs_that_connection(error: Exception) -> None:
    async with faulty() as (server, fault, unseen), await connect(server) as connection:
        async with connection.create_process("cat", encoding=None) as process:
            neighbour = Neighbour(process)
            for place in CONNECTION_PLACES:
                logged = len(server.log.errors)
                fault.arm(place, error)
                await provoke(server, None, place)
                assert await neighbour.answers(), place
                await alone(server)
                assert fault.happened, place
                assert len(server.log.errors) > logged, place
                async with await connect(server) as another:
                    assert (await another.run("echo in")).stdout == "in\n"
                await alone(server)
        assert not unseen


@pytest.mark.parametrize("error", ERRORS, ids=["fault", "timeout"])
async def test_a_fault_in_any_handler_of_a_session_costs_at_most_that_session(error: Exception) -> None:
    async with faulty() as (server, fault, unseen), await connect(server) as connection:
        async with connection.create_process("cat", encoding=None) as process:
            neighbour = Neighbour(process)
            for place in SESSION_PLACES:
                fault.arm(place, error)
                await provoke(server, connection, place)
                assert fault.happened, place
                assert await neighbour.answers(), place
                assert (await connection.run("echo in")).stdout == "in\n", place
                await alone(server)
        assert not unseen


@pytest.mark.parametrize("place", ["terminate", "terminate of the login"])
async def test_a_fault_in_a_stop_does_not_keep_the_server_from_stopping(place: str) -> None:
    async with faulty() as (server, fault, unseen):
        connections = [await connect(server) for _ in range(2)]
        for connection in connections:
            await connection.create_process("cat", encoding=None)
        fault.arm(place, RuntimeError("raised on purpose"))
        # The end of the scope stops the server.
    assert fault.happened
    assert server.backend.open_scopes == 0
    assert server.backend.requests.count("terminate") == (1 if place == "terminate" else 2)
    assert not unseen
    for connection in connections:
        connection.abort()
        await connection.wait_closed()
