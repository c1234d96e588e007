"""The security layer: what the section and the credential allow (``ssh.md`` section 10)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from containerssh.config.security import SecurityConfig
from containerssh.core.errors import Rejected
from containerssh.core.handlers import ConnectionHandler, SessionChannel, SessionHandler
from containerssh.core.metadata import Restrictions
from containerssh.core.requests import PtyRequest, WindowSize
from containerssh.layers.security import Policy, SecurityConnection

PTY = PtyRequest("xterm", WindowSize(80, 24))


class Recorder(SessionHandler):
    """A session that does everything and writes down what it was asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, ...]] = []

    async def set_env(self, name: str, value: str) -> None:
        self.calls.append(("env", name, value))

    async def request_pty(self, request: PtyRequest) -> None:
        self.calls.append(("pty", request.term))

    async def run_shell(self) -> None:
        self.calls.append(("shell",))

    async def run_command(self, command: str) -> None:
        self.calls.append(("exec", command))

    def subsystem_command(self, name: str) -> str:
        return {"sftp": "/usr/lib/sftp-server"}.get(name, name)

    async def run_subsystem(self, name: str) -> None:
        self.calls.append(("subsystem", name))

    async def send_signal(self, name: str) -> None:
        self.calls.append(("signal", name))


class Sessions(ConnectionHandler):
    def __init__(self) -> None:
        self.recorder = Recorder()

    @asynccontextmanager
    async def session(self, channel: SessionChannel) -> AsyncIterator[SessionHandler]:
        yield self.recorder


def secured(
    section: dict[str, Any], restrictions: Restrictions = Restrictions()
) -> tuple[SecurityConnection, Recorder]:
    sessions = Sessions()
    return SecurityConnection(sessions, Policy(SecurityConfig(**section), restrictions)), sessions.recorder


CHANNEL: Any = None
"""The layer hands the channel on without looking at it."""

REQUESTS = {
    "env": ("set_env", "NAME", "value"),
    "tty": ("request_pty", PTY),
    "shell": ("run_shell",),
    "command": ("run_command", "uptime"),
    "subsystem": ("run_subsystem", "sftp"),
    "signal": ("send_signal", "TERM"),
}


async def passes(section: dict[str, Any], kind: str, restrictions: Restrictions = Restrictions()) -> bool:
    connection, recorder = secured(section, restrictions)
    method, *arguments = REQUESTS[kind]
    async with connection.session(CHANNEL) as session:
        try:
            await getattr(session, str(method))(*arguments)
        except Rejected:
            assert recorder.calls == []
            return False
    assert len(recorder.calls) == 1
    return True


@pytest.mark.parametrize("kind", REQUESTS)
@pytest.mark.parametrize(
    ("mode", "default", "wanted"),
    [
        ("", "", True),
        ("enable", "disable", True),
        ("disable", "enable", False),
        ("", "disable", False),
        ("filter", "", False),
    ],
)
async def test_the_own_mode_decides_and_else_the_default_mode(kind: str, mode: str, default: str, wanted: bool) -> None:
    assert await passes({"defaultMode": default, kind: {"mode": mode}}, kind) is wanted


@pytest.mark.parametrize(
    ("kind", "name"), [("env", "NAME"), ("command", "uptime"), ("subsystem", "sftp"), ("signal", "TERM")]
)
async def test_filter_lets_exactly_the_listed_names_pass(kind: str, name: str) -> None:
    assert await passes({kind: {"mode": "filter", "allow": [name]}}, kind)
    assert not await passes({kind: {"mode": "filter", "allow": [name.lower() + " ", name[:-1]]}}, kind)


@pytest.mark.parametrize(("kind", "name"), [("env", "NAME"), ("subsystem", "sftp"), ("signal", "TERM")])
async def test_enable_lets_all_but_the_denied_names_pass(kind: str, name: str) -> None:
    assert not await passes({kind: {"mode": "enable", "deny": [name]}}, kind)
    assert await passes({kind: {"mode": "enable", "deny": [name + "x"]}}, kind)


async def test_signals_follow_their_own_mode_and_not_the_shells() -> None:
    assert await passes({"shell": {"mode": "disable"}}, "signal")


async def test_a_blank_command_is_the_shell_and_needs_its_mode_too() -> None:
    cases: list[tuple[dict[str, Any], bool]] = [
        ({}, True),
        ({"shell": {"mode": "disable"}}, False),
        ({"command": {"mode": "disable"}}, False),
        ({"shell": {"mode": "disable"}, "forceCommand": "menu"}, True),
    ]
    for section, wanted in cases:
        connection, recorder = secured(section)
        async with connection.session(CHANNEL) as session:
            with suppress(Rejected):
                await session.run_command(" \t")
        assert bool(recorder.calls) is wanted


async def test_a_credential_without_pty_gets_none() -> None:
    assert not await passes({}, "tty", Restrictions(pty=False))
    assert await passes({}, "shell", Restrictions(pty=False))


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        (("run_command", "rm -rf x"), "rm -rf x"),
        (("run_subsystem", "sftp"), "/usr/lib/sftp-server"),
        (("run_subsystem", "own"), "own"),
        (("run_shell",), None),
    ],
)
async def test_a_forced_command_runs_and_reads_what_was_asked_for(request_: tuple[str, ...], told: str | None) -> None:
    connection, recorder = secured({"forceCommand": "menu"})
    async with connection.session(CHANNEL) as session:
        await getattr(session, request_[0])(*request_[1:])
    told_calls = [("env", "SSH_ORIGINAL_COMMAND", told)] if told else []
    assert recorder.calls == [*told_calls, ("exec", "menu")]


async def test_the_administrators_forced_command_beats_the_keys() -> None:
    connection, recorder = secured({"forceCommand": "menu"}, Restrictions(force_command="backup"))
    async with connection.session(CHANNEL) as session:
        await session.run_shell()
    assert recorder.calls == [("exec", "menu")]


async def test_a_client_cannot_set_what_a_forced_command_reads() -> None:
    connection, recorder = secured({}, Restrictions(force_command="menu"))
    async with connection.session(CHANNEL) as session:
        with pytest.raises(Rejected):
            await session.set_env("SSH_ORIGINAL_COMMAND", "evil")
        await session.run_shell()
    assert recorder.calls == [("exec", "menu")]


BY_KEY = Restrictions(force_command="menu")


@pytest.mark.parametrize(
    "name", ["BASH_ENV", "LD_PRELOAD", "PATH", "PYTHONPATH", "GIT_SSH_COMMAND", "LANG2", "lc_all", ""]
)
@pytest.mark.parametrize(("section", "key"), [({"forceCommand": "menu"}, Restrictions()), ({}, BY_KEY)])
async def test_a_client_cannot_bring_another_command_into_a_forced_one(
    name: str, section: dict[str, Any], key: Restrictions
) -> None:
    connection, recorder = secured(section, key)
    async with connection.session(CHANNEL) as session:
        with pytest.raises(Rejected):
            await session.set_env(name, "$(evil)")
        await session.set_env("LC_ALL", "C")
    assert recorder.calls == [("env", "LC_ALL", "C")]


@pytest.mark.parametrize("command", [{"mode": "filter", "allow": ["backup"]}, {"mode": "disable"}])
@pytest.mark.parametrize("name", ["BASH_ENV", "LD_PRELOAD", "PATH", "BASH_FUNC_tar%%"])
async def test_a_client_cannot_bring_another_command_into_one_that_is_allowed(
    name: str, command: dict[str, Any]
) -> None:
    connection, recorder = secured({"shell": {"mode": "disable"}, "command": command})
    async with connection.session(CHANNEL) as session:
        with pytest.raises(Rejected):
            await session.set_env(name, "$(evil)")
        await session.set_env("LC_ALL", "C")
    assert recorder.calls == [("env", "LC_ALL", "C")]


@pytest.mark.parametrize(
    "section",
    [
        {},
        {"shell": {"mode": "disable"}},
        {"command": {"mode": "filter", "allow": ["backup"]}},
        {"shell": {"mode": "disable"}, "command": {"mode": "disable"}, "env": {"mode": "enable"}},
        {"shell": {"mode": "disable"}, "command": {"mode": "disable"}, "env": {"mode": "filter", "allow": ["TOPIC"]}},
    ],
)
async def test_a_client_that_may_run_anything_or_is_allowed_a_variable_sets_it(section: dict[str, Any]) -> None:
    connection, recorder = secured(section)
    async with connection.session(CHANNEL) as session:
        await session.set_env("TOPIC", "x")
    assert recorder.calls == [("env", "TOPIC", "x")]


@pytest.mark.parametrize("section", [{"env": {"mode": "enable"}}, {"defaultMode": "enable"}])
async def test_the_administrator_can_let_variables_into_a_forced_command(section: dict[str, Any]) -> None:
    connection, recorder = secured(section, BY_KEY)
    async with connection.session(CHANNEL) as session:
        await session.set_env("TOPIC", "x")
    assert recorder.calls == [("env", "TOPIC", "x")]


async def test_the_session_limit_counts_open_sessions_only() -> None:
    connection, _ = secured({"maxSessions": 1})
    for _ in range(3):
        async with connection.session(CHANNEL):
            with pytest.raises(Rejected):
                async with connection.session(CHANNEL):
                    pass


async def test_a_session_limit_of_none_means_no_session() -> None:
    connection, _ = secured({"maxSessions": 0})
    with pytest.raises(Rejected):
        async with connection.session(CHANNEL):
            pass


@pytest.mark.parametrize(
    ("section", "restrictions", "by"),
    [
        ({}, Restrictions(), "security.tty.mode is not set"),
        ({"tty": {"mode": "disable"}, "defaultMode": "enable"}, Restrictions(), "security.tty.mode: disable"),
        ({"defaultMode": "disable"}, Restrictions(), "security.defaultMode: disable"),
        ({"tty": {"mode": "enable"}}, Restrictions(pty=False), "the credential's options: no-pty"),
    ],
)
def test_a_verdict_names_what_says_so(section: dict[str, Any], restrictions: Restrictions, by: str) -> None:
    verdict = Policy(SecurityConfig(**section), restrictions).allows_pty()
    assert (verdict.by, verdict.allowed) == (by, by == "security.tty.mode is not set")


async def test_a_refusal_names_its_rule() -> None:
    connection, _ = secured({"env": {"mode": "enable", "deny": ["NAME"]}})
    async with connection.session(CHANNEL) as session:
        with pytest.raises(Rejected) as caught:
            await session.set_env("NAME", "value")
    assert caught.value.labels == {"name": "NAME", "rule": "security.env.deny"}


@pytest.mark.parametrize(
    ("forwarding", "allowed"),
    [
        ({}, False),
        ({"forwardingMode": "filter"}, False),
        ({"forwardingMode": "filter", "forwardingAllow": ["db:5432"]}, True),
        ({"forwardingMode": "enable"}, True),
    ],
)
def test_the_verdict_on_forwards_says_whether_any_may_pass(forwarding: dict[str, Any], allowed: bool) -> None:
    config = SecurityConfig.model_validate({"forwarding": forwarding})
    assert bool(Policy(config).allows_forwards("forwarding")) is allowed
    assert not Policy(config, Restrictions(port_forwarding=False)).allows_forwards("forwarding")
