"""Counters."""

from __future__ import annotations

from containerssh.core.counters import Counters


def test_events_are_counted_by_name_and_labels() -> None:
    counters = Counters()
    counters.add("logins")
    counters.add("logins", 2)
    counters.add("refused", why="full", where="door")
    counters.add("refused", where="door", why="full")
    assert counters.value("logins") == 3
    assert counters.value("refused", why="full", where="door") == 2
    assert counters.value("refused", why="empty") == 0


def test_a_snapshot_does_not_change_any_more() -> None:
    counters = Counters()
    counters.add("a", x="1")
    before = counters.snapshot()
    counters.add("a", x="1")
    assert before == {("a", (("x", "1"),)): 1}
