"""Counts that several processes share: exact, bounded, and cleared with the process that held them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containerssh.core.codes import SSHCode
from containerssh.ssh.admission import ConnectionLimiter, Refused, Ticket
from containerssh.ssh.options import Admission, Penalties
from containerssh.ssh.shared_counts import SharedCounts, SharedTable, Size, Source, shared_table

SMALL = Size(2, 1024, 1024)
ALICE, NEAR, FAR = "192.0.2.1", "192.0.2.2", "198.51.100.1"
SOURCE: Source = (4, 32, 1)


@contextmanager
def table(size: Size = SMALL) -> Iterator[tuple[SharedTable, list[SharedCounts]]]:
    with shared_table(size) as made:
        yield made, [SharedCounts.attach(os.dup(made.descriptor), number) for number in range(size.processes)]


@contextmanager
def limiters(**limits: Any) -> Iterator[tuple[SharedTable, list[ConnectionLimiter]]]:
    settings = Admission(**{"allow": (), "unauthenticated_full": 0, "penalties": None, **limits})
    with table() as (made, counts):
        yield made, [ConnectionLimiter(settings, shared=one) for one in counts]


def enters(limiter: ConnectionLimiter, host: str, now: float = 0) -> Ticket | SSHCode:
    try:
        return limiter.enter(host, now)
    except Refused as why:
        return why.code


def test_each_process_sees_what_the_others_have() -> None:
    with table(Size(3, 1024, 1024)) as (_, (one, two, three)):
        assert one.put(SOURCE, 5, 2)
        assert two.put(SOURCE, 1, 1)
        assert three.of_others(SOURCE) == (6, 3)
        assert one.of_others(SOURCE) == (1, 1)
        one.put(SOURCE, 4, 0)
        assert three.of_others(SOURCE) == (5, 1)
        one.put(SOURCE, 0, 0)
        assert three.of_others(SOURCE) == (1, 1)
        two.put_total(7)
        assert (one.total_of_others(), two.total_of_others()) == (7, 0)


def test_what_an_ended_process_had_is_cleared_and_nothing_else() -> None:
    with table() as (made, (one, two)):
        for number in range(50):
            one.put((4, 32, number), 1, 1)
            two.put((4, 32, number), 1, 0)
        one.put_total(50)
        two.put_total(50)
        one.put_penalty(SOURCE, 9000, refused=True)
        made.clear(0)
        successor = SharedCounts.attach(os.dup(made.descriptor), 0)
        assert {two.of_others((4, 32, number)) for number in range(50)} == {(0, 0)}
        assert {successor.of_others((4, 32, number)) for number in range(50)} == {(1, 0)}
        assert (two.total_of_others(), successor.total_of_others()) == (0, 50)
        assert two.penalty(SOURCE) == (9000, True), "who failed there is remembered"


def test_another_process_sees_it_too() -> None:
    """With memory that is really shared, over a fork."""
    with table() as (_, (one, two)):
        pid = os.fork()
        if pid == 0:
            os._exit(0 if one.put(SOURCE, 3, 1) else 1)
        assert os.waitpid(pid, 0)[1] == 0
        assert two.of_others(SOURCE) == (3, 1)


def test_a_flood_of_sources_fills_the_table_and_no_more() -> None:
    with table() as (_, (one, two)):
        kept = [number for number in range(20_000) if one.put((6, 64, number), 1, 1)]
        assert 900 < len(kept) <= 1024
        assert all(two.of_others((6, 64, number)) == (1, 1) for number in kept)
        for number in kept:
            one.put((6, 64, number), 0, 0)
        assert all(one.put((6, 64, number), 1, 1) for number in kept), "all the places are free again"


@given(
    st.lists(
        st.tuples(st.integers(0, 1), st.sampled_from(["come", "log in", "leave"]), st.sampled_from([ALICE, NEAR, FAR])),
        max_size=80,
    )
)
def test_two_processes_decide_as_one_would(steps: list[tuple[int, str, str]]) -> None:
    limits: dict[str, Any] = {
        "connections": 9,
        "connections_per_address": 4,
        "connections_per_prefix": 6,
        "unauthenticated_per_address": 2,
        "unauthenticated_per_prefix": 3,
    }
    alone = ConnectionLimiter(Admission(allow=(), unauthenticated_full=0, penalties=None, **limits))
    inside: list[tuple[ConnectionLimiter, Ticket, Ticket]] = []
    with limiters(**limits) as (_, pair):
        for number, step, host in steps:
            if step == "come":
                here, there = enters(pair[number], host), enters(alone, host)
                assert isinstance(here, Ticket) == isinstance(there, Ticket), (here, there)
                if isinstance(here, Ticket) and isinstance(there, Ticket):
                    inside.append((pair[number], here, there))
                else:
                    assert here == there
            elif inside:
                limiter, here, there = inside[0] if step == "log in" else inside.pop(0)
                for one, ticket in ((limiter, here), (alone, there)):
                    one.logged_in(ticket) if step == "log in" else one.left(ticket)
        for limiter, here, _ in inside:
            limiter.left(here)
        assert [len(limiter) for limiter in pair] == [0, 0]
        assert isinstance(enters(pair[0], ALICE), Ticket)


def test_a_source_without_a_place_gets_the_processs_part() -> None:
    with limiters(connections_per_address=10, connections_per_prefix=0) as (_, (one, _two)):
        filler = [one.enter(f"2001:db8:{number:x}::1", 0) for number in range(1500)]
        refused = [number for number in range(200) if _most(one, f"10.0.{number}.1") == 5]
        granted = [number for number in range(200) if _most(one, f"10.0.{number}.1") == 10]
        assert len(refused) + len(granted) == 200
        assert refused
        for ticket in filler:
            one.left(ticket)
        assert {_most(one, f"10.0.{number}.1") for number in range(200)} == {10}


def _most(limiter: ConnectionLimiter, host: str) -> int:
    """How many connections *host* can have; none afterwards."""
    tickets = []
    while isinstance(ticket := enters(limiter, host), Ticket):
        tickets.append(ticket)
    for ticket in tickets:
        limiter.left(ticket)
    return len(tickets)


def test_a_failure_counts_in_all_processes_and_its_time_passes() -> None:
    penalties = Penalties(threshold=timedelta(seconds=10), longest=timedelta(seconds=60))
    five = timedelta(seconds=5)
    with limiters(penalties=penalties) as (_, (one, two)):
        first, second = one.enter(ALICE, 100), two.enter(ALICE, 100)
        assert not one.punish(first, five, 100)
        assert two.punish(second, five, 100)
        for limiter in (one, two):
            assert enters(limiter, ALICE, 109) == SSHCode.LIMIT_PENALTY
            assert isinstance(enters(limiter, FAR, 109), Ticket)
            assert isinstance(enters(limiter, ALICE, 111), Ticket)
        assert one.punish(first, timedelta(hours=1), 111)
        assert enters(two, ALICE, 170) == SSHCode.LIMIT_PENALTY
        assert isinstance(enters(two, ALICE, 172), Ticket), "nobody gathers more than the longest"


def test_a_flood_of_failures_forgets_the_oldest_and_takes_no_more_room() -> None:
    with table() as (_, (one, two)):
        for number in range(20_000):
            one.put_penalty((6, 64, number), 1000 + number, refused=True)
        remembered = [number for number in range(20_000) if two.penalty((6, 64, number))[1]]
        assert 900 < len(remembered) <= 1024
        assert min(remembered) > 10_000


@pytest.mark.parametrize(("connections", "places"), [(0, 1 << 20), (1, 1 << 10), (10_000, 1 << 17), (10**6, 1 << 20)])
def test_a_tables_size_follows_the_limits_and_is_bounded(connections: int, places: int) -> None:
    size = Size.of(2, connections, 65_536)
    assert size.places == places
    assert size.bytes < 80 << 20
