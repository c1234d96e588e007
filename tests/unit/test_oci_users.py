"""Names and paths of an image, which is foreign: nothing in it leads out of it."""

from __future__ import annotations

import contextlib
import ctypes
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from containerssh.backends.oci.users import User, find_user, has_program, resolve_folder, shell_of
from containerssh.core.errors import BackendError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "bin").mkdir()
    (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nada:x:1000:1001::/home/ada:/bin/zsh\nbad:x:y:z::/:\n")
    (root / "etc/group").write_text("root:x:0:\nwheel:x:10:ada,bob\nstaff:x:50:ada\nada:x:1001:\n")
    return root


@pytest.mark.parametrize(
    ("wanted", "user"),
    [
        ("", User(0, 0, (), "root", "/root", "/bin/sh")),
        ("ada", User(1000, 1001, (10, 50), "ada", "/home/ada", "/bin/zsh")),
        ("1000", User(1000, 1001, (10, 50), "ada", "/home/ada", "/bin/zsh")),
        ("ada:staff", User(1000, 50, (), "ada", "/home/ada", "/bin/zsh")),
        ("4711", User(4711, 0, (), "", "/", "")),
        ("4711:4712", User(4711, 4712, (), "", "/", "")),
    ],
)
def test_users_are_named_or_numbered(root: Path, wanted: str, user: User) -> None:
    assert find_user(root, wanted) == user


@pytest.mark.parametrize("wanted", ["nobody", "bad", "ada:nobody", "99999999999"])
def test_a_user_that_the_image_does_not_have_is_an_error(root: Path, wanted: str) -> None:
    with pytest.raises(BackendError, match="has no"):
        find_user(root, wanted)


def test_a_passwd_that_links_out_of_the_image_is_not_followed(root: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("eve:x:7:7::/:\n")
    (root / "etc/passwd").unlink()
    (root / "etc/passwd").symlink_to("../../outside")
    with pytest.raises(BackendError):
        find_user(root, "eve")


def test_a_passwd_that_is_a_pipe_does_not_hang(root: Path) -> None:
    import os

    (root / "etc/passwd").unlink()
    os.mkfifo(root / "etc/passwd")
    assert find_user(root, "").uid == 0


def test_a_passwd_that_is_no_file_is_not_even_opened(root: Path) -> None:
    import os

    (root / "etc/passwd").unlink()
    os.mkfifo(root / "etc/passwd")
    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init1(os.O_NONBLOCK)
    try:
        assert libc.inotify_add_watch(watch, os.fsencode(root / "etc/passwd"), 0x20) > 0  # IN_OPEN
        find_user(root, "")
        with pytest.raises(BlockingIOError):
            os.read(watch, 4096)
        os.close(os.open(root / "etc/passwd", os.O_RDONLY | os.O_NONBLOCK))
        assert os.read(watch, 4096)
    finally:
        os.close(watch)


def test_a_number_of_thousands_of_digits_is_no_user(root: Path) -> None:
    with pytest.raises(BackendError, match="has no user"):
        find_user(root, "9" * 5000)


def test_a_working_directory_of_a_million_folders_costs_nobody_else_time(root: Path) -> None:
    started = time.monotonic()
    with pytest.raises(BackendError, match="longer than a path can be"):
        resolve_folder(root, "/a" * 1_000_000)
    assert time.monotonic() - started < 1


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(content=st.binary(), wanted=st.sampled_from(["", "a", "0", "a:b"]))
def test_any_passwd_gives_a_user_or_a_backend_error(root: Path, content: bytes, wanted: str) -> None:
    (root / "etc/passwd").write_bytes(content)
    (root / "etc/group").write_bytes(content)
    with contextlib.suppress(BackendError):
        assert 0 <= find_user(root, wanted).uid < 2**32


def test_the_shell_is_one_that_the_image_has(root: Path) -> None:
    assert shell_of(root, find_user(root, "ada")) == "/bin/sh"
    for name in ("bash", "zsh"):
        (root / "bin" / name).write_text("")
        (root / "bin" / name).chmod(0o755)
    assert shell_of(root, find_user(root, "ada")) == "/bin/zsh"
    assert shell_of(root, User(5, 5)) == "/bin/bash"
    assert not has_program(root, "/etc")


def test_a_working_directory_is_settled_without_links(root: Path) -> None:
    (root / "srv/data").mkdir(parents=True)
    (root / "link").symlink_to("/srv/data")
    assert resolve_folder(root, "/") == "/"
    assert resolve_folder(root, "/link") == "/srv/data"
    assert resolve_folder(root, "/srv/./data/new/er") == "/srv/data/new/er"


@pytest.mark.parametrize("target", ["/proc/self/fd/8", "/proc/1/root", "../../proc/self", "/nowhere", "/etc/passwd"])
def test_a_working_directory_that_links_to_proc_or_nowhere_is_refused(root: Path, target: str) -> None:
    (root / "trap").symlink_to(target)
    with pytest.raises(BackendError, match="working directory"):
        resolve_folder(root, "/trap")


@pytest.mark.parametrize("path", ["/proc/self/fd/7", "/sys", "/dev/x", "/a/../proc", "/./proc"])
def test_a_working_directory_in_proc_is_refused(root: Path, path: str) -> None:
    with pytest.raises(BackendError, match="working directory"):
        resolve_folder(root, path)
