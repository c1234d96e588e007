"""Log messages with upstream's codes, and the labels that a scope adds to every line below it.

A module logs through the standard library: ``logger.info(Event(SSHCode.AVAILABLE, "...", address=...))``. Labels of a
connection come from :func:`log_labels`, so loggers need not be passed around. ``containerssh.logs`` formats
the lines.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar
from enum import StrEnum
from typing import Self

LabelValue = str | int | float | bool

# Syslog's severities that the standard library lacks (observability.md section 1).
NOTICE = 25
ALERT = 60
EMERGENCY = 70

logging.addLevelName(NOTICE, "NOTICE")
logging.addLevelName(ALERT, "ALERT")
logging.addLevelName(EMERGENCY, "EMERG")


class Code(StrEnum):
    """A message code and when it is logged; the subclasses in :mod:`containerssh.core.codes` hold them all."""

    meaning: str

    def __new__(cls, value: str, meaning: str) -> Self:
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member


class Event:
    """A log message: pass it as the ``msg`` of any logging call.

    Labels are strings, numbers or booleans, named as upstream names them (``connectionId``, ``remoteAddr``...).
    """

    __slots__ = ("code", "labels", "text")

    def __init__(self, code: Code, text: str, /, **labels: LabelValue) -> None:
        self.code = code
        self.text = text
        self.labels = labels

    def __str__(self) -> str:
        return self.text


_root = logging.getLogger("containerssh")
_labels: ContextVar[Mapping[str, LabelValue]] = ContextVar("containerssh_log_labels")
_threshold: ContextVar[int | None] = ContextVar("containerssh_log_threshold", default=None)


def current_labels() -> Mapping[str, LabelValue]:
    """The labels of the scope that logs."""
    return _labels.get({})


def current_threshold() -> int | None:
    """The level below which lines of this scope are dropped; None: the configured level."""
    return _threshold.get()


def log_labels(**labels: LabelValue) -> AbstractContextManager[None]:
    """Add *labels* to every line logged in this scope, and in the tasks started in it."""
    return _Labels(labels)


def log_threshold(level: int | None) -> AbstractContextManager[None]:
    """Use another log level in this scope (the config server may set it for one login)."""
    return _Threshold(level)


class LogScope:
    """The labels and the level of the scope in which it was created, for tasks that were started outside of it."""

    __slots__ = ("_labels", "_threshold")

    def __init__(self) -> None:
        self._labels = current_labels()
        self._threshold = current_threshold()

    def join(self) -> None:
        """Use them in the current task, until it ends; labels that the task has already stay as they are."""
        _labels.set({**self._labels, **current_labels()})
        _threshold.set(self._threshold)


# Not generators: each connection holds several of these for its lifetime, and a generator's frame is large.
class _Labels:
    __slots__ = ("_labels",)

    def __init__(self, labels: Mapping[str, LabelValue]) -> None:
        self._labels = labels

    def __enter__(self) -> None:
        before = current_labels()
        _labels.set({**before, **self._labels})
        self._labels = before

    def __exit__(self, *_: object) -> None:
        # Not reset(token): an async generator may be closed in another context than it was entered in.
        _labels.set(self._labels)


class _Threshold:
    __slots__ = ("_level",)

    def __init__(self, level: int | None) -> None:
        self._level = level

    def __enter__(self) -> None:
        before, level = _threshold.get(), self._level
        _threshold.set(level if level is not None else before)
        if level is not None and level < _root.level:
            # Records of this level must reach the handler, which applies the level of each scope.
            _root.setLevel(level)
        self._level = before

    def __exit__(self, *_: object) -> None:
        _threshold.set(self._level)
