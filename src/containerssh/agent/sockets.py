"""
Unix sockets whose other end a guest holds.

Such a socket can carry open files along with data (``SCM_RIGHTS``), whether or not the receiver wants them. Reading the
data or closing the socket closes the files as well, and a guest can make that take arbitrarily long: a TCP connection
with ``SO_LINGER`` waits for a peer that does not read. Since Linux 6.16 a socket can refuse files. On older kernels
they are received here and closed by a thread, and the connection is treated as broken.
"""

from __future__ import annotations

import os
import socket
import struct
from contextlib import suppress
from threading import Thread
from typing import Any

_SO_PASSRIGHTS = 83
# The most that the kernel passes at once (SCM_MAX_FD), so that it never has to close any itself.
_MOST_FILES = 253
_FILE = struct.calcsize("i")
_ROOM = socket.CMSG_SPACE(_MOST_FILES * _FILE)
_NOT_LINGERING = struct.pack("ii", 0, 0)


class GuestListener(socket.socket):
    """A stream socket that guests can connect to, and the connections that it accepts."""

    def __init__(self, *, refuse: bool = True) -> None:
        """*refuse*: refuse files, if the kernel supports it. Accepted connections inherit this."""
        super().__init__(socket.AF_UNIX, socket.SOCK_STREAM)
        self._refuses_files = refuse and _refuse_files(self)

    def accept(self) -> tuple[socket.socket, Any]:
        connection, address = super().accept()
        return (connection if self._refuses_files else GuestSocket(fileno=connection.detach())), address

    def close(self) -> None:
        """Close, including connections that were not accepted and their files."""
        if not self._refuses_files and self.fileno() >= 0:
            with suppress(OSError):
                self.setblocking(False)
                self.shutdown(socket.SHUT_RDWR)
                while True:
                    self.accept()[0].close()
        super().close()


class GuestSocket(socket.socket):
    """A connection on which files may arrive."""

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        """Like that of any socket; raises ConnectionAbortedError if files arrived."""
        data, brought, flags, _ = self.recvmsg(size, _ROOM, flags)
        if brought or flags & socket.MSG_CTRUNC:
            files = b"".join(content[: len(content) // _FILE * _FILE] for _, _, content in brought)
            Thread(target=_close, args=(struct.unpack(f"{len(files) // _FILE}i", files),), daemon=True).start()
            raise ConnectionAbortedError("the guest sent open files")
        return data

    def close(self) -> None:
        """Close, including files in unread data."""
        if self.fileno() >= 0:
            # Nothing arrives after this. Files that have arrived must not be closed by the kernel here.
            with suppress(OSError):
                self.shutdown(socket.SHUT_RDWR)
            self._empty()
        super().close()

    def _empty(self) -> None:
        while True:
            try:
                if not self.recv(1 << 20, socket.MSG_DONTWAIT):
                    return
            except ConnectionAbortedError:
                continue
            except OSError:
                return


def _refuse_files(connection: socket.socket) -> bool:
    try:
        connection.setsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS, 0)
    except OSError:
        return False
    return True


def _close(files: tuple[int, ...]) -> None:
    """Runs in a thread, since each step may block on the guest."""
    for file in files:
        with suppress(OSError):
            found = socket.socket(fileno=file)
            try:
                found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NOT_LINGERING)
            finally:
                found.detach()
        with suppress(OSError):
            os.close(file)
