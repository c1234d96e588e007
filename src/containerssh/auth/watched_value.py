"""What a file says, for as long as it says it."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from contextvars import Context
from pathlib import Path
from typing import Generic, TypeVar

from containerssh.auth.watched_file import WatchedFile
from containerssh.core.codes import AuthCode
from containerssh.core.errors import ConfigError
from containerssh.core.messages import Event

logger = logging.getLogger(__name__)

T = TypeVar("T")


class WatchedValue(Generic[T]):
    """
    What *parse* makes of a file, again whenever the file has changed.

    Unlike the users file it does not stay in force when the file becomes unusable: a list of what is trusted, or not
    trusted any more, that nobody can read must let nobody in.
    """

    def __init__(self, path: Path, what: str, parse: Callable[[bytes], T]) -> None:
        """*what* the log calls it; *parse* raises ValueError."""
        self._file = WatchedFile(path)
        self._path = path
        self._what = what
        self._parse = parse
        self._lock = threading.Lock()
        self._value: T | None = None

    async def current(self) -> T | None:
        """What the file says now; None if it cannot be used."""
        if self._lock.acquire(blocking=False):
            try:
                if self._file.unchanged():
                    return self._value
            finally:
                self._lock.release()
        return await asyncio.to_thread(self.read)

    def read(self) -> T | None:
        """As :meth:`current`, waiting for the disk."""
        with self._lock:
            try:
                content = self._file.changed()
                if content is not None:
                    self._value = None
                    self._value = self._parse(content)
                    self._tell(logging.INFO, AuthCode.KEY_LIST_LOADED, f"The {self._what} in {self._path} were read")
                    if loose := self._file.writable_by_others:
                        text = f"The {self._what} in {self._path} can be written by {loose}"
                        self._tell(logging.WARNING, AuthCode.FILE_PERMISSIONS, text)
            except (ConfigError, ValueError) as exc:
                self._value = None
                text = f"The {self._what} in {self._path} cannot be used, and nobody gets in by them: {exc}"
                self._tell(logging.ERROR, AuthCode.KEY_LIST_FAILED, text)
            return self._value

    def _tell(self, level: int, code: AuthCode, text: str) -> None:
        # Outside the scope of the login that happened to notice.
        Context().run(logger.log, level, Event(code, text, file=str(self._path)))
