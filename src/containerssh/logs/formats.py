"""The format of log lines (``observability.md`` section 3).

Most text in messages is untrusted: names from clients, messages of engines, guests and webhooks. To prevent log
injection, all non-printable characters are escaped, so text stays on its line and cannot control a terminal.
"""

from __future__ import annotations

import json
import logging
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType

from containerssh.core.codes import GeneralCode
from containerssh.core.errors import ContainerSSHError
from containerssh.core.messages import ALERT, EMERGENCY, NOTICE, Event, LabelValue, current_labels

LONGEST_LINE = 64 * 1024
"""The maximum length of a line in bytes, including the line end; longer texts are truncated."""

_LEVELS = (
    (EMERGENCY, "emerg"),
    (ALERT, "alert"),
    (logging.CRITICAL, "crit"),
    (logging.ERROR, "error"),
    (logging.WARNING, "warning"),
    (NOTICE, "notice"),
    (logging.INFO, "info"),
)

_MODULES = {
    "agent": "backend",
    "auth": "auth",
    "backends": "backend",
    "endpoints": "service",
    "ssh": "ssh",
    "web.health": "health",
    "web.metrics": "metrics",
}
"""Upstream's module labels for our packages; other packages use the label ``module`` of the scope or the message."""

_MOST_FRAMES = 12
_LABEL_SHARE = 8
"""The ratio between the maximum lengths of the message and of each label."""
_CUT = "…"


@dataclass(frozen=True)
class Entry:
    """A log message before formatting."""

    time: float
    level: str
    code: str
    text: str
    labels: Mapping[str, LabelValue]

    @classmethod
    def of(cls, record: logging.LogRecord) -> Entry:
        """Create an entry from a record of the standard library; must be called in the context that logs."""
        message: object = record.msg
        if isinstance(message, BaseException):
            message = _event_of(message)
        labels: dict[str, LabelValue] = {}
        if isinstance(message, Event):
            code, text = str(message.code), message.text
            module = _module(record.name)
            labels.update(message.labels)
        else:
            code, text = GeneralCode.UNKNOWN_ERROR.value, record.getMessage()
            module = record.name
        labels.update(current_labels())
        if module:
            labels["module"] = module
        if record.exc_info and record.exc_info[1] is not None:
            _, error, trace = record.exc_info
            kind = type(error).__name__
            if str(error) not in text or not str(error):
                text = f"{text} ({kind}: {error})" if str(error) else f"{text} ({kind})"
            labels["trace"] = _where(trace)
        return cls(record.created, level_name(record.levelno), code, text, labels)


Format = Callable[[Entry], bytes]
"""Formats an entry as one line of UTF-8, including the line end."""


def level_name(number: int) -> str:
    """Upstream's name for a level of the standard library."""
    return next((name for lowest, name in _LEVELS if number >= lowest), "debug")


def ljson(entry: Entry) -> bytes:
    """A JSON object with ``timestamp``, ``level``, ``code``, ``message``, ``details``."""
    return _fitting(_ljson, entry)


def text(entry: Entry) -> bytes:
    """Time, level and message separated by tabs, then the labels in brackets."""
    return _fitting(_text, entry)


FORMATS: Mapping[str, Format] = {"ljson": ljson, "text": text}


def _ljson(entry: Entry, limit: int) -> str:
    fields = {
        "timestamp": timestamp(entry.time),
        "level": entry.level,
        "code": entry.code,
        "message": _cut(entry.text, limit),
        "details": {name: _cut(value, limit // _LABEL_SHARE) for name, value in sorted(entry.labels.items())},
    }
    return _escape(json.dumps(fields, ensure_ascii=False, separators=(",", ":"), allow_nan=False), _json_escape, "<>&")


def _text(entry: Entry, limit: int) -> str:
    message = _escape(str(_cut(entry.text, limit)), _text_escape)
    line = f"{timestamp(entry.time)}\t{entry.level}\t{message}"
    if entry.labels:
        line += (
            " ("
            + " ".join(
                f"{name}={_shown(_cut(value, limit // _LABEL_SHARE))}" for name, value in sorted(entry.labels.items())
            )
            + ")"
        )
    return line


def _fitting(render: Callable[[Entry, int], str], entry: Entry) -> bytes:
    limit = LONGEST_LINE // 4
    while True:
        line = render(entry, limit).encode() + b"\n"
        if len(line) <= LONGEST_LINE or limit == 0:
            return line
        limit //= 4


_stamp: tuple[int, str] = (-1, "")


def timestamp(seconds: float) -> str:
    """RFC 3339 in local time and whole seconds."""
    global _stamp
    whole = int(seconds)
    if _stamp[0] != whole:
        # The UTC offset at that time, with daylight saving time.
        offset = time.localtime(whole).tm_gmtoff
        shown = datetime.fromtimestamp(whole).astimezone().isoformat(timespec="seconds")
        _stamp = (whole, shown if offset else shown[:19] + "Z")
    return _stamp[1]


def _cut(value: LabelValue, limit: int) -> LabelValue:
    """Truncate text to *limit*, replace lone surrogates, and make numbers valid in JSON."""
    if isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if value - value == 0 else str(value)
    shown = str(value)
    if len(shown) > limit:
        shown = shown[:limit] + _CUT
    return shown if shown.isascii() else "".join(map(_unicode, shown))


def _unicode(character: str) -> str:
    number = ord(character)
    if 0xDC80 <= number <= 0xDCFF:
        return f"\\x{number - 0xDC00:02x}"  # a byte that was not UTF-8 (PEP 383)
    return "\ufffd" if 0xD800 <= number <= 0xDFFF else character


def _escape(shown: str, escape: Callable[[str], str], also: str = "") -> str:
    if shown.isprintable() and not any(character in shown for character in also):
        return shown
    return "".join(c if c.isprintable() and c not in also else escape(c) for c in shown)


def _json_escape(character: str) -> str:
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))


def _text_escape(character: str) -> str:
    number = ord(character)
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def _shown(value: LabelValue) -> str:
    """A label's value in the text format; quoted if it would be ambiguous otherwise."""
    if isinstance(value, bool):
        return "true" if value else "false"
    shown = _escape(str(value), _text_escape)
    if shown and not any(character in ' ="()' for character in shown):
        return shown
    return '"' + shown.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _event_of(error: BaseException) -> Event:
    if isinstance(error, ContainerSSHError):
        return error.event()
    return Event(GeneralCode.UNKNOWN_ERROR, f"An unexpected error has happened. ({error or type(error).__name__})")


def _module(logger: str) -> str | None:
    _, _, below = logger.partition("containerssh.")
    return next(
        (name for package, name in _MODULES.items() if below == package or below.startswith(f"{package}.")), None
    )


def _where(trace: TracebackType | None) -> str:
    """The innermost frames of a traceback, innermost first, without source text, which may contain secrets."""
    frames = traceback.extract_tb(trace)[-_MOST_FRAMES:]
    return " < ".join(f"{'/'.join(Path(f.filename).parts[-2:])}:{f.lineno} {f.name}" for f in reversed(frames))
