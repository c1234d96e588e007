"""Makes standard input, output and error usable, however the command was started."""

from __future__ import annotations

import io
import os
import sys


def open_missing() -> None:
    """
    Open missing standard streams, and make output errors of their encoding non-fatal.

    If a descriptor below 3 were closed, the next socket would get its number and receive what is printed.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # open() returns the lowest free descriptor, so this one; child processes need it as well.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stdin = sys.stdin or _opened(0)
    sys.stdout = sys.stdout or _opened(1)
    sys.stderr = sys.stderr or _opened(2)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _opened(number: int) -> io.TextIOWrapper:
    return open(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False)
