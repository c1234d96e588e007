"""Who is let in: numbers, chance and penalties, on a clock that the test sets."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containerssh.core.codes import SSHCode
from containerssh.ssh.admission import ConnectionLimiter, PenaltyBox, Refused, Ticket, is_within
from containerssh.ssh.options import Admission, Penalties

ALICE, NEAR, FAR = "192.0.2.1", "192.0.2.2", "198.51.100.1"


def seconds(count: float) -> timedelta:
    return timedelta(seconds=count)


def limiter(chance: Callable[[], float] = lambda: 0.999999, **limits: Any) -> ConnectionLimiter:
    return ConnectionLimiter(Admission(**{"allow": (), **limits}), chance=chance)


def refusal(limiter: ConnectionLimiter, host: str, now: float = 0) -> SSHCode | None:
    """Why *host* is not let in; None if it is."""
    try:
        limiter.enter(host, now)
    except Refused as why:
        return why.code
    return None


# -- numbers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "code", "hosts"),
    [
        ("connections", SSHCode.LIMIT_CONNECTIONS, (ALICE, FAR, NEAR)),
        ("connections_per_address", SSHCode.LIMIT_CONNECTIONS_PER_ADDRESS, (ALICE, ALICE, ALICE)),
        ("connections_per_prefix", SSHCode.LIMIT_CONNECTIONS_PER_PREFIX, (ALICE, NEAR, ALICE)),
        ("unauthenticated_per_address", SSHCode.LIMIT_UNAUTHENTICATED_PER_ADDRESS, (ALICE, ALICE, ALICE)),
        ("unauthenticated_per_prefix", SSHCode.LIMIT_UNAUTHENTICATED_PER_PREFIX, (ALICE, NEAR, ALICE)),
        ("unauthenticated_full", SSHCode.LIMIT_UNAUTHENTICATED, (ALICE, NEAR, ALICE)),
    ],
)
def test_the_connection_after_the_last_allowed_one_is_refused_until_another_leaves(
    limit: str, code: SSHCode, hosts: tuple[str, str, str]
) -> None:
    two: dict[str, Any] = {limit: 2}
    here = limiter(**two)
    first, _ = here.enter(hosts[0], 0), here.enter(hosts[1], 0)
    assert refusal(here, hosts[2]) == code
    here.left(first)
    assert refusal(here, hosts[2]) is None
    # 0 is no limit.
    unlimited = limiter(**{**two, limit: 0})
    assert {refusal(unlimited, host) for host in hosts} == {None}


def test_another_source_is_not_held_back_by_the_limits_of_one() -> None:
    here = limiter(connections_per_address=1, connections_per_prefix=2)
    assert [refusal(here, host) for host in (ALICE, NEAR, FAR)] == [None] * 3


def test_a_login_makes_room_for_newcomers_but_not_for_connections() -> None:
    here = limiter(unauthenticated_per_address=1, connections_per_address=2)
    ticket = here.enter(ALICE, 0)
    assert refusal(here, ALICE) == SSHCode.LIMIT_UNAUTHENTICATED_PER_ADDRESS
    here.logged_in(ticket)
    assert refusal(here, ALICE) is None
    assert refusal(here, ALICE) == SSHCode.LIMIT_CONNECTIONS_PER_ADDRESS


def test_an_ipv6_network_counts_as_one_source() -> None:
    here = limiter(connections_per_prefix=2, prefix_ipv6=64)
    assert refusal(here, "2001:db8::1") is None
    assert refusal(here, "2001:db8::2") is None
    assert refusal(here, "2001:db8::3") == SSHCode.LIMIT_CONNECTIONS_PER_PREFIX
    assert refusal(here, "2001:db8:0:1::1") is None
    assert refusal(here, "fe80::1%eth0") is None


def test_a_prefix_as_long_as_an_address_counts_each_connection_once() -> None:
    here = limiter(connections_per_address=2, connections_per_prefix=2, prefix_ipv4=32)
    assert [refusal(here, ALICE) for _ in range(2)] == [None, None]


def test_allowed_networks_are_held_by_the_total_only() -> None:
    here = limiter(
        connections=3, connections_per_address=1, unauthenticated_full=1, allow=(ip_network("192.0.2.0/24"),)
    )
    tickets = [here.enter(ALICE, 0) for _ in range(2)]
    assert not here.punish(tickets[0], seconds(100), 0)
    assert refusal(here, FAR) is None
    assert refusal(here, ALICE) == SSHCode.LIMIT_CONNECTIONS


@given(st.lists(st.tuples(st.sampled_from([ALICE, NEAR, FAR, "2001:db8::1", "odd"]), st.integers(0, 3))))
def test_whatever_comes_and_goes_an_empty_server_has_counted_back_to_nothing(steps: list[tuple[str, int]]) -> None:
    here = limiter(connections=6, connections_per_prefix=3)
    inside: list[Ticket] = []
    for host, what in steps:
        if what < 2:
            try:
                inside.append(here.enter(host, 0))
            except Refused:
                continue
        elif inside and what == 2:
            here.left(inside.pop())
        elif inside:
            here.logged_in(inside[0])
    assert len(here) == len(inside)
    for ticket in inside * 2:
        here.left(ticket)
        here.logged_in(ticket)
    assert (len(here), here._newcomers, here._by_source, here._newcomers_by_source) == (0, {}, {}, {})


# -- random early drop -----------------------------------------------------------------------------------------


DROP = {"unauthenticated_start": 10, "unauthenticated_rate": 30, "unauthenticated_full": 20}


@pytest.mark.parametrize(("waiting", "share"), [(0, 0.0), (9, 0.0), (10, 0.3), (15, 0.65), (19, 0.93), (20, 1.0)])
@pytest.mark.parametrize("drawn", [-1e-9, 1e-9])
def test_the_chance_to_be_refused_grows_from_rate_at_start_to_certainty_at_full(
    waiting: int, share: float, drawn: float
) -> None:
    chances = [1.0] * waiting + [min(max(share + drawn, 0), 0.999999)]
    here = limiter(iter(chances).__next__, **DROP)
    for number in range(waiting):
        assert here.enter(FAR, number).instead_of is None
    refused = refusal(here, FAR) == SSHCode.LIMIT_UNAUTHENTICATED
    assert refused == (share == 1 or (share > 0 and drawn < 0))


def test_a_full_house_makes_room_for_a_newcomer_at_the_cost_of_the_largest_crowd() -> None:
    here = limiter(unauthenticated_full=5, unauthenticated_start=5)
    alone = here.enter("203.0.113.1", 0)
    crowd = [here.enter(host, 0) for host in (ALICE, NEAR, ALICE)]
    other = here.enter(FAR, 0)
    # The one of the crowd that waited longest goes, and the crowd itself gets nobody in any more.
    assert here.enter("203.0.113.2", 1).instead_of is crowd[0]
    assert refusal(here, NEAR, 1) == SSHCode.LIMIT_UNAUTHENTICATED
    assert len(here) == 5
    assert here.enter("198.51.100.200", 1).instead_of in (alone, crowd[1])
    for ticket in (alone, *crowd, other):
        here.left(ticket)
    assert len(here) == 2


def test_whoever_has_logged_in_never_makes_room() -> None:
    here = limiter(unauthenticated_full=1)
    inside = [here.enter(ALICE, 0) for _ in range(1)]
    here.logged_in(inside[0])
    waiting = here.enter(ALICE, 0)
    assert here.enter(FAR, 0).instead_of is waiting


# -- penalties --------------------------------------------------------------------------------------------------


def test_penalties_add_up_until_the_source_is_refused_and_pass_with_time() -> None:
    here = limiter()
    ticket = here.enter(ALICE, 0)
    assert [here.punish(ticket, seconds(5), 0) for _ in range(3)] == [False, False, True]
    assert refusal(here, ALICE, 1) == SSHCode.LIMIT_PENALTY
    assert refusal(here, NEAR, 1) is None
    # Not before all of it has passed, which is later than the threshold.
    assert refusal(here, ALICE, 14.9) == SSHCode.LIMIT_PENALTY
    assert refusal(here, ALICE, 15) is None


def test_failures_far_apart_have_no_consequences() -> None:
    here = limiter()
    ticket = here.enter(ALICE, 0)
    assert not any(here.punish(ticket, seconds(5), now) for now in range(0, 1000, 5))


def test_a_source_that_goes_on_failing_waits_longer_and_longer_up_to_the_longest() -> None:
    box = PenaltyBox(Penalties(longest=seconds(60)))
    for _ in range(100):
        box.add((4, 32, 1), 10, 0)
    assert box.is_refused((4, 32, 1), 59.9)
    assert not box.is_refused((4, 32, 1), 60)


def test_a_failure_while_refused_prolongs_the_time_even_if_little_was_left() -> None:
    box = PenaltyBox(Penalties())
    assert box.add("x", 15, 0)
    assert box.add("x", 1, 14)
    assert box.is_refused("x", 15.5)
    assert not box.is_refused("x", 16)


def test_a_penalty_of_nothing_is_not_remembered() -> None:
    box = PenaltyBox(Penalties())
    assert not box.add("x", 0, 0)
    assert len(box) == 0


def test_the_penalty_of_one_ipv6_address_is_its_networks() -> None:
    here = limiter()
    ticket = here.enter("2001:db8::1", 0)
    assert here.punish(ticket, seconds(20), 0)
    assert refusal(here, "2001:db8::2", 1) == SSHCode.LIMIT_PENALTY


def test_without_penalties_failures_have_no_consequences() -> None:
    here = limiter(penalties=None)
    ticket = here.enter(ALICE, 0)
    assert not here.punish(ticket, seconds(1000), 0)
    assert refusal(here, ALICE) is None


@given(st.lists(st.tuples(st.integers(0, 30), st.sampled_from([0.0, 1.0, 5.0, 100.0]), st.floats(0, 50)), max_size=100))
def test_the_table_stays_small_and_never_refuses_beyond_the_longest(steps: list[tuple[int, float, float]]) -> None:
    box = PenaltyBox(Penalties(sources=8, longest=seconds(60)))
    now = 0.0
    for number, penalty, pause in steps:
        now += pause
        box.add((4, 32, number), penalty, now)
        assert len(box) <= 8
        assert box._refused <= set(box._until)
        assert all(until <= now + 60 for until in box._until.values())
    assert not any(box.is_refused((4, 32, number), now + 60) for number in range(31))


def test_served_penalties_make_room_by_themselves() -> None:
    box = PenaltyBox(Penalties())
    for number in range(100):
        box.add((4, 32, number), 1, 0)
    for number in range(100):
        box.add((4, 32, 1000), 1, 10 + number)
    assert len(box) == 1


# -- networks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "inside"),
    [("10.1.2.3", True), ("11.1.2.3", False), ("fe80::1%eth0", True), ("::1", False), ("", False), ("x", False)],
)
def test_addresses_are_found_in_networks(host: str, inside: bool) -> None:
    networks = (ip_network("10.0.0.0/8"), ip_network("fe80::/10"))
    assert is_within(host, networks) is inside
    assert not is_within(host, ())
