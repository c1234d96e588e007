"""A client of libssh by its C interface, as a program."""

from __future__ import annotations

import argparse
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
    """libssh's error message."""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="One program, with its streams and its status.")
    for name in ("port", "user", "password"):
        parser.add_argument(name)
    parser.add_argument("--pty", action="store_true")
    parser.add_argument("--rekey", type=int, default=0, help="new keys after so many bytes")
    parser.add_argument("--signal", default="", help="what to send after the first output")
    parser.add_argument("command", nargs="?")
    return _run(load(), parser.parse_intermixed_args(arguments))


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


def _run(ssh: Any, asked: argparse.Namespace) -> int:
    session = connected(ssh, int(asked.port), asked.user, asked.password, asked.rekey)

    def check(result: int) -> None:
        if result != 0:
            raise Failed((ssh.ssh_get_error(session) or b"").decode() or f"result {result}")

    channel = ctypes.c_void_p(ssh.ssh_channel_new(session))
    check(ssh.ssh_channel_open_session(channel))
    if asked.pty:
        check(ssh.ssh_channel_request_pty_size(channel, b"xterm", 99, 33))
    check(ssh.ssh_channel_request_shell(channel) if asked.command is None else _exec(ssh, channel, asked.command))
    status = _carry(ssh, channel, asked.signal)
    ssh.ssh_disconnect(session)
    ssh.ssh_free(session)
    return status


def _exec(ssh: Any, channel: Any, command: str) -> int:
    return int(ssh.ssh_channel_request_exec(channel, command.encode()))


def _carry(ssh: Any, channel: Any, signal: str) -> int:
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
        if _pass_on(ssh, channel, buffer) and signal:
            ssh.ssh_channel_request_send_signal(channel, signal.encode())
            signal = ""
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
