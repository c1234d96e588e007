"""The store of remembered keys: what it holds, for how many, and what it makes of other bytes."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containerssh.auth import remembered
from containerssh.auth.remembered import LARGEST_ENTRY, MOST_OF_A_USER, Remembered, Store, StoreUnusable, Subject
from containerssh.core.errors import ConfigError

ALICE = Subject("alice", b"key", "", "context")
EARNED = Remembered("alice", "ali", {"a": "b"}, {"C": "d"}, "SHA256:x", "", 100.0, 200.0)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_what_is_kept_is_found_under_its_subject_alone(store: Store) -> None:
    assert store.find(ALICE) is None
    assert store.keep(ALICE, EARNED, now=100)
    assert store.find(ALICE) == EARNED
    for other in ({"username": "bob"}, {"key": b"other"}, {"address": "192.0.2.1"}, {"context": "x"}):
        assert store.find(replace(ALICE, **other)) is None
    store.forget(ALICE)
    assert store.find(ALICE) is None


TEXTS = st.text(st.characters(codec="utf-8"), max_size=6)
SUBJECTS = st.builds(Subject, TEXTS, st.binary(max_size=6), TEXTS, TEXTS)


@given(SUBJECTS, SUBJECTS)
def test_different_subjects_have_different_names(one: Subject, other: Subject) -> None:
    assert (one.encoded() == other.encoded()) is (one == other)


@given(st.binary(max_size=200) | st.none() | st.integers() | st.text(max_size=5), st.binary(max_size=40))
def test_any_other_bytes_are_nothing(sealed: object, name: bytes) -> None:
    assert remembered._unseal(b"s" * 32, name, sealed) is None


def test_what_another_version_has_written_is_nothing() -> None:
    secret, name = b"s" * 32, b"name"
    sealed = remembered._seal(secret, name, EARNED)
    assert remembered._unseal(secret, name, sealed) == EARNED
    assert remembered._unseal(secret, b"other", sealed) is None
    assert remembered._unseal(b"t" * 32, name, sealed) is None


def test_the_oldest_of_a_user_go_and_what_has_expired(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    bob = replace(EARNED, username="bob", since=1.0, expires=1000.0)
    store.keep(replace(ALICE, username="bob"), bob, now=1)
    for number in range(MOST_OF_A_USER + 3):
        entry = replace(EARNED, since=float(number), expires=500.0 + number)
        store.keep(replace(ALICE, key=bytes([number])), entry, now=number)
    assert [entry.since for entry in store.entries() if entry.username == "alice"] == list(range(3, MOST_OF_A_USER + 3))
    assert store.find(replace(ALICE, username="bob")) == bob
    monkeypatch.setattr(remembered, "MOST_ENTRIES", 2)
    store.keep(ALICE, replace(EARNED, since=99.0), now=99)
    assert [entry.since for entry in store.entries()] == [34.0, 99.0]
    store.keep(ALICE, replace(EARNED, since=600.0, expires=700.0), now=600)
    assert [entry.since for entry in store.entries()] == [600.0]


def test_what_is_too_large_is_not_kept(store: Store) -> None:
    assert not store.keep(ALICE, replace(EARNED, metadata={"a": "x" * LARGEST_ENTRY}), now=1)
    assert store.entries() == []


def test_names_and_keys_are_not_in_the_files_which_are_ours_alone(store: Store, tmp_path: Path) -> None:
    store.keep(ALICE, EARNED, now=1)
    for path in (tmp_path / "store").iterdir():
        assert b"ali" not in path.read_bytes()
    assert (tmp_path / "store").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "store" / "secret").stat().st_mode & 0o777 == 0o600


def test_a_copy_of_the_file_is_worth_nothing_after_all_was_revoked(store: Store, tmp_path: Path) -> None:
    store.keep(ALICE, EARNED, now=1)
    copy = (tmp_path / "store" / "remembered.sqlite").read_bytes()
    assert store.revoke_all() == 1
    store.keep(replace(ALICE, username="bob"), EARNED, now=1)
    (tmp_path / "store" / "remembered.sqlite").write_bytes(copy)
    assert store.find(ALICE) is None
    assert store.entries() == []


def test_many_begin_at_once_with_one_secret(tmp_path: Path) -> None:
    """As processes of one server do."""
    failed: list[BaseException] = []

    def work(number: int) -> None:
        try:
            mine = Store(tmp_path / "store")
            for times in range(5):
                mine.keep(replace(ALICE, username=f"{number}-{times}"), EARNED, now=1)
        except BaseException as exc:  # noqa: BLE001  the test's thread tells
            failed.append(exc)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    store = Store(tmp_path / "store")
    assert len(store.entries()) == 30
    assert [path.name for path in sorted((tmp_path / "store").iterdir())] == ["remembered.sqlite", "secret"]


def test_a_store_that_others_lock_or_that_is_none_is_told(store: Store, tmp_path: Path) -> None:
    store.keep(ALICE, EARNED, now=1)
    hasty = Store(tmp_path / "store", patience=0.05)
    with closing(sqlite3.connect(tmp_path / "store" / "remembered.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreUnusable):
            hasty.find(ALICE)
    (tmp_path / "store" / "remembered.sqlite").write_bytes(b"x" * 5000)
    for call in (lambda: store.find(ALICE), lambda: store.keep(ALICE, EARNED, now=1), store.entries):
        with pytest.raises(StoreUnusable):
            call()
    store.check()


def test_nothing_is_made_before_there_is_something_to_remember(store: Store, tmp_path: Path) -> None:
    store.check()
    assert store.find(ALICE) is None
    assert (store.entries(), store.revoke("alice"), store.revoke_all()) == ([], 0, 0)
    assert not (tmp_path / "store").exists()


def test_a_folder_that_is_a_link_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "store").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError):
        Store(tmp_path / "store").check()
