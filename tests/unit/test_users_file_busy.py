"""What judging costs, and how many attempts at once change nothing."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import bcrypt
import pytest

from containerssh.auth import users, watched_file
from containerssh.auth.users import UsersFile
from containerssh.core.errors import AuthUnavailable
from tests.support.users_file import ATTEMPT, HASH, key, overwrite, refused, write


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "users.yaml"


async def test_an_unknown_user_costs_as_much_time_as_a_known_one(path: Path) -> None:
    slow = bcrypt.hashpw(b"right", bcrypt.gensalt(9)).decode()
    write(path, {"cheap": {"password": HASH}, **{f"user{n}": {"password": slow} for n in range(3)}, "keys": {}})
    file = UsersFile(path)

    async def fastest(name: str) -> float:
        taken = []
        for _ in range(5):
            start = time.perf_counter()
            await refused(file.authenticate_password(replace(ATTEMPT, username=name), b"wrong"))
            taken.append(time.perf_counter() - start)
        return min(taken)

    known = await fastest("user1")
    for name in ("nobody", "keys"):
        # The cheap hash takes a hundredth; the margin is for a busy machine.
        assert await fastest(name) > known / 5


async def test_too_many_passwords_at_once_are_turned_away(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(users, "MOST_WAITING", 2)
    slow = bcrypt.hashpw(b"right", bcrypt.gensalt(10)).decode()
    write(path, {"alice": {"password": slow}})
    file = UsersFile(path)
    results = await asyncio.gather(
        *(file.authenticate_password(ATTEMPT, b"right") for _ in range(20)), return_exceptions=True
    )
    turned_away = [result for result in results if isinstance(result, AuthUnavailable)]
    assert 0 < len(turned_away) <= 18
    assert len(turned_away) + sum(not isinstance(result, BaseException) for result in results) == 20


async def test_judging_does_not_hold_up_the_server(path: Path) -> None:
    slow = bcrypt.hashpw(b"right", bcrypt.gensalt(11)).decode()
    write(path, {"alice": {"password": slow}})
    file = UsersFile(path)
    judging = asyncio.create_task(file.authenticate_password(ATTEMPT, b"right"))
    turns = 0
    while not judging.done():
        await asyncio.sleep(0.005)
        turns += 1
    assert (await judging).authenticated_username == "alice"
    assert turns > 3


@pytest.mark.parametrize("near", [True, False])
async def test_only_a_file_that_others_may_keep_waiting_is_looked_at_in_a_thread(
    path: Path, monkeypatch: pytest.MonkeyPatch, near: bool
) -> None:
    monkeypatch.setattr(watched_file, "_is_near", lambda _: near)
    keys = path.with_name("keys")
    overwrite(keys, key(1).authorized_key)
    write(path, {"alice": {"authorizedKeysFile": "keys"}})
    for file in (keys, path):
        # Long enough ago for a change to be seen by the time alone.
        os.utime(file, (1, 1))
    users_file = UsersFile(path)
    await users_file.authenticate_public_key(ATTEMPT, key(1))
    looks = []

    async def to_thread(call: Callable[..., Any], *arguments: Any) -> Any:
        looks.append(call)
        return call(*arguments)

    monkeypatch.setattr(asyncio, "to_thread", to_thread)
    await users_file.authenticate_public_key(ATTEMPT, key(1))
    assert len(looks) == (0 if near else 2)
    overwrite(keys, key(2).authorized_key)
    await users_file.authenticate_public_key(ATTEMPT, key(2))
    write(path, {})
    await refused(users_file.authenticate_public_key(ATTEMPT, key(2)))
    assert len(looks) == (2 if near else 5)


def test_only_known_kinds_of_file_systems_keep_nobody_waiting(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.touch()
    everything = {file.stat().st_dev for file in (path, *path.parents, *path.resolve().parents)}
    monkeypatch.setattr(watched_file, "_kinds_of_devices", lambda: dict.fromkeys(everything, "ext4"))
    assert watched_file._is_near(path)
    monkeypatch.setattr(watched_file, "_kinds_of_devices", lambda: dict.fromkeys(everything, "nfs4"))
    assert not watched_file._is_near(path)
    monkeypatch.undo()
    assert watched_file._kinds_of_devices()[Path("/proc").stat().st_dev] == "proc"
    assert not watched_file._is_near(Path("/proc/version"))


async def test_an_attempt_that_is_cancelled_leaves_its_place_to_others(path: Path) -> None:
    slow = bcrypt.hashpw(b"right", bcrypt.gensalt(10)).decode()
    write(path, {"alice": {"password": slow}})
    file = UsersFile(path)
    attempts = [asyncio.create_task(file.authenticate_password(ATTEMPT, b"right")) for _ in range(20)]
    await asyncio.sleep(0.02)
    for attempt in attempts:
        attempt.cancel()
    await asyncio.gather(*attempts, return_exceptions=True)
    async with asyncio.timeout(10):
        await file.authenticate_password(ATTEMPT, b"right")


async def test_replacing_the_file_during_logins_never_refuses_a_user_of_both(path: Path) -> None:
    write(path, {"alice": {"authorizedKeys": [key().authorized_key]}})
    file = UsersFile(path)
    done = threading.Event()

    def replace_often() -> None:
        number = 0
        while not done.is_set():
            number += 1
            extra: dict[str, Any] = {f"user{n}": {} for n in range(number % 20)}
            write(path, {"alice": {"authorizedKeys": [key().authorized_key]}, **extra})
            time.sleep(0.002)

    thread = threading.Thread(target=replace_often)
    thread.start()
    try:
        for _ in range(100):
            await file.authenticate_public_key(ATTEMPT, key())
    finally:
        done.set()
        thread.join()
