"""The shared table in which the processes of one server count connections and failures per source.

Each process writes its own region and reads all of them, without locks; the region of a killed process is cleared. A
region has a fixed number of entries, in buckets of eight. A secret of the server determines the bucket of a source, so
that clients cannot choose addresses that collide. Single words are read and written atomically. This suffices: a
process that counts itself first and checks the others afterwards never admits too many.
"""

from __future__ import annotations

import mmap
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b

from containerssh.ssh.options import Penalties

Source = tuple[int, int, int] | str
"""
The IP version (negative for a prefix), the length in bits, and the bits; or the text of what is not an IP address.
"""

_WORD = 8
# The size of the header, and of each region's header: at least a cache line, since each has a different writer.
_HEAD = 8
_SECRET = slice(4, 8)
# Two words per entry: the key (0: free), and the counts or the time.
_BUCKET = 16
_FEWEST, _MOST = 1 << 10, 1 << 20
_LOW = 0xFFFFFFFF


@dataclass(frozen=True)
class Size:
    """The size of a table; numbers of entries are powers of two."""

    processes: int
    places: int
    """Entries per region for connected sources."""
    penalties: int
    """Entries per region for sources that failed."""

    @classmethod
    def of(cls, processes: int, connections: int, sources: int) -> Size:
        """The size for a number of processes, connections (0: unlimited) and remembered failures."""
        # Each connection has two sources, and nearly every bucket must have a free entry.
        return cls(processes, _places(8 * connections or _MOST), _places(2 * sources))

    @property
    def region_words(self) -> int:
        return _HEAD + 2 * self.places + 2 * self.penalties

    @property
    def bytes(self) -> int:
        """The size of the table in bytes; the kernel allocates only pages that are used."""
        return _WORD * (_HEAD + self.processes * self.region_words)

    def region(self, number: int) -> int:
        """The first word of the region of process *number*."""
        return _HEAD + number * self.region_words


def _places(wanted: int) -> int:
    return 1 << (min(max(wanted, _FEWEST), _MOST) - 1).bit_length()


@dataclass(frozen=True, eq=False)
class SharedTable:
    """The table as seen by the process that starts the others; created by :func:`shared_table`."""

    descriptor: int
    """The file descriptor for :meth:`SharedCounts.attach`."""
    size: Size
    _words: memoryview[int]

    def clear(self, number: int) -> None:
        """Clear the connection counts of process *number*, which has ended. Recorded failures are kept."""
        start = self.size.region(number)
        length = _HEAD + 2 * self.size.places
        self._words[start : start + length] = memoryview(bytes(_WORD * length)).cast("Q")


@contextmanager
def shared_table(size: Size) -> Iterator[SharedTable]:
    """
    Create a table; its memory is freed with the last process that uses it.

    Raises:
        OSError: the memory cannot be allocated.
    """
    descriptor = os.memfd_create("containerssh-counts")
    try:
        os.ftruncate(descriptor, size.bytes)
        with mmap.mmap(descriptor, size.bytes) as memory, memoryview(memory) as raw, raw.cast("Q") as words:
            words[0], words[1], words[2] = size.processes, size.places, size.penalties
            for word in range(_SECRET.start, _SECRET.stop):
                words[word] = secrets.randbits(64)
            yield SharedTable(descriptor, size, words)
    finally:
        os.close(descriptor)


class SharedCounts:
    """The table as seen by one of the processes."""

    def __init__(self, words: memoryview[int], number: int) -> None:
        self._words = words
        self.size = Size(words[0], words[1], words[2])
        self._secret = words[_SECRET].tobytes()
        self._own = self.size.region(number)
        self._others = [self.size.region(other) for other in range(self.size.processes) if other != number]
        self._where: dict[Source, int] = {}

    @classmethod
    def attach(cls, descriptor: int, number: int) -> SharedCounts:
        """Map the table as process *number*; closes *descriptor*."""
        try:
            return cls(memoryview(mmap.mmap(descriptor, 0)).cast("Q"), number)
        finally:
            os.close(descriptor)

    @property
    def processes(self) -> int:
        return self.size.processes

    def put_total(self, connections: int) -> None:
        """Set the number of connections of this process."""
        self._words[self._own] = connections

    def total_of_others(self) -> int:
        """The number of connections of the other processes."""
        return sum(self._words[region] for region in self._others)

    def put(self, source: Source, connections: int, newcomers: int) -> bool:
        """
        Set the number of connections, and of unauthenticated ones, that this process has from *source*; False if there
        is no room.
        """
        words, counts = self._words, connections << 32 | newcomers
        place = self._where.get(source)
        if place is None:
            if not counts:
                return True
            key, bucket = self._find(source, self.size.places)
            start = self._own + _HEAD + bucket
            place = next((word for word in range(start, start + _BUCKET, 2) if not words[word]), None)
            if place is None:
                return False
            self._where[source] = place
            # The key is written last and cleared first, so that readers never see counts of another source.
            words[place + 1] = counts
            words[place] = key
        elif counts:
            words[place + 1] = counts
        else:
            del self._where[source]
            words[place] = 0
        return True

    def of_others(self, source: Source) -> tuple[int, int]:
        """The number of connections, and of unauthenticated ones, that the other processes have from *source*."""
        key, bucket = self._find(source, self.size.places)
        words, found = self._words, 0
        for region in self._others:
            start = region + _HEAD + bucket
            for word in range(start, start + _BUCKET, 2):
                if words[word] == key:
                    found += words[word + 1]
                    break
        return found >> 32, found & _LOW

    def penalty(self, source: Source) -> tuple[int, bool]:
        """The time in milliseconds until which *source* has penalties, and whether a process refuses it until then."""
        key, bucket = self._find(source, self.size.penalties)
        words, until, refused = self._words, 0, False
        for region in (self._own, *self._others):
            start = region + _HEAD + 2 * self.size.places + bucket
            for word in range(start, start + _BUCKET, 2):
                if words[word] == key:
                    time = words[word + 1]
                    until, refused = max(until, time >> 1), refused or bool(time & 1)
                    break
        return until, refused

    def put_penalty(self, source: Source, until: int, *, refused: bool) -> None:
        """Store a penalty, replacing the entry of its bucket that expires first if none is free."""
        key, bucket = self._find(source, self.size.penalties)
        words = self._words
        start = self._own + _HEAD + 2 * self.size.places + bucket
        places = range(start, start + _BUCKET, 2)
        place = next((word for word in places if words[word] == key), None)
        if place is None:
            place = min(places, key=lambda word: words[word + 1])
            words[place] = 0
        words[place + 1] = until << 1 | refused
        words[place] = key

    def _find(self, source: Source, places: int) -> tuple[int, int]:
        """The key of *source*, never 0, and the first entry of its bucket."""
        digest = blake2b(repr(source).encode(), digest_size=16, key=self._secret).digest()
        bucket = int.from_bytes(digest[8:], "little") % (2 * places // _BUCKET)
        return int.from_bytes(digest[:8], "little") or 1, bucket * _BUCKET


class SharedPenalties:
    """A :class:`~containerssh.ssh.admission.PenaltyBox` shared by all processes."""

    def __init__(self, penalties: Penalties, shared: SharedCounts) -> None:
        self._shared = shared
        self.use(penalties)

    def use(self, penalties: Penalties) -> None:
        """Apply new limits from now on."""
        self._threshold = round(penalties.threshold.total_seconds() * 1000)
        self._longest = round(penalties.longest.total_seconds() * 1000)

    def is_refused(self, source: Source, now: float) -> bool:
        """Whether *source* has crossed the threshold and its penalty has not expired."""
        until, refused = self._shared.penalty(source)
        return refused and until > now * 1000

    def add(self, source: Source, seconds: float, now: float) -> bool:
        """Add to the penalty of *source*; return whether it is refused now."""
        moment = int(now * 1000)
        until, was_refused = self._shared.penalty(source)
        was_refused = was_refused and until > moment
        if seconds <= 0:
            return was_refused
        until = min(max(until, moment) + round(seconds * 1000), moment + self._longest)
        refused = was_refused or until - moment >= self._threshold
        self._shared.put_penalty(source, until, refused=refused)
        return refused
