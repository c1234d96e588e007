"""A client of libssh by its C interface: ``python libssh.py PORT USER PASSWORD [--pty] [--rekey BYTES] [COMMAND]``."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from typing import Any

LIBRARY = "libssh.so.4"

_HOST, _PORT, _USER, _REKEY_DATA = 0, 1, 4, 39
_PROCESS_CONFIG = 38
_ERROR, _AGAIN = -1, -2
_READ = 65536


class Failed(Exception):
    """libssh's own words."""


def main(arguments: list[str]) -> int:
    port, user, password, *rest = arguments
    pty = "--pty" in rest
    rekey = int(rest[rest.index("--rekey") + 1]) if "--rekey" in rest else 0
    command = rest[-1] if rest and rest[-1] not in ("--pty", str(rekey)) else None
    return _run(load(), int(port), user, password, command, pty=pty, rekey=rekey)


def load() -> Any:
    """The library; what is used of it gives back an int, unless it is said otherwise."""
    library = ctypes.CDLL(LIBRARY)
    for name in ("ssh_new", "ssh_channel_new"):
        getattr(library, name).restype = ctypes.c_void_p
    library.ssh_get_error.restype = ctypes.c_char_p
    return library


def connected(ssh: Any, port: int, user: str, password: str, rekey: int = 0) -> Any:
    """A session that has logged in; new keys after *rekey* bytes, if given. Raises Failed."""
    session = ctypes.c_void_p(ssh.ssh_new())

    def check(result: int) -> None:
        if result != 0:
            raise Failed((ssh.ssh_get_error(session) or b"").decode() or f"result {result}")

    check(ssh.ssh_options_set(session, _HOST, b"127.0.0.1"))
    check(ssh.ssh_options_set(session, _PORT, ctypes.byref(ctypes.c_uint(port))))
    check(ssh.ssh_options_set(session, _USER, user.encode()))
    check(ssh.ssh_options_set(session, _PROCESS_CONFIG, ctypes.byref(ctypes.c_bool(False))))
    if rekey:
        check(ssh.ssh_options_set(session, _REKEY_DATA, ctypes.byref(ctypes.c_uint64(rekey))))
    check(ssh.ssh_connect(session))
    check(ssh.ssh_userauth_password(session, None, password.encode()))
    return session


def _run(ssh: Any, port: int, user: str, password: str, command: str | None, *, pty: bool, rekey: int) -> int:
    session = connected(ssh, port, user, password, rekey)

    def check(result: int) -> None:
        if result != 0:
            raise Failed((ssh.ssh_get_error(session) or b"").decode() or f"result {result}")

    channel = ctypes.c_void_p(ssh.ssh_channel_new(session))
    check(ssh.ssh_channel_open_session(channel))
    if pty:
        check(ssh.ssh_channel_request_pty_size(channel, b"xterm", 99, 33))
    check(ssh.ssh_channel_request_shell(channel) if command is None else _exec(ssh, channel, command))
    status = _carry(ssh, channel)
    ssh.ssh_disconnect(session)
    ssh.ssh_free(session)
    return status


def _exec(ssh: Any, channel: Any, command: str) -> int:
    return int(ssh.ssh_channel_request_exec(channel, command.encode()))


def _carry(ssh: Any, channel: Any) -> int:
    """All streams, by one thread as the library wants; ours waits for standard input."""
    waiting: list[bytes] = []
    ended = threading.Event()

    def listen() -> None:
        while data := os.read(0, _READ):
            waiting.append(data)
            while len(waiting) > 16:
                threading.Event().wait(0.001)
        ended.set()

    threading.Thread(target=listen, daemon=True).start()
    buffer = ctypes.create_string_buffer(_READ)
    told = False
    while not ssh.ssh_channel_is_eof(channel) and not ssh.ssh_channel_is_closed(channel):
        if waiting:
            data = waiting.pop(0)
            if ssh.ssh_channel_write(channel, data, len(data)) != len(data):
                raise Failed("not all was written")
        elif ended.is_set() and not told:
            told = True
            ssh.ssh_channel_send_eof(channel)
        _pass_on(ssh, channel, buffer)
    while _pass_on(ssh, channel, buffer):
        pass
    return int(ssh.ssh_channel_get_exit_status(channel))


def _pass_on(ssh: Any, channel: Any, buffer: Any) -> bool:
    """What has arrived on either stream; whether there was anything."""
    some = False
    for is_error, descriptor in ((0, 1), (1, 2)):
        count = ssh.ssh_channel_read_timeout(channel, buffer, _READ, is_error, 2 if is_error == 0 else 0)
        if count == _ERROR:
            raise Failed("reading failed")
        if count not in (0, _AGAIN):
            some = True
            with os.fdopen(os.dup(descriptor), "wb") as out:
                out.write(buffer.raw[:count])
    return some


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
