"""Standard input, output and error as a command needs them, whatever it was started with."""

from __future__ import annotations

import io
import os
import sys


def settle() -> None:
    """
    Give the standard streams something behind them, and text that does not fit their encoding a way to be shown.

    A descriptor below 3 that is closed would become the next socket's, and what is printed would go there.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest that is free, so this very one; programs that are started need it as well.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stdin = sys.stdin or _opened(0)
    sys.stdout = sys.stdout or _opened(1)
    sys.stderr = sys.stderr or _opened(2)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _opened(number: int) -> io.TextIOWrapper:
    return open(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False)
