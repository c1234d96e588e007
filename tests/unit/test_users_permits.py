"""The options permitopen and permitlisten of a key: where its forwards may lead, and what they may listen on."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containerssh.auth.authorized_keys import UnusableLine, parse_authorized_key
from containerssh.auth.chains import merged
from containerssh.auth.permits import MOST_PERMITS
from containerssh.config.security import SecurityConfig
from containerssh.core.metadata import Login, Restrictions, SocketAddress
from containerssh.layers.security import Policy

ED25519 = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
EVERYTHING = {"forwardingMode": "enable", "reverseForwardingMode": "enable", "socketForwardingMode": "enable"}


def rights(options: str) -> Restrictions:
    found = parse_authorized_key(f"{options} {ED25519}")
    assert found is not None
    return found.restrictions


def policy(options: str, **forwarding: Any) -> Policy:
    config = SecurityConfig.model_validate({"forwarding": {**EVERYTHING, **forwarding}})
    return Policy(config, rights(options))


@pytest.mark.parametrize(
    ("options", "host", "port", "allowed"),
    [
        ('permitopen="db.internal:5432"', "db.internal", 5432, True),
        ('permitopen="db.internal:5432"', "DB.internal.", 5432, True),
        ('permitopen="db.internal:5432"', "db.internal", 5433, False),
        ('permitopen="db.internal:5432"', "evil.internal", 5432, False),
        ('permitopen="db.internal:*"', "db.internal", 1, True),
        ('permitopen="*:443"', "anything", 443, True),
        ('permitopen="*:443"', "192.0.2.1", 443, True),
        ('permitopen="*:443"', "anything", 444, False),
        ('permitopen="192.0.2.1:80"', "192.0.2.1", 80, True),
        ('permitopen="192.0.2.1:80"', "192.0.2.2", 80, False),
        ('permitopen="192.0.2.1:80"', "::ffff:192.0.2.1", 80, True),
        ('permitopen="[2001:db8::1]:80"', "2001:db8::1", 80, True),
        ('permitopen="localhost:80"', "localhost", 80, True),
        ('permitopen="localhost:80"', "127.0.0.1", 80, True),
        ('permitopen="localhost:80"', "192.0.2.1", 80, False),
        ('permitopen="a:1",permitopen="b:2"', "b", 2, True),
        ('permitopen="a:1,b:2"', "b", 2, True),
        ('permitopen="a:1,b:2"', "b", 1, False),
        ('permitopen="a:1",restrict', "a", 1, False),
        ('restrict,permitopen="a:1"', "a", 1, False),
        ('restrict,port-forwarding,permitopen="a:1"', "a", 1, True),
        ('permitlisten="8080"', "a", 1, True),
    ],
)
def test_connections_go_where_the_key_permits(options: str, host: str, port: int, allowed: bool) -> None:
    assert (policy(options).destination(host, port) is not None) is allowed


@pytest.mark.parametrize(
    ("options", "host", "port", "allowed"),
    [
        ('permitlisten="8080"', "localhost", 8080, True),
        ('permitlisten="8080"', "", 8080, True),
        ('permitlisten="8080"', "localhost", 8081, False),
        ('permitlisten="8080"', "localhost", 0, False),
        ('permitlisten="*"', "localhost", 0, True),
        ('permitlisten="localhost:*"', "localhost", 0, True),
        ('permitlisten="localhost:8080"', "localhost", 8080, True),
        ('permitlisten="localhost:8080"', "", 8080, False),
        ('permitlisten="localhost:8080"', "0.0.0.0", 8080, False),
        ('permitlisten="*.internal:8080"', "a.internal", 8080, True),
        ('permitlisten="*.internal:8080"', "localhost", 8080, False),
        ('permitlisten="1",permitlisten="2,3"', "localhost", 3, True),
        ('no-port-forwarding,permitlisten="1"', "localhost", 1, False),
        ('permitopen="a:1"', "localhost", 9999, True),
    ],
)
def test_ports_are_listened_on_as_the_key_permits(options: str, host: str, port: int, allowed: bool) -> None:
    assert policy(options).allows_listening(host, port) is allowed


def test_a_key_adds_nothing_to_what_the_configuration_allows() -> None:
    mine = policy('permitopen="a:1,c:3",permitlisten="1"', forwardingMode="filter", forwardingAllow=["a", "b"])
    assert [mine.destination(name, port) is not None for name, port in (("a", 1), ("b", 1), ("c", 3))] == [
        *(True, False, False)
    ]
    off = policy('permitopen="a:1",permitlisten="1"', forwardingMode="disable", reverseForwardingMode="disable")
    assert off.destination("a", 1) is None
    assert not off.allows_listening("localhost", 1)


def test_a_name_has_to_resolve_to_what_both_allow() -> None:
    both = policy('permitopen="10.1.0.1:80,192.0.2.1:80"', forwardingMode="filter", forwardingAllow=["10.0.0.0/8"])
    addresses = both.destination("somewhere", 80)
    assert addresses is not None
    assert addresses.allowed == (ipaddress.ip_network("10.1.0.1/32"),)


def test_of_two_keys_one_after_another_each_has_to_permit() -> None:
    def login(options: str) -> Login:
        return Login(SocketAddress("192.0.2.1", 1), "0" * 32, restrictions=rights(options))

    one = login('permitopen="a:1,b:2",permitlisten="1"')
    both = merged(one, login('permitopen="b:2,c:3",permitlisten="1,2"'))
    judge = Policy(SecurityConfig.model_validate({"forwarding": EVERYTHING}), both.restrictions)
    assert [judge.destination(name, port) is not None for name, port in (("a", 1), ("b", 2), ("c", 3))] == [
        *(False, True, False)
    ]
    assert [judge.allows_listening("localhost", port) for port in (1, 2)] == [True, False]


@pytest.mark.parametrize("option", ["permitopen", "permitlisten"])
@pytest.mark.parametrize(
    "places",
    [
        "", ":", ":80", "host:", "host:0", "host:65536", "host:99999999999", "host:1-2", "host:x", "host:+1", "host:²",
        "10.0.0.0/8:80", "host/80", "a:1,", ",a:1", "a:1,,b:2", "::1:80", "[::1]", "[host]:80", "a b:80", "10.*:80",
        " a:1", "a:1 ", "user@host:1", "[::1:80", "::1]:80",
    ],
)  # fmt: skip
def test_a_place_that_is_none_takes_its_line_with_it(option: str, places: str) -> None:
    with pytest.raises(UnusableLine):
        rights(f'{option}="{places}"')


@pytest.mark.parametrize("options", ['permitopen="80"', 'permitopen="*"', 'permitopen="*.internal:80"'])
def test_where_to_connect_needs_a_host_that_is_written_out(options: str) -> None:
    with pytest.raises(UnusableLine):
        rights(options)


def test_a_key_names_so_many_places_and_no_more() -> None:
    assert rights(",".join(f'permitopen="a:{port}"' for port in range(1, MOST_PERMITS + 1))).connections
    with pytest.raises(UnusableLine, match="more than"):
        rights(",".join(f'permitopen="a:{port}"' for port in range(1, MOST_PERMITS + 2)))


@given(
    st.sampled_from(["permitopen", "permitlisten"]),
    st.one_of(
        st.text(st.characters(exclude_characters='"\\', exclude_categories=["Cs", "Cc"]), max_size=40),
        st.text(st.sampled_from("ab0129.:*?[]/,-"), max_size=12),
    ),
)
def test_any_value_is_a_rule_or_refused(option: str, value: str) -> None:
    try:
        found = rights(f'{option}="{value}"')
    except UnusableLine:
        return
    (rules,) = found.connections or found.listeners
    assert rules.allow
    assert not rules.deny
