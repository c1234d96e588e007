"""
What else libssh can do, by its C interface.

Run as ``python -m tests.support.libssh_channels PORT USER PASSWORD``, and ``forwards`` or ``files`` at the end.
Standard input is the data; what came of it is JSON on standard output.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import sys
from typing import Any

from tests.support.libssh import Failed, connected, load

LIMIT = 10_000
"""Milliseconds."""
PIECE = 30_000

Outcome = dict[str, object]


def main(arguments: list[str]) -> None:
    port, user, password, what = arguments
    ssh = load()
    for name in ("ssh_channel_accept_forward", "sftp_new", "sftp_open", "sftp_stat", "sftp_canonicalize_path"):
        getattr(ssh, name).restype = ctypes.c_void_p
    for name in ("sftp_write", "sftp_read"):
        getattr(ssh, name).restype = ctypes.c_ssize_t
    session = connected(ssh, int(port), user, password)
    data = sys.stdin.buffer.read()
    outcome = forwards(ssh, session, data) if what == "forwards" else files(ssh, session, data)
    ssh.ssh_disconnect(session)
    ssh.ssh_free(session)
    print(json.dumps(outcome))


def forwards(ssh: Any, session: Any, data: bytes) -> Outcome:
    """A port of the container that leads here, and a connection to that very port."""
    port = ctypes.c_int()
    _check(ssh, session, ssh.ssh_channel_listen_forward(session, b"localhost", 0, ctypes.byref(port)))
    near = _opened(ssh, session, "ssh_channel_open_forward", b"localhost", port.value)
    destination = ctypes.c_int()
    far = ctypes.c_void_p(ssh.ssh_channel_accept_forward(session, LIMIT, ctypes.byref(destination)))
    assert far, "no connection came"
    there, back = bytearray(), bytearray()
    for start in range(0, len(data), PIECE):
        piece = data[start : start + PIECE]
        there += _carried(ssh, near, far, piece)
        back += _carried(ssh, far, near, piece)
    ssh.ssh_channel_send_eof(near)
    buffer = ctypes.create_string_buffer(1)
    ended = ssh.ssh_channel_read_timeout(far, buffer, 1, 0, LIMIT) == 0
    # The other direction goes on.
    last = _carried(ssh, far, near, b"last words")
    for channel in (near, far):
        ssh.ssh_channel_close(channel)
    _check(ssh, session, ssh.ssh_channel_cancel_forward(session, b"localhost", port.value))
    refused = ""
    try:
        _opened(ssh, session, "ssh_channel_open_forward", b"localhost", port.value)
    except Failed as exc:
        refused = str(exc)
    return {
        "port": port.value,
        "destination": destination.value,
        "there": hashlib.sha256(there).hexdigest(),
        "back": hashlib.sha256(back).hexdigest(),
        "ended": ended,
        "last": last.decode(),
        "refused": refused,
    }


def files(ssh: Any, session: Any, data: bytes) -> Outcome:
    """A file that is sent, renamed and fetched."""
    sftp = ctypes.c_void_p(ssh.sftp_new(session))
    _check(ssh, session, ssh.sftp_init(sftp))
    _check(ssh, session, ssh.sftp_mkdir(sftp, b"/tmp/d", 0o755))
    file = ctypes.c_void_p(ssh.sftp_open(sftp, b"/tmp/d/a", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o640))
    assert file, "it cannot be created"
    for start in range(0, len(data), PIECE):
        piece = data[start : start + PIECE]
        assert ssh.sftp_write(file, piece, len(piece)) == len(piece)
    _check(ssh, session, ssh.sftp_close(file))
    _check(ssh, session, ssh.sftp_rename(sftp, b"/tmp/d/a", b"/tmp/d/b"))
    file = ctypes.c_void_p(ssh.sftp_open(sftp, b"/tmp/d/b", os.O_RDONLY, 0))
    buffer, back = ctypes.create_string_buffer(PIECE), bytearray()
    while (count := ssh.sftp_read(file, buffer, PIECE)) > 0:
        back += buffer.raw[:count]
    _check(ssh, session, ssh.sftp_close(file))
    missing = ssh.sftp_stat(sftp, b"/tmp/d/a")
    reason = ssh.sftp_get_error(sftp)
    path = ctypes.string_at(ssh.sftp_canonicalize_path(sftp, b"/tmp/./d/..")).decode()
    _check(ssh, session, ssh.sftp_unlink(sftp, b"/tmp/d/b"))
    _check(ssh, session, ssh.sftp_rmdir(sftp, b"/tmp/d"))
    ssh.sftp_free(sftp)
    return {
        "back": hashlib.sha256(back).hexdigest(),
        "missing": [missing, reason],
        "path": path,
    }


def _check(ssh: Any, session: Any, result: int) -> None:
    if result != 0:
        raise Failed((ssh.ssh_get_error(session) or b"").decode() or f"result {result}")


def _opened(ssh: Any, session: Any, function: str, host: bytes, port: int) -> Any:
    channel = ctypes.c_void_p(ssh.ssh_channel_new(session))
    _check(ssh, session, getattr(ssh, function)(channel, host, port, b"127.0.0.1", 1))
    return channel


def _carried(ssh: Any, source: Any, target: Any, data: bytes) -> bytes:
    """*data* written to one channel and read from another."""
    assert ssh.ssh_channel_write(source, data, len(data)) == len(data)
    buffer, got = ctypes.create_string_buffer(len(data)), bytearray()
    while len(got) < len(data):
        count = ssh.ssh_channel_read_timeout(target, buffer, len(data) - len(got), 0, LIMIT)
        assert count > 0, f"{len(got)} of {len(data)} bytes came"
        got += buffer.raw[:count]
    return bytes(got)


if __name__ == "__main__":
    main(sys.argv[1:])
