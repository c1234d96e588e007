"""Open files that a guest sends along."""

from __future__ import annotations

import os
import socket
import struct
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from containerssh.agent.sockets import GuestListener, GuestSocket

LINGER = 20


def _listening(folder: Path, *, refuse: bool) -> GuestListener:
    listener = GuestListener(refuse=refuse)
    listener.bind(str(folder / "socket"))
    listener.listen(8)
    return listener


def _slow_to_close(peers: list[socket.socket]) -> int:
    """A connection whose peer does not read."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        slow = socket.create_connection(server.getsockname())
        peers.append(server.accept()[0])
    slow.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            slow.send(bytes(65536))
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, LINGER))
    return slow.detach()


def _send(guest: socket.socket, peers: list[socket.socket]) -> None:
    """A word with such a connection, which nobody else has any more."""
    file = _slow_to_close(peers)
    socket.send_fds(guest, [b"word"], [file])
    os.close(file)


def test_files_that_are_slow_to_close_hold_nobody_up(tmp_path: Path) -> None:
    peers: list[socket.socket] = []
    with ExitStack() as stack:
        listener = stack.enter_context(_listening(tmp_path, refuse=False))
        guests = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(2)]
        began = time.monotonic()
        for guest in guests:
            guest.connect(listener.getsockname())
            _send(guest, peers)
        connection, _ = listener.accept()
        with pytest.raises(ConnectionAbortedError):
            connection.recv(100)
        for _ in range(3):
            _send(guests[0], peers)
        connection.close()
        listener.close()
        assert time.monotonic() - began < LINGER / 4
    for peer in peers:
        peer.close()


def test_bytes_alone_pass(tmp_path: Path) -> None:
    with _listening(tmp_path, refuse=False) as listener, socket.socket(socket.AF_UNIX) as guest:
        guest.connect(listener.getsockname())
        guest.sendall(b"word")
        connection, _ = listener.accept()
        with connection:
            assert connection.recv(2) + connection.recv(100) == b"word"
            guest.close()
            assert connection.recv(100) == b""


def test_where_the_kernel_can_it_refuses_files(tmp_path: Path) -> None:
    with _listening(tmp_path, refuse=True) as listener, socket.socket(socket.AF_UNIX) as guest:
        guest.connect(listener.getsockname())
        connection, _ = listener.accept()
        with connection:
            if isinstance(connection, GuestSocket):
                pytest.skip("a kernel before 6.16")
            with pytest.raises(PermissionError):
                socket.send_fds(guest, [b"word"], [0])
