"""What the processes of one server tell each other about who is connected and who failed: a table in shared memory.

Each process writes a region of its own and reads all of them, so nobody waits for anybody, and what a killed process
counted is cleared with its region. A region has a fixed number of places, in buckets of eight; which bucket a source
has depends on a secret of the server, so that nobody can choose addresses that meet in one. Single words are written
and read whole; that is enough, since whoever counts itself first and looks at the others then never lets too many in.
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
"""IP version (negative: a prefix, not an address), length in bits, the bits; the text of what is not an IP address."""

_WORD = 8
# Of the header and of each region: what is before its places. A cache line at least, for each has another writer.
_HEAD = 8
_SECRET = slice(4, 8)
# Two words for each place: whose it is (0: nobody's), and its counts or its time.
_BUCKET = 16
_FEWEST, _MOST = 1 << 10, 1 << 20
_LOW = 0xFFFFFFFF


@dataclass(frozen=True)
class Size:
    """Of a table; numbers of places are powers of two."""

    processes: int
    places: int
    """In each region, for sources that are connected."""
    penalties: int
    """In each region, for sources that failed."""

    @classmethod
    def of(cls, processes: int, connections: int, sources: int) -> Size:
        """For so many connections (0: any number) and remembered failures in all."""
        # Each connection has two sources, and nearly every bucket must have a free place.
        return cls(processes, _places(8 * connections or _MOST), _places(2 * sources))

    @property
    def region_words(self) -> int:
        return _HEAD + 2 * self.places + 2 * self.penalties

    @property
    def bytes(self) -> int:
        """Of the table; memory is taken only for what is used."""
        return _WORD * (_HEAD + self.processes * self.region_words)

    def region(self, number: int) -> int:
        """The first word of the region of process *number*."""
        return _HEAD + number * self.region_words


def _places(wanted: int) -> int:
    return 1 << (min(max(wanted, _FEWEST), _MOST) - 1).bit_length()


@dataclass(frozen=True, eq=False)
class SharedTable:
    """The table, for the one who starts the processes; made by :func:`shared_table`."""

    descriptor: int
    """For :meth:`SharedCounts.attach`."""
    size: Size
    _words: memoryview[int]

    def clear(self, number: int) -> None:
        """Process *number* has ended, and with it all its connections. Who failed there is remembered."""
        start = self.size.region(number)
        length = _HEAD + 2 * self.size.places
        self._words[start : start + length] = memoryview(bytes(_WORD * length)).cast("Q")


@contextmanager
def shared_table(size: Size) -> Iterator[SharedTable]:
    """
    A new table, gone with the last process that has it.

    Raises:
        OSError: the system has no memory for it.
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
    """The table, for one of the processes."""

    def __init__(self, words: memoryview[int], number: int) -> None:
        self._words = words
        self.size = Size(words[0], words[1], words[2])
        self._secret = words[_SECRET].tobytes()
        self._own = self.size.region(number)
        self._others = [self.size.region(other) for other in range(self.size.processes) if other != number]
        self._where: dict[Source, int] = {}

    @classmethod
    def attach(cls, descriptor: int, number: int) -> SharedCounts:
        """As process *number*; closes *descriptor*."""
        try:
            return cls(memoryview(mmap.mmap(descriptor, 0)).cast("Q"), number)
        finally:
            os.close(descriptor)

    @property
    def processes(self) -> int:
        return self.size.processes

    def put_total(self, connections: int) -> None:
        """How many connections this process has."""
        self._words[self._own] = connections

    def total_of_others(self) -> int:
        """How many the others have."""
        return sum(self._words[region] for region in self._others)

    def put(self, source: Source, connections: int, newcomers: int) -> bool:
        """How many connections, and of them newcomers, this process has from *source*; False: there is no room."""
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
            # The key comes last, and goes first: who finds it finds counts that belong to it.
            words[place + 1] = counts
            words[place] = key
        elif counts:
            words[place + 1] = counts
        else:
            del self._where[source]
            words[place] = 0
        return True

    def of_others(self, source: Source) -> tuple[int, int]:
        """How many connections, and of them newcomers, the others have from *source*."""
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
        """Until when the penalties of *source* run, in milliseconds; whether a process refuses it until then."""
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
        """Remember that, instead of what this process would have forgotten first among its neighbours."""
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
        """The key of *source*, never 0, and where its bucket begins."""
        digest = blake2b(repr(source).encode(), digest_size=16, key=self._secret).digest()
        bucket = int.from_bytes(digest[8:], "little") % (2 * places // _BUCKET)
        return int.from_bytes(digest[:8], "little") or 1, bucket * _BUCKET


class SharedPenalties:
    """A :class:`~containerssh.ssh.admission.PenaltyBox` that all processes have together."""

    def __init__(self, penalties: Penalties, shared: SharedCounts) -> None:
        self._shared = shared
        self.use(penalties)

    def use(self, penalties: Penalties) -> None:
        """Apply other limits from now on."""
        self._threshold = round(penalties.threshold.total_seconds() * 1000)
        self._longest = round(penalties.longest.total_seconds() * 1000)

    def is_refused(self, source: Source, now: float) -> bool:
        """Whether *source* has crossed the threshold, and not yet served its time."""
        until, refused = self._shared.penalty(source)
        return refused and until > now * 1000

    def add(self, source: Source, seconds: float, now: float) -> bool:
        """Add to what *source* has gathered; whether it is refused now."""
        moment = int(now * 1000)
        until, was_refused = self._shared.penalty(source)
        was_refused = was_refused and until > moment
        if seconds <= 0:
            return was_refused
        until = min(max(until, moment) + round(seconds * 1000), moment + self._longest)
        refused = was_refused or until - moment >= self._threshold
        self._shared.put_penalty(source, until, refused=refused)
        return refused
