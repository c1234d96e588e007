"""The rules for forwards: patterns of hosts, networks, ports and paths."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containerssh.core.forwarding import AddressRules, Endpoint, ForwardRules, PathRules, plain_address


def rules(allow: Sequence[str] | None = None, deny: Sequence[str] = ()) -> ForwardRules:
    return ForwardRules.parse(allow, deny)


def passes(found: ForwardRules, host: str, port: int) -> bool:
    return found.destination(host, port) is not None


@pytest.mark.parametrize(
    ("pattern", "host", "port", "wanted"),
    [
        ("db.internal:5432", "db.internal", 5432, True),
        ("db.internal:5432", "DB.Internal.", 5432, True),
        ("db.internal:5432", "db.internal", 5433, False),
        ("db.internal:5432", "xdb.internal", 5432, False),
        ("db.internal", "db.internal", 1, True),
        ("*.internal:80-90", "a.b.internal", 85, True),
        ("*.internal:80-90", "internal", 85, False),
        ("*.internal:80-90", "a.internal", 91, False),
        ("web?.internal:*", "web1.internal", 7, True),
        ("web?.internal:*", "web12.internal", 7, False),
        ("*:443", "anything", 443, True),
        ("*:443", "10.0.0.1", 443, True),
        ("*:443", "::1", 443, True),
        ("10.0.0.0/8:22", "10.1.2.3", 22, True),
        ("10.0.0.0/8:22", "::ffff:10.1.2.3", 22, True),
        ("10.0.0.0/8:22", "11.1.2.3", 22, False),
        ("::ffff:10.0.0.0/104", "10.1.2.3", 22, True),
        ("10.0.0.1", "10.0.0.1", 65535, True),
        ("[2001:db8::/32]:22", "2001:db8::7", 22, True),
        ("[2001:db8::/32]:22", "2001:db9::7", 22, False),
        ("2001:db8::/32", "2001:DB8::7", 22, True),
        ("[fe80::/10]:22", "fe80::1%eth0", 22, True),
        ("localhost:80", "127.0.0.1", 80, True),
        ("localhost:80", "127.8.8.8", 80, True),
        ("localhost:80", "::1", 80, True),
        ("localhost:80", "0.0.0.0", 80, True),
        ("localhost:80", "10.0.0.1", 80, False),
    ],
)
def test_a_pattern_allows_in_one_list_what_it_denies_in_the_other(
    pattern: str, host: str, port: int, wanted: bool
) -> None:
    assert passes(rules([pattern]), host, port) is wanted
    assert passes(rules(None, [pattern]), host, port) is not wanted
    assert not passes(rules([pattern], [pattern]), host, port)


def test_without_lists_everything_passes_and_an_empty_allow_list_lets_nothing_pass() -> None:
    assert rules().destination("x", 1) == AddressRules()
    assert not passes(rules([]), "x", 1)


def test_what_a_name_resolves_to_is_for_the_agent_to_judge() -> None:
    found = rules(["10.0.0.0/8:22", "db.internal"], ["10.9.0.0/16:*", "192.168.0.0/16:80"])
    other = found.destination("other.name", 22)
    assert other is not None
    assert other.permits(ipaddress.ip_address("10.0.0.1"))
    assert not other.permits(ipaddress.ip_address("10.9.0.1"))
    assert not other.permits(ipaddress.ip_address("192.168.0.1"))
    assert found.destination("other.name", 23) is None
    # A name that is allowed as such may be anywhere but where nobody may go.
    by_name = found.destination("db.internal", 22)
    assert by_name is not None
    assert by_name.allowed is None
    assert by_name.permits(ipaddress.ip_address("192.168.0.1"))
    assert not by_name.permits(ipaddress.ip_address("::ffff:10.9.0.1"))


@pytest.mark.parametrize("written", ["0.0.0.0", "::", "::ffff:0.0.0.0", "127.0.0.1", "::ffff:127.0.0.1", "::1"])
def test_the_machine_itself_cannot_be_reached_by_another_spelling(written: str) -> None:
    denied = rules(None, ["127.0.0.0/8", "[::1]:*"])
    assert not passes(denied, written, 80)
    assert not AddressRules(denied=(ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1"))).permits(
        ipaddress.ip_address(written)
    )


@pytest.mark.parametrize(
    ("allow", "deny", "host", "port", "wanted"),
    [
        (None, [], "", 0, True),
        (["localhost:8000-8999"], [], "localhost", 8080, True),
        (["localhost:8000-8999"], [], "127.0.0.1", 8080, True),
        (["localhost:8000-8999"], [], "::1", 8080, True),
        (["localhost:8000-8999"], [], "", 8080, False),
        (["localhost:8000-8999"], [], "*", 8080, False),
        (["localhost:8000-8999"], [], "0.0.0.0", 8080, False),
        (["localhost:8000-8999"], [], "localhost", 0, False),
        (["localhost"], [], "localhost", 0, True),
        (["localhost:0"], [], "localhost", 0, True),
        (["0.0.0.0:80"], [], "", 80, True),
        (["0.0.0.0:80"], [], "*", 80, True),
        (["0.0.0.0:80"], [], "127.0.0.1", 80, False),
        (["*:80"], [], "::", 80, True),
        (["*:80"], [], "anything", 80, True),
        (["web.local:80"], [], "WEB.local", 80, True),
        (["10.0.0.0/8"], [], "some.name", 80, False),
        (None, ["*:1-1023"], "localhost", 80, False),
        (None, ["*:1-1023"], "localhost", 8080, True),
        (None, ["10.0.0.1:80"], "", 80, False),
        (None, ["10.0.0.1:80"], "::", 80, False),
        (None, ["10.0.0.1:80"], "some.name", 80, False),
        (None, ["10.0.0.1:80"], "localhost", 80, True),
        (None, ["[::1]:80"], "localhost", 80, False),
        (None, [], "x" * 256, 80, False),
    ],
)
def test_bind_addresses_are_judged_by_all_that_they_stand_for(
    allow: list[str] | None, deny: list[str], host: str, port: int, wanted: bool
) -> None:
    assert rules(allow, deny).allows_listening(host, port) is wanted


def test_a_port_that_the_container_chose_can_still_be_denied() -> None:
    found = rules(None, ["*:32768-65535"])
    assert found.allows_listening("localhost", 0)
    assert found.denies_listening("localhost", 40000)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":80",
        "a:",
        "a:http",
        "a:70000",
        "a:9-1",
        "a:-1",
        "a b",
        "a/b",
        "10.0.0.1/8",
        "10.0.0.0/33",
        "10.*",
        "[::1",
        "[::1]80",
        "::1:*x",
        "a:1:2",
        "user@host",
        "[a-z].com",
        "a:٣",
    ],
)
def test_a_pattern_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Endpoint.parse(text)


@pytest.mark.parametrize(
    ("pattern", "path", "wanted"),
    [
        ("/run/app.sock", "/run/app.sock", True),
        ("/run/app.sock", "/run/app.sock2", False),
        ("/run/*.sock", "/run/a.sock", True),
        ("/run/*.sock", "/run/a/b.sock", False),
        ("/run/**", "/run/a/b.sock", True),
        ("/run/**/x", "/run/a/b/x", True),
        ("/run/?", "/run/a", True),
        ("/run/?", "/run/", False),
        ("/run/*", "/run/../etc/x", False),
        ("/run/**", "/run/../etc/x", False),
        ("/run/**", "/run//x", False),
        ("/run/**", "/run/./x", False),
        ("/run/**", "run/x", False),
        ("/run/**", "", False),
        ("/run/**", "/run/a\0b", False),
        ("/run/**", "/run/" + "a" * 110, False),
    ],
)
def test_socket_paths_fit_their_pattern_as_they_are_written(pattern: str, path: str, wanted: bool) -> None:
    assert PathRules.parse([pattern], ()).allows(path) is wanted


@pytest.mark.parametrize("path", ["/run/docker.sock", "/run/../run/docker.sock", "/run//docker.sock", "docker.sock"])
def test_a_denied_socket_cannot_be_reached_by_another_spelling(path: str) -> None:
    assert not PathRules.parse(None, ["/run/docker.sock"]).allows(path)
    assert PathRules.parse(None, ["/run/docker.sock"]).allows("/run/other.sock")
    assert PathRules.parse(None, ()).allows(path)


@pytest.mark.parametrize("pattern", ["", "run/x", "/run/../x", "/run/", "/a\0b", "~/x"])
def test_a_path_pattern_that_nothing_can_match_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="absolute path"):
        PathRules.parse((), [pattern])


def test_a_hostile_text_costs_little_whatever_the_pattern() -> None:
    host = ForwardRules.parse(["*a*a*a*a*a*a*a*a*a*a*a*a*b"], ())
    path = PathRules.parse(["/" + "**a*a" * 20 + "b"], ())
    before = time.process_time()
    assert not passes(host, "a" * 255, 1)
    assert not passes(host, "a" * 1_000_000, 1)
    assert not path.allows("/" + "a" * 106)
    assert time.process_time() - before < 1


@given(st.text(), st.integers(0, 2**32 - 1))
def test_no_host_of_a_client_breaks_the_rules(host: str, port: int) -> None:
    found = rules(["*.x:1-99", "10.0.0.0/8", "localhost:0"], ["y:*", "[::1]:5"])
    found.destination(host, port)  # raises nothing
    assert isinstance(found.allows_listening(host, port), bool)
    assert isinstance(PathRules.parse(["/a/**"], ["/b/*"]).allows(host), bool)


@given(st.text(max_size=40))
def test_no_pattern_breaks_the_parser(text: str) -> None:
    try:
        pattern = Endpoint.parse(text)
    except ValueError:
        return
    assert pattern.networks or pattern.name


@given(st.ip_addresses(), st.ip_addresses().map(lambda one: ipaddress.ip_network((one, 12), strict=False)))
def test_a_network_pattern_means_the_network(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
    network: ipaddress.IPv4Network | ipaddress.IPv6Network,
) -> None:
    allowed = AddressRules((network,)).permits(address)
    assert passes(rules([f"[{network}]:22"]), str(address), 22) is allowed


SOME_NETWORKS = tuple(
    ipaddress.ip_network(text)
    for text in ("10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", "192.0.2.0/24", "0.0.0.0/0", "::/0", "2001:db8::/32", "::1")
)
SOME_ADDRESSES = tuple(
    ipaddress.ip_address(text)
    for text in ("10.1.2.3", "10.1.9.9", "10.9.9.9", "192.0.2.1", "198.51.100.1", "2001:db8::1", "::1", "0.0.0.0")
)
NETWORKS = st.lists(st.sampled_from(SOME_NETWORKS), max_size=8).map(tuple)
ADDRESS_RULES = st.builds(AddressRules, st.none() | NETWORKS, NETWORKS)


@given(st.lists(ADDRESS_RULES, min_size=1, max_size=4), st.sampled_from(SOME_ADDRESSES))
def test_rules_together_permit_what_each_permits_and_name_each_network_once(
    several: list[AddressRules], address: ipaddress.IPv4Address | ipaddress.IPv6Address
) -> None:
    together = AddressRules()
    for one in several:
        together = together.and_also(one)
    assert together.permits(address) is all(one.permits(address) for one in several)
    if sum(one.allowed is not None for one in several) > 1:
        assert together.allowed is not None
        assert len(together.allowed) == len(set(together.allowed))


HOST = (ipaddress.ip_address("172.17.0.1"), ipaddress.ip_address("2001:db8::1"))


@pytest.mark.parametrize(
    ("allow", "host", "address", "reached"),
    [
        (None, "172.17.0.1", "172.17.0.1", False),
        (None, "::ffff:172.17.0.1", "::ffff:172.17.0.1", False),
        (None, "db.internal", "172.17.0.1", False),
        (None, "db.internal", "2001:db8::1", False),
        (None, "db.internal", "172.17.0.2", True),
        (["*"], "172.17.0.1", "172.17.0.1", False),
        (["*.internal"], "db.internal", "172.17.0.1", False),
        (["172.16.0.0/12"], "172.17.0.1", "172.17.0.1", False),
        (["172.17.0.1"], "172.17.0.1", "172.17.0.1", True),
        (["*", "172.17.0.1:22"], "db.internal", "172.17.0.1", True),
        (["*", "172.17.0.1:23"], "db.internal", "172.17.0.1", False),
        (["*", "[2001:db8::1]"], "db.internal", "2001:db8::1", True),
        (["*", "[2001:db8::1]"], "db.internal", "172.17.0.1", False),
        (["*", "db.internal"], "db.internal", "172.17.0.1", True),
        (["*", "db.internal"], "other.internal", "172.17.0.1", False),
    ],
)
def test_the_servers_host_is_reached_only_by_an_address_or_name_of_its_own_in_the_list(
    allow: list[str] | None, host: str, address: str, reached: bool
) -> None:
    found = rules(allow).destination(host, 22)
    assert found is not None
    assert found.apart_from_host(HOST).permits(ipaddress.ip_address(address)) is reached


def test_what_is_denied_is_denied_on_the_servers_host_too() -> None:
    found = rules(["172.17.0.1", "host.internal"], ["172.17.0.0/16"]).destination("host.internal", 22)
    assert found is not None
    assert not found.apart_from_host(HOST).permits(HOST[0])


@given(st.ip_addresses(), st.lists(st.ip_addresses(), max_size=4))
def test_of_the_servers_host_nothing_is_reached_without_a_list(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
    host: list[ipaddress.IPv4Address | ipaddress.IPv6Address],
) -> None:
    apart = AddressRules().apart_from_host(host)
    assert apart.permits(address) is not any(plain_address(address) == one for one in host)
