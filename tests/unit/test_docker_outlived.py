"""Which containers the reaper takes for those of ended logins, whatever the clocks say."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from containerssh.backends.docker.launch import LABEL_INSTANCE, LABEL_LAUNCH
from containerssh.backends.docker.outlived import Outlived
from containerssh.backends.expiry import expiry_labels
from containerssh.core.instance import Instance, open_instance
from containerssh.core.metadata import Login, LoginSpan, SocketAddress

NOW = datetime(2026, 7, 1, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
STOP = timedelta(minutes=1)
STRANGER = "5" * 16


def labels(owner: str, ends: datetime, longest: timedelta = HOUR, launch: str = "a") -> dict[str, str]:
    login = Login(SocketAddress("192.0.2.7", 4022), "c" * 32, span=LoginSpan(longest, ends))
    return {LABEL_INSTANCE: owner, LABEL_LAUNCH: launch, **expiry_labels(login, STOP)}


def test_the_labels_say_when_the_removal_is_over_too() -> None:
    found = labels("x", NOW)
    assert found["containerssh_expires"] == "2026-07-01T12:01:00Z"
    assert found["containerssh_lifetime"] == "3660"
    assert expiry_labels(Login(SocketAddress("192.0.2.7", 1), "c" * 32), STOP) == {}


def test_of_our_own_only_those_go_that_we_do_not_hold(instance: Instance) -> None:
    found = {
        "lost": labels(instance.id, NOW - HOUR, launch="lost"),
        "held": labels(instance.id, NOW - HOUR, launch="held"),
        "young": labels(instance.id, NOW + HOUR, launch="young"),
    }
    assert list(Outlived(instance).among(found, {"held"}, NOW, 0)) == ["lost"]


def test_a_clock_that_jumps_never_takes_a_container_that_is_held(instance: Instance) -> None:
    found = {"held": labels(instance.id, NOW + HOUR, launch="held")}
    assert list(Outlived(instance).among(found, {"held"}, NOW + 1000 * DAY, 0)) == []


def test_another_living_instance_looks_after_its_own(tmp_path: Path, instance: Instance) -> None:
    with open_instance(tmp_path / "state", tmp_path / "run") as other:
        found = {"other": labels(other.id, NOW - DAY)}
        outlived = Outlived(instance)
        assert list(outlived.among(found, (), NOW, 0)) == []
        assert list(outlived.among(found, (), NOW, 1e6)) == []


def test_a_strangers_goes_when_both_clocks_say_so(instance: Instance) -> None:
    outlived = Outlived(instance)
    found = {"stranger": labels(STRANGER, NOW - HOUR)}
    assert list(outlived.among(found, (), NOW, 1000)) == [], "seen for the first time: our clock may be wrong"
    assert list(outlived.among(found, (), NOW, 1000 + 3660)) == []
    assert list(outlived.among(found, (), NOW - DAY, 1000 + 3661)) == [], "its time is not over"
    assert list(outlived.among(found, (), NOW, 1000 + 3661)) == ["stranger"]


def test_what_was_gone_meanwhile_is_watched_anew(instance: Instance) -> None:
    outlived = Outlived(instance)
    found = {"stranger": labels(STRANGER, NOW - HOUR)}
    assert not list(outlived.among(found, (), NOW, 0))
    assert not list(outlived.among({}, (), NOW, 1))
    assert not list(outlived.among(found, (), NOW, 3665))


@given(expires=st.text(max_size=30), lifetime=st.text(max_size=12), owner=st.text(max_size=20))
def test_labels_of_anybodys_making_take_nothing(expires: str, lifetime: str, owner: str) -> None:
    known = Instance("1" * 16, Path("/nonexistent/state"), Path("/nonexistent/run"))
    found = {"x": {"containerssh_expires": expires, "containerssh_lifetime": lifetime, LABEL_INSTANCE: owner}}
    assert list(Outlived(known).among(found, (), datetime.min.replace(tzinfo=UTC), 1e12)) == []
