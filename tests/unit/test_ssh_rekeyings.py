"""How many key exchanges a client may begin, on a clock that the test sets."""

from __future__ import annotations

from containerssh.ssh.limits import BYTES_FOR_A_REKEY, Rekeyings


def test_without_traffic_there_are_so_many_in_a_minute() -> None:
    rekeyings = Rekeyings(6, 100.0)
    assert [rekeyings.begins(100.0 + number / 100, 0) for number in range(8)] == [True] * 6 + [False] * 2
    assert rekeyings.begins(112.0, 0)
    assert not rekeyings.begins(112.1, 0)
    assert [rekeyings.begins(1000.0, 0) for _ in range(8)] == [True] * 6 + [False] * 2


def test_traffic_justifies_one_at_a_time() -> None:
    rekeyings = Rekeyings(1, 0.0)
    assert all(rekeyings.begins(0.0, number * BYTES_FOR_A_REKEY) for number in range(1, 100))
    assert rekeyings.begins(0.0, 99 * BYTES_FOR_A_REKEY)
    assert not rekeyings.begins(0.0, 100 * BYTES_FOR_A_REKEY - 1)
    assert rekeyings.begins(0.0, 100 * BYTES_FOR_A_REKEY)
