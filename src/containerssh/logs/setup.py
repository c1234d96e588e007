"""Setup of the standard library's ``logging`` with the configured destination."""

from __future__ import annotations

import atexit
import logging
import os
import time
from pathlib import Path

from containerssh.config.log import LogConfig
from containerssh.core.codes import LogCode
from containerssh.core.errors import ConfigError
from containerssh.core.messages import current_threshold
from containerssh.logs.formats import FORMATS, Entry, Format, level_name
from containerssh.logs.output import Descriptor, Destination, LogFile, Writer

_CRITICAL_WITHIN = 2.0
"""
How long in seconds to wait for a message of level crit or above to be written, since the process may exit right after
it.
"""

_LIBRARIES = ("asyncio", "asyncssh", "aiohttp")
"""Loggers of libraries, whose lower levels log client input, including secrets."""


class LogHandler(logging.Handler):
    """Formats log records in the context that logs, and passes the lines to the writer."""

    def __init__(self, threshold: int, format_: Format, writer: Writer) -> None:
        super().__init__()
        self._threshold = threshold
        self._format = format_
        self._writer = writer

    def handle(self, record: logging.LogRecord) -> bool:
        """Like the base class's method, without its lock: the queue accepts whole lines."""
        own = current_threshold()
        if record.levelno < (self._threshold if own is None else own):
            return False
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self._format(Entry.of(record))
        except Exception as exc:  # noqa: BLE001 - a message that cannot be shown must not end who logged it
            line = self._format(_unshowable(record, exc))
        self._writer.put(line)
        if record.levelno >= logging.CRITICAL:
            self._writer.flush(_CRITICAL_WITHIN)


class LogSetup:
    """An active logging setup; close it when nothing logs any more."""

    def __init__(self, handler: LogHandler, writer: Writer) -> None:
        self._handler = handler
        self._writer = writer
        logging.getLogger().addHandler(handler)
        atexit.register(writer.close)

    def reopen(self) -> None:
        """Reopen the log file (SIGHUP, after rotation); a failure is reported on standard error."""
        self._writer.reopen()

    def flush(self) -> None:
        """Wait until all messages so far are written, or cannot be."""
        self._writer.flush(within=5)

    def detach(self) -> None:
        """Accept no more messages; queued ones are still written."""
        logging.getLogger().removeHandler(self._handler)

    def close(self) -> None:
        """Write queued messages and stop logging; a second call does nothing."""
        self.detach()
        self._writer.close()
        atexit.unregister(self._writer.close)


def setup_logging(config: LogConfig) -> LogSetup:
    """
    Log as *config* requires until the result is closed.

    Raises:
        ConfigError: the log file cannot be opened, or the destination is neither stdout nor file.
    """
    destination: Destination
    match config.destination:
        case "stdout":
            destination = Descriptor(1)
        case "file":
            destination = LogFile(Path(config.file))
        case other:
            raise ConfigError(LogCode.FILE_OPEN_FAILED, f"log.destination: {other} is not available in this version")
    format_ = FORMATS[config.format]
    writer = Writer(destination, lambda count, reason: format_(_lost(count, reason)))
    # A scope can lower it for more messages (core.messages.log_threshold).
    logging.getLogger("containerssh").setLevel(config.level.stdlib)
    for name in _LIBRARIES:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("aiohttp.access").setLevel(logging.CRITICAL)
    return LogSetup(LogHandler(config.level.stdlib, format_, writer), writer)


def _lost(count: int, reason: str) -> Entry:
    text = f"{count} log {'line was' if count == 1 else 'lines were'} lost ({reason})"
    return Entry(time.time(), level_name(logging.WARNING), LogCode.WRITE_FAILED, text, {"count": count})


def _unshowable(record: logging.LogRecord, exc: Exception) -> Entry:
    where = f"{os.path.basename(record.pathname)}:{record.lineno}"  # noqa: PTH119 - a text, not a path to open
    text = f"A log message could not be shown ({type(exc).__name__}, logged at {where})"
    return Entry(record.created, level_name(record.levelno), LogCode.WRITE_FAILED, text, {"module": record.name})
