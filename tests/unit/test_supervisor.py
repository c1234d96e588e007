"""How soon a worker that ended is started again."""

from __future__ import annotations

from containerssh.supervisor import pause_after


def test_the_pause_between_failures_doubles_up_to_half_a_minute_however_many_there_were() -> None:
    pauses = [pause_after(failures) for failures in (0, 1, 2, 3, 20, 2_000, 1_000_000)]
    assert pauses == [0.1, 0.2, 0.4, 0.8, 30, 30, 30]
