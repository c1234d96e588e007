"""What the processes of one server have counted, in shared memory, so that one page tells it all.

Each process has a region, writes its counts there now and then, and reads the others'. A process that takes the place
of one that ended goes on from what that had counted.
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
"""Seconds between two writings."""

# Memory is taken only for what is written.
_REGION = 1024 * 1024
_HEAD = struct.Struct("=II")
_TRIES = 5


@contextmanager
def shared_metrics(processes: int) -> Iterator[int]:
    """
    A descriptor for :class:`SharedMetrics` in so many processes; the memory is gone with the last that has it.

    Raises:
        OSError: the system has no memory for it.
    """
    descriptor = os.memfd_create("containerssh-metrics")
    try:
        os.ftruncate(descriptor, processes * _REGION)
        yield descriptor
    finally:
        os.close(descriptor)


class SharedMetrics:
    """The memory, for process *number*; closes *descriptor*."""

    def __init__(self, descriptor: int, number: int) -> None:
        try:
            self._memory = mmap.mmap(descriptor, 0)
        finally:
            os.close(descriptor)
        self._number = number
        self._processes = len(self._memory) // _REGION
        self._known: dict[int, Sequence[Sample]] = {}

    def resume(self, counters: Counters) -> None:
        """Go on from what the process had counted whose place this one takes; what is there now begins anew."""
        counters.resume(sample for sample in self._read(self._number) if sample[0][0] not in GAUGES)
        self.write(counters)

    async def keep_writing(self, counters: Counters) -> None:
        """Write, until cancelled."""
        while True:
            await asyncio.sleep(EVERY)
            self.write(counters)

    def write(self, counters: Counters) -> None:
        """Let the others know; what is too much for the region stays as it was."""
        data = json.dumps([*counters.snapshot().items()], separators=(",", ":")).encode()
        if len(data) <= _REGION - _HEAD.size:
            start = self._number * _REGION
            self._memory[start + _HEAD.size : start + _HEAD.size + len(data)] = data
            self._memory[start : start + _HEAD.size] = _HEAD.pack(len(data), zlib.crc32(data))

    def of_others(self) -> Iterator[Sample]:
        """What all other processes had counted when they last wrote."""
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
            # It may just be written.
            if zlib.crc32(data) == checksum:
                samples = [
                    ((name, tuple((key, text) for key, text in labels)), value)
                    for (name, labels), value in json.loads(data)
                ]
                self._known[number] = samples
                break
        return self._known.get(number, ())
