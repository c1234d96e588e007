"""The metrics of several processes in shared memory, so that one page shows all of them.

Each process periodically writes its counters to its own region and reads the regions of the others. A restarted process
continues from the counters of its predecessor.
"""

from __future__ import annotations

import asyncio
import json
import mmap
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from containerssh.core.counters import Counters
from containerssh.core.metrics import GAUGES, Sample

EVERY = 1.0
"""Seconds between two writes."""

# The kernel allocates only the pages that are written.
_REGION = 1024 * 1024
_HEAD = struct.Struct("=II")
_TRIES = 5


@contextmanager
def shared_metrics(processes: int) -> Iterator[int]:
    """
    A file descriptor for :class:`SharedMetrics` in *processes* processes; the memory is freed with its last user.

    Raises:
        OSError: the memory cannot be allocated.
    """
    descriptor = os.memfd_create("containerssh-metrics")
    try:
        os.ftruncate(descriptor, processes * _REGION)
        yield descriptor
    finally:
        os.close(descriptor)


class SharedMetrics:
    """The shared memory as seen by process *number*; takes ownership of *descriptor* and closes it."""

    def __init__(self, descriptor: int, number: int) -> None:
        try:
            self._memory = mmap.mmap(descriptor, 0)
        finally:
            os.close(descriptor)
        self._number = number
        self._processes = len(self._memory) // _REGION
        self._known: dict[int, Sequence[Sample]] = {}

    def resume(self, counters: Counters) -> None:
        """Continue from the counters of the previous process with this number; gauges start from the current values."""
        counters.resume(sample for sample in self._read(self._number) if sample[0][0] not in GAUGES)
        self.write(counters)

    async def keep_writing(self, counters: Counters) -> None:
        """Write the counters periodically, until cancelled."""
        while True:
            await asyncio.sleep(EVERY)
            self.write(counters)

    def write(self, counters: Counters) -> None:
        """Publish the counters; if they exceed the region, the previous values remain."""
        data = json.dumps([*counters.snapshot().items()], separators=(",", ":")).encode()
        if len(data) <= _REGION - _HEAD.size:
            start = self._number * _REGION
            self._memory[start + _HEAD.size : start + _HEAD.size + len(data)] = data
            self._memory[start : start + _HEAD.size] = _HEAD.pack(len(data), zlib.crc32(data))

    def of_others(self) -> Iterator[Sample]:
        """The counters of all other processes, as last written."""
        for number in range(self._processes):
            if number != self._number:
                yield from self._read(number)

    def _read(self, number: int) -> Sequence[Sample]:
        start = number * _REGION
        for _ in range(_TRIES):
            length, checksum = _HEAD.unpack(self._memory[start : start + _HEAD.size])
            data = self._memory[start + _HEAD.size : start + _HEAD.size + length]
            if not length:
                return ()
            # A mismatch means that the region is being written.
            if zlib.crc32(data) == checksum:
                samples = [
                    ((name, tuple((key, text) for key, text in labels)), value)
                    for (name, labels), value in json.loads(data)
                ]
                self._known[number] = samples
                break
        return self._known.get(number, ())
