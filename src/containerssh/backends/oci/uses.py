"""Tracks which unpacked images are in use and when the others were last used; several servers may share them.

For each image there is a file in ``used``. A server that has a container of the image holds a shared lock on the file,
and its modification time is the time of the last use.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

from containerssh.core.codes import OCICode
from containerssh.core.errors import BackendError
from containerssh.core.instance import make_private

_KINDS = ("content", "shifted")


class Uses:
    """Tracks the uses of the images in one store."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def touch(self, root: Path) -> None:
        """Record a use of the image at *root*."""
        if (file := self._file(root)) is not None:
            make_private(file.parent)
            os.close(os.open(file, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
            os.utime(file)

    @contextmanager
    def hold(self, root: Path) -> Iterator[None]:
        """
        Protect the image at *root* from removal while there is a container of it; folders outside the store are not
        tracked.

        Raises:
            BackendError: it has just been removed.
        """
        if (file := self._file(root)) is None:
            yield
            return
        self.touch(root)
        descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC)
        try:
            if not _lock(descriptor, fcntl.LOCK_SH) or not root.exists():
                text = "the image has just been removed, since nobody used it for long"
                raise BackendError(OCICode.IMAGE_FAILED, text)
            yield
            self.touch(root)
        finally:
            os.close(descriptor)

    def unused(self, longer_than: float) -> list[Path]:
        """The folders of images that have not been used for *longer_than* seconds."""
        return [place for place in self._places() if self._age(place) > longer_than]

    @asynccontextmanager
    async def taking(self, place: Path, longer_than: float) -> AsyncIterator[bool]:
        """
        Lock *place* for removal; yields whether it may be removed: no server has a container of it, and it is still
        unused.
        """
        file = self._named(place)
        descriptor = os.open(file, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            free = _lock(descriptor, fcntl.LOCK_EX) and self._age(place) > longer_than
            yield free
            if free and place not in self._places():
                file.unlink(missing_ok=True)
        finally:
            os.close(descriptor)

    def _places(self) -> Iterator[Path]:
        for kind in _KINDS:
            with suppress(FileNotFoundError):
                yield from sorted((self._folder / kind).iterdir())

    def _age(self, place: Path) -> float:
        """The age of an image without such a file is counted from now."""
        try:
            return time.time() - self._named(place).stat().st_mtime
        except FileNotFoundError:
            self.touch(place)
            return 0

    def _file(self, root: Path) -> Path | None:
        if not root.is_relative_to(self._folder):
            return None
        kind, name = root.relative_to(self._folder).parts[:2]
        return self._named(self._folder / kind / name)

    def _named(self, place: Path) -> Path:
        return self._folder / "used" / f"{place.parent.name}-{place.name}"


def _lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


async def collect(
    uses: Uses, folder: Path, scratch: Path, longer_than: float, rename: Callable[[Path, Path], Awaitable[bool]]
) -> list[Path]:
    """
    Move images that have not been used for *longer_than* seconds from *folder* to *scratch* by *rename*, and delete
    their records; return their former paths.
    """
    taken = []
    for place in uses.unused(longer_than):
        async with uses.taking(place, longer_than) as free:
            if free and await rename(place, scratch / secrets.token_hex(8)):
                taken.append(place)
    gone = {place.name for place in taken}
    with suppress(FileNotFoundError):
        for name in (folder / "names").iterdir():
            with suppress(FileNotFoundError):
                if name.read_text() in gone:
                    name.unlink()
    return taken
