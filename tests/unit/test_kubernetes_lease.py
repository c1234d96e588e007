"""Whose Lease has run out, whatever the clocks say."""

from __future__ import annotations

from typing import Any

import pytest

from containerssh.backends.kubernetes.lease import Observed, Rhythm
from containerssh.config.kubernetes import KubernetesConfig


def a_lease(name: str, renewed: str = "2026-01-01T00:00:00.000000Z", lasts: Any = 40, uid: str = "u") -> dict[str, Any]:
    return {"metadata": {"name": name, "uid": uid}, "spec": {"renewTime": renewed, "leaseDurationSeconds": lasts}}


def test_a_lease_runs_out_when_it_is_not_renewed_by_our_own_clock() -> None:
    observed = Observed(40)
    assert observed.see([a_lease("a")], 1000) == []
    assert observed.see([a_lease("a")], 1040) == []
    assert observed.see([a_lease("a")], 1041) == ["a"]


def test_times_in_a_lease_are_only_looked_at_for_changes() -> None:
    """Its holder's clock may be years behind, or be set back."""
    observed = Observed(40)
    for number in range(10):
        renewed = f"19{90 - number}-01-01T00:00:00.000000Z"
        assert observed.see([a_lease("a", renewed)], 1000 + 30 * number) == []


def test_a_lease_of_the_same_name_that_is_another_one_begins_anew() -> None:
    observed = Observed(40)
    observed.see([a_lease("a", uid="one")], 0)
    assert observed.see([a_lease("a", uid="two")], 100) == []


def test_after_a_failure_of_our_own_others_have_as_long_as_a_lease_lasts() -> None:
    """The API was away for them as well: nobody could renew anything."""
    observed = Observed(40)
    observed.see([a_lease("a")], 0)
    observed.missing(iter(["gone"]), 0)
    observed.forget()
    assert observed.see([a_lease("a")], 100) == []
    assert observed.missing(iter(["gone"]), 100) == []
    assert observed.see([a_lease("a")], 141) == ["a"]


def test_a_lease_may_last_longer_than_ours_and_not_shorter_nor_for_ever() -> None:
    observed = Observed(40)
    leases = [
        a_lease("long", lasts=120),
        a_lease("short", lasts=1),
        a_lease("odd", lasts="x"),
        a_lease("ever", lasts=10**9),
    ]
    observed.see(leases, 0)
    assert observed.see(leases, 41) == ["short", "odd"]
    assert observed.see(leases, 121) == ["long", "short", "odd"]
    assert "ever" in observed.see(leases, 601)


def test_a_lease_that_is_not_there_is_waited_for_as_long_as_one_lasts() -> None:
    observed = Observed(40)
    observed.see([a_lease("there")], 0)
    assert observed.missing(iter(["there", "gone"]), 0) == []
    assert observed.missing(iter(["there", "gone"]), 41) == ["gone"]
    assert observed.missing(iter(["there"]), 42) == []
    assert observed.missing(iter(["gone"]), 43) == [], "it was forgotten meanwhile"


def test_a_look_for_a_lease_that_may_still_come_is_worth_while() -> None:
    observed = Observed(40)
    assert not observed.waits(0)
    observed.missing(iter(["gone"]), 0)
    assert observed.waits(40)
    assert not observed.waits(41)


def test_a_lease_without_anything_in_it_is_one_that_is_not_renewed() -> None:
    observed = Observed(40)
    empty = {"metadata": {"name": "a", "uid": "u"}, "spec": None}
    assert observed.see([empty], 0) == []
    assert observed.see([empty], 41) == ["a"]


@pytest.mark.parametrize("lasts", [3.0, 40.0, 600.0])
def test_a_lease_is_renewed_several_times_before_it_runs_out(lasts: float) -> None:
    rhythm = Rhythm.of(lasts)
    assert rhythm.lasts == lasts
    assert 3 * rhythm.renew < lasts
    assert rhythm.look < lasts


def test_the_configured_default_is_the_usual_rhythm() -> None:
    assert Rhythm.of(KubernetesConfig().timeouts.lease.total_seconds()) == Rhythm()


def test_a_lease_that_could_not_be_renewed_in_time_is_refused() -> None:
    config = KubernetesConfig.model_validate({"timeouts": {"lease": "2s"}})
    assert [problem.path for problem in config.problems()] == ["timeouts.lease"]
