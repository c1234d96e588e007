"""Which instance is dead: only one of this state folder whose lock is free."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from containerssh.core.instance import make_private, open_instance


def test_a_running_instance_is_not_dead_to_another(tmp_path: Path) -> None:
    with (
        open_instance(tmp_path / "state", tmp_path / "run"),
        open_instance(tmp_path / "state", tmp_path / "run") as other,
    ):
        assert other.dead() == []


def test_an_instance_is_never_dead_while_it_starts_or_ends(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib\n"
        "from containerssh.core.instance import open_instance\n"
        "while True:\n"
        "    with open_instance(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])) as i:\n"
        "        print(i.id, flush=True)\n"
    )
    with (
        open_instance(tmp_path / "state", tmp_path / "run") as ours,
        subprocess.Popen(
            [sys.executable, "-c", program, tmp_path / "state", tmp_path / "run"], stdout=subprocess.PIPE
        ) as process,
    ):
        assert process.stdout is not None
        try:
            for _ in range(2000):
                assert process.stdout.readline()
                assert ours.dead() == []
        finally:
            process.kill()


def test_an_instance_that_was_killed_is_dead_and_can_be_forgotten(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib\n"
        "from containerssh.core.instance import open_instance\n"
        "with open_instance(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])) as i:\n"
        "    print(i.id, flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, tmp_path / "state", tmp_path / "run"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        killed = process.stdout.readline().strip()
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    with open_instance(tmp_path / "state", tmp_path / "run") as ours:
        assert ours.dead() == [killed]
        ours.forget(killed)
        assert ours.dead() == []
        assert not (tmp_path / "run" / killed).exists()


def test_the_end_of_an_instance_leaves_neither_lock_nor_sockets(tmp_path: Path) -> None:
    with open_instance(tmp_path / "state", tmp_path / "run") as instance:
        assert instance.runtime.stat().st_mode & 0o077 == 0
    assert list((tmp_path / "state" / "instances").iterdir()) == []
    assert list((tmp_path / "run").iterdir()) == []


def test_a_planted_link_is_not_used_as_a_private_folder(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermissionError):
        make_private(tmp_path / "link")


def test_a_folder_that_others_may_enter_is_closed_to_them(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    make_private(folder)
    assert folder.stat().st_mode & 0o777 == 0o700


def test_notes_are_for_whoever_comes_after_a_dead_instance(tmp_path: Path) -> None:
    with open_instance(tmp_path / "state", tmp_path / "run") as instance:
        for text in ("one", "two", "one"):
            instance.note(text)
        with open_instance(tmp_path / "state", tmp_path / "run") as other:
            assert other.notes(instance.id) == ["one", "two"]
            assert other.notes(other.id) == other.notes("d" * 16) == other.notes("../../etc/passwd") == []
            assert other.dead() == []
    assert not list((tmp_path / "state/instances").iterdir())
