"""SFTP request by request, without a client that hides statuses; the server is a local program."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

READ, WRITE, APPEND, CREATE, TRUNCATE, EXCLUSIVE = 1, 2, 4, 8, 16, 32
OPEN, CLOSE, READ_DATA, WRITE_DATA, LSTAT, FSTAT, SETSTAT, FSETSTAT = range(3, 11)
OPENDIR, READDIR, REMOVE, MKDIR, RMDIR, REALPATH, STAT, RENAME, READLINK, SYMLINK = range(11, 21)
EXTENDED = 200
_INIT = 1


def word(value: int) -> bytes:
    return struct.pack(">I", value)


def long(value: int) -> bytes:
    return struct.pack(">Q", value)


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return word(len(data)) + data


def attributes(size: int | None = None, permissions: int | None = None, times: tuple[int, int] | None = None) -> bytes:
    """Those that are given, as requests have them."""
    flags = (size is not None) | ((permissions is not None) << 2) | ((times is not None) << 3)
    given = b"" if size is None else long(size)
    given += b"" if permissions is None else word(permissions)
    return word(flags) + given + (b"" if times is None else word(times[0]) + word(times[1]))


class Peer:
    """An SFTP server that has been greeted."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._id = 0
        self._send(bytes([_INIT]) + word(3))
        self._receive()

    def ask(self, kind: int, body: bytes) -> tuple[str, object]:
        """One request: what kind of answer there is, and what it says. Blocks."""
        self._id += 1
        self._send(bytes([kind]) + word(self._id) + body)
        answer = self._receive()
        assert answer[1:5] == word(self._id)
        return _understood(answer[0], answer[5:])

    def open(self, path: str, flags: int) -> bytes:
        kind, handle = self.ask(OPEN, text(path) + word(flags) + word(0))
        assert kind == "handle"
        assert isinstance(handle, bytes)
        return handle

    def _send(self, packet: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(text(packet))
        self._process.stdin.flush()

    def _receive(self) -> bytes:
        assert self._process.stdout is not None
        (size,) = struct.unpack(">I", self._process.stdout.read(4))
        return self._process.stdout.read(size)


def _understood(kind: int, body: bytes) -> tuple[str, object]:
    (first,) = struct.unpack(">I", body[:4])
    match kind:
        case 101:
            return "status", first
        case 102:
            return "handle", body[4 : 4 + first]
        case 103:
            return "data", body[4 : 4 + first]
        case 104:
            return "names", _names(first, body[4:])
        case 105:
            # Without the times, which are those of the test.
            return "attributes", body[:24]
        case _:
            return "extended", body


def _names(count: int, rest: bytes) -> tuple[bytes, ...]:
    found = []
    for _ in range(count):
        (size,) = struct.unpack(">I", rest[:4])
        found.append(rest[4 : 4 + size])
        rest = rest[4 + size :]
        (shown,) = struct.unpack(">I", rest[:4])
        rest = rest[4 + shown :]
        (flags,) = struct.unpack(">I", rest[:4])
        rest = rest[4 + sum(size for bit, size in ((1, 8), (2, 8), (4, 4), (8, 8)) if flags & bit) :]
    return tuple(sorted(found))


@contextmanager
def serving(program: Sequence[str | Path], folder: Path) -> Iterator[Peer]:
    """A server that starts in *folder*."""
    process = subprocess.Popen(
        program, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    with process:
        try:
            yield Peer(process)
        finally:
            process.kill()
