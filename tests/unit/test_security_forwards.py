"""Forwards and the security layer: what its section and a credential allow, in the file and for one login."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from containerssh.config.app import AppConfig
from containerssh.config.check import check
from containerssh.config.findings import ConfigErrors
from containerssh.config.merge import merge_answer, overlay
from containerssh.config.security import SecurityConfig
from containerssh.core.codes import BackendCode, SecurityCode
from containerssh.core.errors import Rejected
from containerssh.core.forwarding import ANY_ADDRESS, AddressRules
from containerssh.core.handlers import ConnectionHandler, Incoming, Listener, SessionChannel, SessionHandler
from containerssh.core.metadata import Restrictions
from containerssh.core.requests import Origin, X11Request
from containerssh.core.streams import ByteStream
from containerssh.layers.security import Policy, SecurityConnection

X11 = X11Request(single_connection=False, protocol="MIT-MAGIC-COOKIE-1", cookie="00" * 16, screen=0)
CHANNEL: Any = None
"""The layer hands the channel and the streams on without looking at them."""
STREAM: ByteStream = CHANNEL


class Port(Listener):
    def __init__(self, port: int) -> None:
        self.port = port
        self.closed = False

    async def close(self) -> None:
        self.closed = True


class Everything(ConnectionHandler):
    """A login that forwards whatever it is asked for, and writes it down."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.addresses = ANY_ADDRESS
        self.listeners: list[Port] = []

    @asynccontextmanager
    async def session(self, channel: SessionChannel) -> AsyncIterator[SessionHandler]:
        yield EverySession(self.calls)

    async def connect_tcp(self, host: str, port: int, addresses: AddressRules = ANY_ADDRESS) -> ByteStream:
        self.calls.append(("tcp", host, port))
        self.addresses = addresses
        return STREAM

    async def connect_unix(self, path: str) -> ByteStream:
        self.calls.append(("unix", path))
        return STREAM

    async def listen_tcp(self, host: str, port: int, incoming: Incoming) -> Listener:
        self.calls.append(("listen", host, port))
        self.listeners.append(Port(port or 40000))
        return self.listeners[-1]

    async def listen_unix(self, path: str, incoming: Incoming) -> Listener:
        self.calls.append(("listen", path))
        return Port(0)


class EverySession(SessionHandler):
    def __init__(self, calls: list[tuple[object, ...]]) -> None:
        self.calls = calls

    async def request_x11(self, request: X11Request) -> None:
        self.calls.append(("x11",))

    async def request_agent(self) -> None:
        self.calls.append(("agent",))


async def incoming(origin: Origin) -> ByteStream:
    return STREAM


def secured(
    forwarding: dict[str, Any], restrictions: Restrictions = Restrictions()
) -> tuple[SecurityConnection, Everything]:
    everything = Everything()
    config = SecurityConfig.model_validate({"forwarding": forwarding})
    return SecurityConnection(everything, Policy(config, restrictions)), everything


async def ask(connection: SecurityConnection, kind: str) -> None:
    match kind:
        case "forwarding":
            await connection.connect_tcp("db", 5432)
        case "reverseForwarding":
            await connection.listen_tcp("localhost", 8080, incoming)
        case "socketForwarding":
            await connection.connect_unix("/run/app.sock")
        case "socketListen":
            await connection.listen_unix("/run/app.sock", incoming)
        case _:
            async with connection.session(CHANNEL) as session:
                await (session.request_x11(X11) if kind == "x11Forwarding" else session.request_agent())


LISTED = {
    "forwarding": "db:5432",
    "reverseForwarding": "localhost:8080",
    "socketForwarding": "/run/*.sock",
    "socketListen": "/run/*.sock",
}
CODES = {
    "forwarding": SecurityCode.FORWARDING_REJECTED,
    "reverseForwarding": SecurityCode.REVERSE_FORWARDING_REJECTED,
    "socketForwarding": SecurityCode.FORWARDING_REJECTED,
    "socketListen": SecurityCode.REVERSE_FORWARDING_REJECTED,
    "x11Forwarding": SecurityCode.X11_FORWARDING_REJECTED,
    "agentForwarding": SecurityCode.AGENT_FORWARDING_REJECTED,
}


@pytest.mark.parametrize("kind", CODES)
async def test_each_kind_of_forward_has_a_mode_of_its_own_that_is_off_but_for_ssh_agents(kind: str) -> None:
    unsaid = kind == "agentForwarding"
    for mode, passes in [(None, unsaid), ("disable", False), ("filter", False), ("enable", True)]:
        connection, everything = secured({f"{kind}Mode": mode})
        if passes:
            await ask(connection, kind)
            assert len(everything.calls) == 1
            continue
        with pytest.raises(Rejected) as refused:
            await ask(connection, kind)
        assert refused.value.code is CODES[kind]
        assert not everything.calls


@pytest.mark.parametrize("kind", sorted(CODES.keys() - {"agentForwarding"}))
async def test_forwards_do_not_follow_the_default_mode(kind: str) -> None:
    connection = SecurityConnection(Everything(), Policy(SecurityConfig.model_validate({"defaultMode": "enable"})))
    with pytest.raises(Rejected):
        await ask(connection, kind)


@pytest.mark.parametrize("default", ["", "enable", "filter", "disable"])
async def test_ssh_agents_follow_the_default_mode_unless_they_have_their_own(default: str) -> None:
    for own in ("", "enable", "disable"):
        section = {"defaultMode": default, "forwarding": {"agentForwardingMode": own}}
        everything = Everything()
        connection = SecurityConnection(everything, Policy(SecurityConfig.model_validate(section)))
        if (own or default or "enable") == "enable":
            await ask(connection, "agentForwarding")
            assert everything.calls == [("agent",)]
            continue
        with pytest.raises(Rejected) as refused:
            await ask(connection, "agentForwarding")
        assert refused.value.code is SecurityCode.AGENT_FORWARDING_REJECTED
        assert not everything.calls


@pytest.mark.parametrize("kind", LISTED)
async def test_a_list_filters_and_a_denied_one_is_denied_in_each_mode(kind: str) -> None:
    allow, deny = {f"{kind}Allow": [LISTED[kind]]}, {f"{kind}Deny": [LISTED[kind]]}
    connection, everything = secured({f"{kind}Mode": "filter", **allow})
    await ask(connection, kind)
    assert len(everything.calls) == 1
    for refusing in ({f"{kind}Mode": "filter", **allow, **deny}, {f"{kind}Mode": "enable", **deny}):
        connection, everything = secured(refusing)
        with pytest.raises(Rejected):
            await ask(connection, kind)
        assert not everything.calls


@pytest.mark.parametrize("kind", CODES)
async def test_a_credential_takes_away_what_the_section_enables(kind: str) -> None:
    nothing = {
        "x11Forwarding": Restrictions(x11_forwarding=False),
        "agentForwarding": Restrictions(agent_forwarding=False),
    }
    connection, everything = secured({f"{kind}Mode": "enable"}, nothing.get(kind, Restrictions(port_forwarding=False)))
    with pytest.raises(Rejected):
        await ask(connection, kind)
    assert not everything.calls


async def test_the_agent_is_told_which_addresses_a_name_may_resolve_to() -> None:
    connection, everything = secured(
        {"forwardingMode": "filter", "forwardingAllow": ["10.0.0.0/8:22"], "forwardingDeny": ["10.9.0.0/16"]}
    )
    await connection.connect_tcp("some.name", 22)
    assert everything.addresses.permits(ipaddress.ip_address("10.1.1.1"))
    assert not everything.addresses.permits(ipaddress.ip_address("10.9.1.1"))
    assert not everything.addresses.permits(ipaddress.ip_address("127.0.0.1"))
    with pytest.raises(Rejected):
        await connection.connect_tcp("10.9.1.1", 22)
    # What a layer further out has said holds as well.
    outer = AddressRules((ipaddress.ip_network("10.1.0.0/16"), ipaddress.ip_network("11.0.0.0/8")))
    await connection.connect_tcp("some.name", 22, outer)
    assert everything.addresses.allowed == (ipaddress.ip_network("10.1.0.0/16"),)


async def test_a_port_that_was_chosen_and_is_denied_is_not_listened_on() -> None:
    connection, everything = secured({"reverseForwardingMode": "enable", "reverseForwardingDeny": ["*:40000"]})
    with pytest.raises(Rejected):
        await connection.listen_tcp("localhost", 0, incoming)
    assert everything.listeners[0].closed
    assert (await connection.listen_tcp("localhost", 40001, incoming)).port == 40001


async def test_a_refusal_keeps_the_log_line_short_and_tells_the_client_nothing() -> None:
    connection, _ = secured({})
    with pytest.raises(Rejected) as refused:
        await connection.connect_tcp("x" * 100_000, 1)
    assert len(str(refused.value.event().labels)) < 400
    assert refused.value.user_message == "Forwarding is rejected"


def test_a_cookie_is_in_no_representation() -> None:
    assert X11.cookie not in repr(X11)


MISTAKES = {
    "a mode": ({"forwardingMode": "enabled"}, "forwardingMode"),
    "a mode in capitals": ({"agentForwardingMode": "Enable"}, "agentForwardingMode"),
    "the manual's word": ({"x11ForwardingMode": "deny"}, "'deny' is written disable"),
    "a port": ({"forwardingAllow": ["db:htpp"]}, "forwardingAllow"),
    "a network": ({"forwardingDeny": ["10.0.0.1/8"]}, "forwardingDeny"),
    "wildcards in an address": ({"reverseForwardingAllow": ["10.0.*:80"]}, "reverseForwardingAllow"),
    "a path": ({"socketForwardingAllow": ["run/x"]}, "socketForwardingAllow"),
    "a path with dots": ({"socketListenDeny": ["/run/../x"]}, "socketListenDeny"),
    "too many": ({"forwardingAllow": ["db:1"] * 257}, "forwardingAllow"),
    "a key": ({"forwardAllow": []}, "forwardAllow"),
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_a_mistake_about_forwards_is_an_error_in_the_file(kind: str, tmp_path: Path) -> None:
    forwarding, told = MISTAKES[kind]
    found = check(security_file(tmp_path, {"forwarding": forwarding}))
    errors = [str(finding) for finding in found if finding.severity == "error"]
    assert any(told in error for error in errors)


@pytest.mark.parametrize("merge", [merge_answer, overlay])
@pytest.mark.parametrize("kind", MISTAKES)
def test_a_mistake_about_forwards_refuses_the_login_that_it_is_for(kind: str, merge: Any) -> None:
    forwarding, told = MISTAKES[kind]
    with pytest.raises(ConfigErrors, match=told) as refused:
        merge(AppConfig(), {"security": {"forwarding": forwarding}})
    assert refused.value.code is BackendCode.CONFIG_ERROR


def security_file(folder: Path, section: dict[str, Any]) -> Path:
    path = folder / "config.json"
    auth = {"password": {"method": "webhook", "webhook": {"url": "https://127.0.0.1:9"}}}
    path.write_text(json.dumps({"auth": auth, "security": section}))
    return path


ADVICE: dict[str, tuple[dict[str, Any], str]] = {
    "a filter without a list": ({"forwarding": {"forwardingMode": "filter"}}, "forwarding.forwardingMode"),
    "a filter without paths": ({"forwarding": {"socketListenMode": "filter"}}, "forwarding.socketListenMode"),
    "a list without a filter": (
        {"forwarding": {"reverseForwardingAllow": ["localhost"]}},
        "forwarding.reverseForwardingAllow",
    ),
    "a deny list of what is off": (
        {"forwarding": {"socketForwardingDeny": ["/run/x"]}},
        "forwarding.socketForwardingDeny",
    ),
    "a denied name": (
        {"forwarding": {"forwardingMode": "enable", "forwardingDeny": ["*:25", "db.internal"]}},
        "forwarding.forwardingDeny.1",
    ),
    "an ssh-agent to filter": ({"forwarding": {"agentForwardingMode": "filter"}}, "forwarding.agentForwardingMode"),
    "X11": ({"forwarding": {"x11ForwardingMode": "enable"}}, "forwarding.x11ForwardingMode"),
    "nothing to filter": ({"forwarding": {"x11ForwardingMode": "filter"}}, "forwarding.x11ForwardingMode"),
    "forwards beside a forced command": (
        {"forceCommand": "menu", "forwarding": {"forwardingMode": "enable"}},
        "forwarding.forwardingMode",
    ),
    "commands without a list": ({"command": {"mode": "filter"}}, "command.mode"),
    "variables without a list": ({"env": {"mode": "filter"}}, "env.mode"),
    "a filtered shell": ({"shell": {"mode": "filter"}}, "shell.mode"),
}


@pytest.mark.parametrize("kind", ADVICE)
def test_what_is_hardly_meant_in_this_section_is_remarked_upon(kind: str, tmp_path: Path) -> None:
    section, path = ADVICE[kind]
    assert f"security.{path}" in [
        finding.path for finding in check(security_file(tmp_path, section)) if finding.severity != "error"
    ]


def test_a_section_without_oddities_is_not_remarked_upon(tmp_path: Path) -> None:
    forwarding = {
        "forwardingMode": "filter",
        "forwardingAllow": ["db.internal:5432", "10.0.0.0/8"],
        "forwardingDeny": ["*:25", "10.0.0.1"],
    }
    section = {"forwarding": forwarding, "env": {"mode": "filter", "allow": ["LANG"]}}
    assert not [finding for finding in check(security_file(tmp_path, section)) if finding.severity != "error"]
