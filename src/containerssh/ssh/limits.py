"""Reached limits: each is counted and logged with its own message code.

``docs/limits.md`` lists the limits; their values are in :mod:`containerssh.ssh.options`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from containerssh.core.codes import SSHCode
from containerssh.core.counters import counters
from containerssh.core.messages import Event
from containerssh.core.metrics import LIMITS

logger = logging.getLogger(__name__)

BYTES_FOR_A_REKEY = 256 * 1024
"""The traffic in bytes that permits another key exchange."""


def count(code: SSHCode) -> None:
    """Count that the limit of *code* was reached; its label is the code without ``SSH_LIMIT_``, in small letters."""
    counters.add(LIMITS, limit=_label(code))


def reached(code: SSHCode) -> int:
    """How often the limit of *code* was reached in this process."""
    return counters.value(LIMITS, limit=_label(code))


def _label(code: SSHCode) -> str:
    return code.value.removeprefix("SSH_").removeprefix("LIMIT_").lower()


def limit_reached(code: SSHCode, text: str) -> None:
    """Count a reached limit, and log it with the labels of the scope."""
    count(code)
    logger.info(Event(code, text))


class Rekeyings:
    """
    Limits the key exchanges that a client begins, since each costs the server a signature.

    Those justified by traffic are free, and a fixed number per minute is allowed besides.
    """

    def __init__(self, per_minute: int, now: float) -> None:
        self._per_minute = per_minute
        self._left = float(per_minute)
        self._since = now
        self._traffic = 0

    def begins(self, now: float, traffic: int) -> bool:
        """A key exchange begins at *now* (seconds), after *traffic* bytes in total; return whether it is allowed."""
        if traffic - self._traffic >= BYTES_FOR_A_REKEY:
            self._traffic = traffic
            return True
        self._left = min(self._per_minute, self._left + (now - self._since) * self._per_minute / 60)
        self._since = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


@contextmanager
def limited_time(
    began: float, longest: timedelta, *, warn: Callable[[float], None], end: Callable[[], None]
) -> Iterator[None]:
    """
    Call *end* once *longest* (0: never) has passed since *began* by the loop's clock, if the body still runs; call
    *warn* with the seconds that remain a minute before, or a tenth of the time if that is shorter.
    """
    if not longest:
        yield
        return
    loop = asyncio.get_running_loop()
    ends = began + longest.total_seconds()
    remaining = min(60.0, longest.total_seconds() / 10)
    timers = [loop.call_at(ends - remaining, warn, remaining), loop.call_at(ends, end)]
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()


def log_reached() -> None:
    """Log which limits were reached since the start, if any."""
    totals = {dict(labels)["limit"]: value for (name, labels), value in counters.snapshot().items() if name == LIMITS}
    if totals:
        text = "Limits that were reached since the start: " + ", ".join(f"{k} {v}" for k, v in sorted(totals.items()))
        logger.info(Event(SSHCode.LIMITS_REACHED, text))
