"""The agent's SFTP server beside OpenSSH's: the same requests have the same answers and effects."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from containerssh.agent.binaries import agent_binary
from tests.support import sftp_peer as sftp
from tests.support.sftp_peer import Peer, attributes, long, text, word

OPENSSH = Path("/usr/lib/openssh/sftp-server")

pytestmark = pytest.mark.skipif(not OPENSSH.exists(), reason="no sftp-server of OpenSSH")

Answers = Iterator[tuple[str, object]]

PLACES = (
    "file", "folder", "missing", "link", "dangling", "loop", "link-to-folder", "file/below", "missing/below",
    "folder/.", "folder/../file", "link/", ".", "/", "x" * 256, "y/" * 3000,
)  # fmt: skip


def opening(peer: Peer) -> Answers:
    flags = {
        "r": sftp.READ, "w": sftp.WRITE, "rw": sftp.READ | sftp.WRITE, "create": sftp.WRITE | sftp.CREATE, "": 0,
        "new": sftp.WRITE | sftp.CREATE | sftp.EXCLUSIVE, "append": sftp.APPEND, "empty": sftp.WRITE | sftp.TRUNCATE,
        "read and create": sftp.READ | sftp.CREATE, "read and empty": sftp.READ | sftp.TRUNCATE,
    }  # fmt: skip
    for place in (*PLACES, "new", "new/", "missing/new", "socket", "/dev/null"):
        for wanted in flags.values():
            kind, said = peer.ask(sftp.OPEN, text(place) + word(wanted) + attributes(permissions=0o4640))
            yield kind, said
            if kind == "handle":
                assert isinstance(said, bytes)
                if wanted & 3 != sftp.WRITE:
                    yield peer.ask(sftp.READ_DATA, text(said) + long(0) + word(5))
                yield peer.ask(sftp.FSTAT, text(said))
                yield peer.ask(sftp.CLOSE, text(said))


def reading_and_writing(peer: Peer) -> Answers:
    handle = text(peer.open("data", sftp.READ | sftp.WRITE | sftp.CREATE))
    for offset, data in ((0, b"hello"), (10, b"x"), (3, b""), (2**64 - 1, b"a"), (2**63 - 1, b"a")):
        yield peer.ask(sftp.WRITE_DATA, handle + long(offset) + text(data))
    for offset, size in ((0, 100), (11, 1), (2**40, 1), (0, 0), (100, 0), (2**63, 1), (2**63 - 1, 9), (0, 2**32 - 1)):
        yield peer.ask(sftp.READ_DATA, handle + long(offset) + word(size))
    for wanted in (attributes(size=3), attributes(), attributes(size=2**64 - 1), attributes(permissions=0o104711)):
        yield peer.ask(sftp.FSETSTAT, handle + wanted)
    yield peer.ask(sftp.FSTAT, handle)
    yield peer.ask(sftp.EXTENDED, text("fsync@openssh.com") + handle)
    yield peer.ask(sftp.CLOSE, handle)
    for kind, rest in (
        (sftp.READ_DATA, long(0) + word(1)),
        (sftp.WRITE_DATA, long(0) + text("a")),
        (sftp.READDIR, b""),
    ):
        yield peer.ask(kind, handle + rest)
    more = text(peer.open("data", sftp.READ | sftp.WRITE | sftp.APPEND))
    for data in (b"one", b"two"):
        yield peer.ask(sftp.WRITE_DATA, more + long(100) + text(data))
    yield peer.ask(sftp.READ_DATA, more + long(0) + word(100))


def looking(peer: Peer) -> Answers:
    for place in PLACES:
        for kind in (sftp.STAT, sftp.LSTAT, sftp.READLINK, sftp.REALPATH):
            yield peer.ask(kind, text(place))
        yield (peer.ask(sftp.EXTENDED, text("statvfs@openssh.com") + text(place))[0], None)
        kind_of_answer, handle = peer.ask(sftp.OPENDIR, text(place))
        yield kind_of_answer, handle
        if isinstance(handle, bytes) and place != "/":
            for _ in range(2):
                yield peer.ask(sftp.READDIR, text(handle))
            yield peer.ask(sftp.CLOSE, text(handle))
    handle = peer.open("file", sftp.READ)
    _, of_handle = peer.ask(sftp.EXTENDED, text("fstatvfs@openssh.com") + text(handle))
    assert isinstance(of_handle, bytes)
    # Block sizes, the file system's number, its flags and the longest name; what is free changes meanwhile.
    yield "extended", of_handle[:16] + of_handle[64:]


def setting(peer: Peer) -> Answers:
    wanted = (
        attributes(permissions=0o4711), attributes(times=(1, 2)), attributes(times=(2**32 - 1, 2**31)), attributes(),
        attributes(size=2),
    )  # fmt: skip
    for both in (attributes(size=5, permissions=0o600, times=(3, 4)), attributes(size=2**63)):
        yield peer.ask(sftp.SETSTAT, text("file") + both)
    for place in PLACES[:9]:
        for one in wanted:
            yield peer.ask(sftp.SETSTAT, text(place) + one)
            yield peer.ask(sftp.LSTAT, text(place))
    for place in ("file", "link", "dangling", "folder", "missing"):
        yield peer.ask(sftp.EXTENDED, text("lsetstat@openssh.com") + text(place) + attributes(times=(5, 6)))
    yield peer.ask(sftp.EXTENDED, text("lsetstat@openssh.com") + text("file") + attributes(permissions=0o640))


def making_and_removing(peer: Peer) -> Answers:
    for place in (*PLACES, "new", "newer/"):
        yield peer.ask(sftp.MKDIR, text(place) + attributes(permissions=0o1770))
    for kind in (sftp.RMDIR, sftp.REMOVE):
        for place in ("link-to-folder", "file/below", "file/", "link/", "..", "folder", "dangling", *PLACES):
            yield peer.ask(kind, text(place))


def two_paths(peer: Peer) -> Answers:
    sources = ("file", "folder", "link", "missing", "pipe", "full", "dangling")
    requests = (
        (sftp.EXTENDED, text("hardlink@openssh.com")),
        (sftp.SYMLINK, b""),
        (sftp.RENAME, b""),
        (sftp.EXTENDED, text("posix-rename@openssh.com")),
    )
    for number, (kind, before) in enumerate(requests):
        for source in sources:
            targets = ("file", "full", f"new-{number}-{source}", "missing/x", f"{source}/below", "x" * 256, "newer/")
            for target in targets:
                yield peer.ask(kind, before + text(source) + text(target))


def copying(peer: Peer) -> Answers:
    source, target = (peer.open(name, sftp.READ | sftp.WRITE | sftp.CREATE) for name in ("data", "copy"))
    peer.ask(sftp.WRITE_DATA, text(source) + long(0) + text("0123456789"))
    ranges = ((0, 0, 0), (3, 4, 20), (5, 100, 0), (100, 0, 0), (100, 5, 0), (2**63, 1, 0))
    for offset, size, to in ranges:
        yield peer.ask(
            sftp.EXTENDED, text("copy-data") + text(source) + long(offset) + long(size) + text(target) + long(to)
        )
        yield peer.ask(sftp.READ_DATA, text(target) + long(0) + word(100))
    yield peer.ask(sftp.EXTENDED, text("copy-data") + text(source) + long(0) + long(5) + text(source) + long(50))


def names(peer: Peer) -> Answers:
    yield peer.ask(
        sftp.EXTENDED,
        text("users-groups-by-id@openssh.com") + text(word(0) + word(1) + word(99_999)) + text(word(0) + word(88_888)),
    )
    for path in ("~root", "~root/x", "file", "missing/below"):
        yield peer.ask(sftp.EXTENDED, text("expand-path@openssh.com") + text(path))
    yield peer.ask(sftp.EXTENDED, text("home-directory") + text("root"))
    yield peer.ask(sftp.EXTENDED, text("no-such-extension@example.com") + text("x"))


def furnish(folder: Path) -> Path:
    """What requests of :data:`GROUPS` are about."""
    folder.mkdir()
    for name in ("folder", "full", "empty"):
        (folder / name).mkdir()
    for name in ("file", "folder/one", "full/one"):
        (folder / name).write_text("content")
    for name, target in (
        ("link", "file"), ("dangling", "gone"), ("loop", "loop"), ("link-to-folder", "folder"),
    ):  # fmt: skip
        (folder / name).symlink_to(target)
    os.mkfifo(folder / "pipe")
    os.mknod(folder / "socket", stat.S_IFSOCK | 0o600)
    return folder


def tree(folder: Path) -> dict[str, tuple[object, ...]]:
    """All that is in *folder*: kinds, modes, sizes, contents, targets."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content: object = path.read_bytes() if stat.S_ISREG(status.st_mode) else None
        target = path.readlink() if path.is_symlink() else None
        found[str(path.relative_to(folder))] = (oct(status.st_mode), status.st_nlink, content, target)
    return found


GROUPS: tuple[Callable[[Peer], Answers], ...] = (
    opening, reading_and_writing, looking, setting, making_and_removing, two_paths, copying, names,
)  # fmt: skip


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.__name__)
def test_answers_and_effects_are_those_of_openssh(tmp_path: Path, group: Callable[[Peer], Answers]) -> None:
    told = []
    programs: dict[str, list[str | Path]] = {"a": [OPENSSH], "b": [agent_binary(), "sftp"]}
    for name, program in programs.items():
        # Both names have the same length, and only this much of an absolute path differs.
        folder = furnish(tmp_path / name)
        with sftp.serving(program, folder) as peer:
            answers = [
                (kind, None if kind == "handle" else _without(said, bytes(folder))) for kind, said in group(peer)
            ]
        told.append((answers, tree(folder)))
    (theirs, their_tree), (ours, our_tree) = told
    assert len(theirs) > 5
    assert [pair for pair in zip(theirs, ours, strict=True) if pair[0] != pair[1]] == []
    assert our_tree == their_tree


def _without(said: object, folder: bytes) -> object:
    if isinstance(said, tuple):
        return tuple(_without(one, folder) for one in said)
    return said.replace(folder, b"/here") if isinstance(said, bytes) else said
