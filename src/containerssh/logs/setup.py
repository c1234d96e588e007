"""Connecting the standard library's ``logging`` to the configured destination."""

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
"""Seconds that a message of level crit or worse may take to its destination: the process may end right after it."""

_LIBRARIES = ("asyncio", "asyncssh", "aiohttp")
"""They tell at lower levels what clients sent, secrets included."""


class LogHandler(logging.Handler):
    """Makes lines of log records, in the scope that logs, and hands them to the writer."""

    def __init__(self, threshold: int, format_: Format, writer: Writer) -> None:
        super().__init__()
        self._threshold = threshold
        self._format = format_
        self._writer = writer

    def handle(self, record: logging.LogRecord) -> bool:
        """As the base class's, without its lock: a line is queued as a whole."""
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
    """Logging as it was set up; close it once nothing logs any more."""

    def __init__(self, handler: LogHandler, writer: Writer) -> None:
        self._handler = handler
        self._writer = writer
        logging.getLogger().addHandler(handler)
        atexit.register(writer.close)

    def reopen(self) -> None:
        """Open the log file anew (SIGHUP, after it was renamed); a failure is told on standard error."""
        self._writer.reopen()

    def flush(self) -> None:
        """Wait until what was logged so far is written, or cannot be."""
        self._writer.flush(within=5)

    def detach(self) -> None:
        """Take no more messages; what was logged so far is still written."""
        logging.getLogger().removeHandler(self._handler)

    def close(self) -> None:
        """Write what is left and stop logging; a second call does nothing."""
        self.detach()
        self._writer.close()
        atexit.unregister(self._writer.close)


def setup_logging(config: LogConfig) -> LogSetup:
    """
    Send log messages where *config* says, until the result is closed.

    Raises:
        ConfigError: the log file cannot be opened; or another destination than stdout and file.
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
    # A scope that asks for more (core.messages.log_threshold) lowers it.
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
