"""Folders that a guest has made are removed, copied and shifted, whatever is in them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from containerssh.backends.oci import trees
from tests.support.oci import needs_root


def test_a_folder_deeper_than_paths_can_be_is_removed(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    here = os.open(top, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("deeper", dir_fd=here)
        inner = os.open("deeper", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    trees.remove(str(top))
    assert not top.exists()


def test_names_that_look_like_our_own_are_no_obstacle(tmp_path: Path) -> None:
    top = tmp_path / "top"
    for number in (1, 2, 5):
        (top / f".removing-{number}/x/y").mkdir(parents=True)
    (top / ".removing-3").write_text("")
    trees.remove(str(top))
    assert not top.exists()


def test_what_links_lead_to_stays(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/file").write_text("kept")
    top = tmp_path / "top"
    (top / "sub").mkdir(parents=True)
    (top / "sub/link").symlink_to(tmp_path / "precious")
    (top / "link").symlink_to(tmp_path / "precious")
    trees.remove(str(top))
    assert (tmp_path / "precious/file").read_text() == "kept"


def test_a_folder_that_is_not_there_is_removed_already(tmp_path: Path) -> None:
    trees.remove(str(tmp_path / "nothing"))


def test_folders_without_rights_are_removed(tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / "closed/inner").mkdir(parents=True)
    (top / "closed/file").write_text("")
    (top / "closed").chmod(0)
    trees.remove(str(top))
    assert not top.exists()


def test_a_copy_has_the_same_content_links_and_modes(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "sub/tool").write_text("x")
    (source / "sub/tool").chmod(0o4755)
    (source / "link").symlink_to("/etc/shadow")
    os.mkfifo(source / "pipe")
    trees.copy(str(source), str(tmp_path / "copy"))
    assert (tmp_path / "copy/sub/tool").read_text() == "x"
    assert (tmp_path / "copy/sub/tool").stat().st_mode & 0o7777 == 0o4755
    assert (tmp_path / "copy/link").readlink() == Path("/etc/shadow")
    assert not (tmp_path / "copy/pipe").exists()


@needs_root
def test_every_owner_is_shifted_once(tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / "sub").mkdir(parents=True)
    (top / "sub/file").write_text("")
    os.chown(top / "sub/file", 5, 6)
    (top / "sub/file").chmod(0o4755)
    os.link(top / "sub/file", top / "other-name")
    (top / "to-a-folder").symlink_to("/etc")
    (top / "to-nothing").symlink_to("/nowhere")
    before = Path("/etc").stat().st_uid
    trees.shift(str(top), 1_000_000, 65536)
    for name, owner in {
        ".": (1_000_000, 1_000_000),
        "sub": (1_000_000, 1_000_000),
        "sub/file": (1_000_005, 1_000_006),
        "other-name": (1_000_005, 1_000_006),
        "to-a-folder": (1_000_000, 1_000_000),
        "to-nothing": (1_000_000, 1_000_000),
    }.items():
        found = os.lstat(top / name)
        assert (found.st_uid, found.st_gid) == owner, name
    assert (top / "sub/file").stat().st_mode & 0o7777 == 0o4755
    assert Path("/etc").stat().st_uid == before


@needs_root
def test_an_owner_outside_the_range_is_an_error(tmp_path: Path) -> None:
    os.chown(tmp_path, 70_000, 0)
    with pytest.raises(ValueError, match="larger size"):
        trees.shift(str(tmp_path), 1_000_000, 65536)


def test_a_change_in_the_tree_changes_its_signature(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    first = trees.signature(tmp_path)
    assert trees.signature(tmp_path) == first
    (tmp_path / "a/file").write_text("")
    assert trees.signature(tmp_path) != first
