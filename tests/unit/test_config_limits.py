"""``ssh.limits`` and ``ssh.proxyProtocol``."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from containerssh.config.app import AppConfig
from containerssh.config.check import check
from containerssh.config.ssh import LimitsConfig, ProxyProtocolConfig, SSHConfig
from containerssh.core.codes import SSHCode
from containerssh.core.instance import Instance
from containerssh.settings import admission, connection_limits, server_options
from containerssh.ssh.options import Admission, Limits, ServerOptions
from tests.support.ssh_front import host_key

GOOD = "auth: {password: {method: webhook, webhook: {url: 'http://127.0.0.1:9'}}}\n"


def limits(**keys: Any) -> LimitsConfig:
    return LimitsConfig.model_validate(keys)


def problems(section: LimitsConfig | ProxyProtocolConfig) -> list[str]:
    return [problem.path for problem in section.problems()]


def test_the_defaults_of_the_file_are_those_of_the_server() -> None:
    assert connection_limits(SSHConfig()) == Limits()
    settled = admission(LimitsConfig())
    assert tuple(settled.allow) == Admission().allow
    assert replace(settled, allow=Admission().allow) == Admission()
    assert problems(LimitsConfig()) == []
    assert problems(ProxyProtocolConfig()) == []


def test_zero_turns_a_limit_off() -> None:
    off = limits(envCount=0, envBytes=0, authRequests=0, authCalls=0, connections=0, rekeys=0, unreachable="0s")
    assert problems(off) == []
    settled = connection_limits(SSHConfig.model_validate({"limits": off.model_dump(by_alias=True)}))
    assert min(settled.env_count, settled.env_bytes, settled.auth_requests, settled.auth_calls, settled.rekeys) > 2**60
    assert settled.unreachable == timedelta(0)


def test_no_limit_takes_away_tries_that_were_granted() -> None:
    settled = connection_limits(SSHConfig.model_validate({"maxAuthTries": 500}))
    assert (settled.auth_tries, settled.auth_requests, settled.auth_calls) == (500, 1000, 500)


def test_penalties_and_the_allow_list_can_be_turned_off() -> None:
    settled = admission(limits(penalties={"enable": False}, allow=[]))
    assert settled.penalties is None
    assert list(settled.allow) == []


def test_the_whole_section_reaches_the_server() -> None:
    keys = {
        "listen": "127.0.0.1:0",
        "hostkeys": [host_key("ssh-ed25519")],
        "limits": {"connections": 7, "penalties": {"max": "1h"}, "prefixIPv4": 16},
        "proxyProtocol": {"trusted": ["192.0.2.0/24", "2001:db8::1"], "timeout": "1s"},
    }
    config = AppConfig.model_validate({"ssh": keys})
    options: ServerOptions = server_options(config, Instance("x", Path("/nonexistent"), Path("/nonexistent")))
    assert (options.admission.connections, options.admission.prefix_ipv4) == (7, 16)
    assert options.admission.penalties is not None
    assert options.admission.penalties.longest == timedelta(hours=1)
    assert options.proxies == [ip_network("192.0.2.0/24"), ip_network("2001:db8::1/128")]
    assert options.proxy_header_within == timedelta(seconds=1)


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("192.0.2.1", "192.0.2.1/32"),
        ("192.0.2.0/24", "192.0.2.0/24"),
        ("2001:DB8::/32", "2001:db8::/32"),
        ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
        ("::/0", "::/0"),
    ],
)
def test_networks_are_read(text: str, network: str) -> None:
    assert limits(allow=[text]).allow == (network,)


@pytest.mark.parametrize("text", ["", "x", "192.0.2.1/24", "192.0.2.0/33", "::ffff:0.0.0.0/95/1", "localhost"])
def test_what_is_no_network_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="is not a network"):
        limits(allow=[text])


@given(st.ip_addresses(), st.integers(0, 128))
def test_every_network_that_is_read_is_one_afterwards(address: Any, length: int) -> None:
    network = ip_network(f"{address}/{min(length, address.max_prefixlen)}".split("%")[0], strict=False)
    (read,) = limits(allow=[str(network)]).allow
    ip_network(read)
    assert limits(allow=[read]).allow == (read,)


@pytest.mark.parametrize(
    ("keys", "path"),
    [
        ({"unauthenticated": {"start": 20, "full": 10}}, "unauthenticated.start"),
        ({"penalties": {"threshold": "0s"}}, "penalties.threshold"),
        ({"penalties": {"max": "1s"}}, "penalties.max"),
        ({"penalties": {"authFailed": "-1s"}}, "penalties.authFailed"),
        ({"rekeyTime": "1ms"}, "rekeyTime"),
        ({"unreachable": "1s"}, "unreachable"),
    ],
)
def test_what_does_not_fit_together_is_a_problem(keys: dict[str, Any], path: str) -> None:
    assert problems(limits(**keys)) == [path]


def test_a_proxy_header_needs_time() -> None:
    assert problems(ProxyProtocolConfig.model_validate({"timeout": 0})) == ["timeout"]


@pytest.mark.parametrize(
    ("text", "path", "words"),
    [
        (
            "limits: {unauthenticated: {full: 0}, unauthenticatedPerAddress: 0}",
            "limits.unauthenticated.full",
            "strangers",
        ),
        ("limits: {connections: 0}", "limits.connections", "file descriptors"),
        ("limits: {rekeys: 0}", "limits.rekeys", "key exchanges"),
        ("limits: {unreachable: 0s}", "limits.unreachable", "vanished"),
        ("limits: {allow: [0.0.0.0/0]}", "limits.allow", "whole Internet"),
        ("proxyProtocol: {trusted: ['::/0']}", "proxyProtocol.trusted", "claim any address"),
    ],
)
def test_config_check_warns_of_what_leaves_the_server_open(tmp_path: Path, text: str, path: str, words: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(f"{GOOD}ssh:\n  {text}\n")
    file.chmod(0o600)
    (finding,) = check(file)
    assert (finding.severity, finding.path) == ("warning", f"ssh.{path}")
    assert words in finding.message


def test_every_limit_has_its_place_in_the_manual() -> None:
    page = (Path(__file__).parents[2] / "docs" / "limits.md").read_text()
    codes = [code.value for code in SSHCode if code.name.startswith(("LIMIT", "PROXY"))]
    assert [code for code in codes if f"`{code}`" not in page] == []
    keys = [str(field.alias) for field in LimitsConfig.model_fields.values()]
    assert [key for key in keys if f"`{key}`" not in page] == []
