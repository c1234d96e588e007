"""The ``log`` section (``config.md`` section 4.3)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

from containerssh.config.model import ConfigModel, Problem
from containerssh.config.values import is_missing
from containerssh.core.messages import ALERT, EMERGENCY, NOTICE


class LogLevel(IntEnum):
    """Syslog's severities, as upstream numbers them: the lower, the more severe."""

    EMERG = 0
    ALERT = 1
    CRIT = 2
    ERROR = 3
    WARNING = 4
    NOTICE = 5
    INFO = 6
    DEBUG = 7

    @property
    def label(self) -> str:
        """The name in the configuration and in log lines."""
        return self.name.lower()

    @property
    def stdlib(self) -> int:
        """The level of Python's ``logging`` from which on messages are shown."""
        return _STDLIB[self]


_STDLIB = {
    LogLevel.EMERG: EMERGENCY,
    LogLevel.ALERT: ALERT,
    LogLevel.CRIT: logging.CRITICAL,
    LogLevel.ERROR: logging.ERROR,
    LogLevel.WARNING: logging.WARNING,
    LogLevel.NOTICE: NOTICE,
    LogLevel.INFO: logging.INFO,
    LogLevel.DEBUG: logging.DEBUG,
}


def _level(value: Any) -> Any:
    if isinstance(value, str):
        for level in LogLevel:
            if value.lower() == level.label or value == str(level.value):
                return level
    elif isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 7:
        return LogLevel(value)
    names = ", ".join(level.label for level in reversed(LogLevel))
    raise ValueError(f"{value!r} is not a log level; known are {names}, and the numbers 7 to 0")


Level = Annotated[
    LogLevel,
    BeforeValidator(_level),
    PlainSerializer(lambda level: level.label, return_type=str, when_used="json"),
    WithJsonSchema(
        {"anyOf": [{"enum": [level.label for level in LogLevel]}, {"type": "integer", "minimum": 0, "maximum": 7}]}
    ),
]


class SyslogConfig(ConfigModel):
    """Where and how to write to syslog."""

    destination: str = "/dev/log"
    """A socket, or `host:port` for UDP."""

    facility: Literal[
        "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp", "ntp",
        "logaudit", "logalert", "clock", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
    ] = "auth"  # fmt: skip
    """The facility of the messages."""

    tag: str = "ContainerSSH"
    """The program's name in the messages."""

    pid: bool = False
    """Add the process id."""


class LogConfig(ConfigModel):
    """What is logged, in which format, and where."""

    level: Level = LogLevel.NOTICE
    """The least severe level that is logged: `debug`, `info`, `notice`, `warning`, `error`, `crit`, `alert` or
    `emerg`, or their numbers 7 to 0."""

    format: Literal["ljson", "text"] = "ljson"
    """`ljson`: a JSON object on each line. `text`: easier to read."""

    destination: Literal["stdout", "file", "syslog", "test"] = "stdout"
    """`stdout`, `file` or `syslog`."""

    file: str = "/var/log/containerssh/containerssh.log"
    """The log file; it is reopened on SIGHUP."""

    syslog: SyslogConfig = SyslogConfig.default()
    """Where and how to write to syslog."""

    def problems(self) -> Iterator[Problem]:
        if self.destination == "file" and is_missing(Path(self.file).parent):
            yield Problem("file", f"cannot open {self.file!r}: No such file or directory")
