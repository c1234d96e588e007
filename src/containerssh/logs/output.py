"""Log destinations, and a writer thread that never blocks the server when a destination does."""

from __future__ import annotations

import os
import select
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from containerssh.core.codes import LogCode
from containerssh.core.errors import ConfigError

MOST_WAITING = 16 * 1024 * 1024
"""
The maximum size in bytes of the queue for a blocked destination; further lines are dropped and counted, which is
logged.
"""

_BATCH = 256 * 1024
_REOPEN_EVERY = 10.0
_COMPLAIN_EVERY = 60.0


class Destination(ABC):
    """A destination of complete lines; used by a single thread."""

    @abstractmethod
    def write(self, data: bytes) -> None:
        """Write all of *data*. Raises OSError if nothing or only a part was written."""

    def reopen(self) -> None:
        """Reopen the destination. Raises OSError; the destination is then unchanged."""

    def close(self) -> None:
        """Close the destination."""


class Descriptor(Destination):
    """An open file. The rest of a partially written line is never joined with the next line."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._torn = False

    def write(self, data: bytes) -> None:
        view = memoryview(b"\n" + data if self._torn else data)
        written = 0
        try:
            while written < len(view):
                written += self._write_some(view[written:])
        except OSError:
            self._torn = self._torn or written > 0
            raise
        self._torn = False

    def _write_some(self, view: memoryview) -> int:
        while True:
            try:
                return os.write(self._descriptor, view)
            except BlockingIOError:
                # Another process that shares standard output has made it non-blocking.
                select.select([], [self._descriptor], [], 1)


class LogFile(Descriptor):
    """A file opened for appending, which can be reopened for log rotation."""

    def __init__(self, path: Path) -> None:
        """Raises :class:`ConfigError` if the file cannot be opened."""
        self._path = path
        try:
            super().__init__(self._open())
        except (OSError, ValueError) as exc:
            raise ConfigError(LogCode.FILE_OPEN_FAILED, "the log file cannot be opened") from exc
        self._stale = False
        self._tried = 0.0

    def write(self, data: bytes) -> None:
        if self._stale and time.monotonic() - self._tried > _REOPEN_EVERY:
            with suppress(OSError):
                self.reopen()
        super().write(data)

    def reopen(self) -> None:
        self._stale, self._tried = True, time.monotonic()
        new = self._open()
        os.close(self._descriptor)
        self._descriptor, self._torn, self._stale = new, False, False

    def close(self) -> None:
        os.close(self._descriptor)

    def _open(self) -> int:
        # Non-blocking, since opening a named pipe without a reader would block the start for ever.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
        descriptor = os.open(self._path, flags, 0o640)
        os.set_blocking(descriptor, True)
        return descriptor


class Writer:
    """
    Writes lines in order from its own thread.

    Logging only puts a line into the queue. While the destination fails, lines are dropped and counted; when it works
    again, *lost* provides the line that reports their number.
    """

    def __init__(self, destination: Destination, lost: Callable[[int, str], bytes]) -> None:
        self._destination = destination
        self._lost_line = lost
        self._queue: deque[bytes] = deque()
        self._waiting = 0
        self._lost = 0
        self._reason = ""
        self._reopen = False
        self._closing = False
        self._busy = False
        self._complained = float("-inf")
        # Re-entrant: a signal handler or destructor may log while its thread holds the lock.
        self._changed = threading.Condition(threading.RLock())
        self._thread = threading.Thread(target=self._run, name="log writer", daemon=True)
        self._thread.start()

    def put(self, line: bytes) -> None:
        """Queue a line; returns at once."""
        with self._changed:
            if self._closing or self._waiting + len(line) > MOST_WAITING:
                self._lost += 1
                self._reason = self._reason or "the destination accepts no more"
                return
            self._queue.append(line)
            self._waiting += len(line)
            self._changed.notify_all()

    def flush(self, within: float) -> None:
        """Wait until the queue is written or dropped, at most *within* seconds."""
        with self._changed:
            self._changed.wait_for(lambda: not self._queue and not self._busy, within)

    def reopen(self) -> None:
        """Reopen the destination before the next line."""
        with self._changed:
            self._reopen = True
            self._changed.notify_all()

    def close(self, within: float = 5) -> None:
        """Write the queue, for at most *within* seconds, and stop the thread; a second call does nothing."""
        with self._changed:
            if self._closing:
                return
            self._closing = True
            self._changed.notify_all()
        self._thread.join(within)
        if not self._thread.is_alive():
            self._destination.close()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._queue or self._closing or self._reopen)
                if not self._queue and not self._reopen:
                    return
                self._busy = True
                reopen, self._reopen = self._reopen, False
                lines = self._take()
            if reopen:
                self._open_anew()
            if lines:
                self._write(lines)

    def _take(self) -> list[bytes]:
        lines, size = [], 0
        while self._queue and size < _BATCH:
            lines.append(self._queue.popleft())
            size += len(lines[-1])
        self._waiting -= size
        return lines

    def _write(self, lines: list[bytes]) -> None:
        with self._changed:
            lost, reason = self._lost, self._reason
        if lost:
            lines = [self._lost_line(lost, reason), *lines]
        try:
            self._destination.write(b"".join(lines))
        except OSError as exc:
            with self._changed:
                self._lost += len(lines) - bool(lost)
                self._reason = exc.strerror or type(exc).__name__
            self._complain(LogCode.WRITE_FAILED, exc)
            return
        with self._changed:
            self._lost -= lost
            if not self._lost:
                self._reason = ""

    def _open_anew(self) -> None:
        try:
            self._destination.reopen()
        except OSError as exc:
            self._complained = float("-inf")  # requested explicitly, so report the failure at once
            self._complain(LogCode.ROTATE_FAILED, exc)

    def _complain(self, code: LogCode, exc: OSError) -> None:
        """
        Report on standard error a failure that cannot be logged; rate-limited, since it would recur for every line.
        """
        now = time.monotonic()
        if now - self._complained < _COMPLAIN_EVERY:
            return
        self._complained = now
        with suppress(OSError, ValueError, AttributeError):
            print(f"containerssh: {code}: {code.meaning} ({exc.strerror or exc})", file=sys.stderr, flush=True)  # noqa: T201 - the log itself is broken
