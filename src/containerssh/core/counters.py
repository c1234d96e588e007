"""Counters and gauges by name and labels, from which metrics are generated.

Counting is a dictionary access, safe in the event loop's thread only. Labels must come from a small set, never from
what a peer sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from containerssh.core.metrics import Labels, Sample


class Counters:
    """A registry of counters; a counter begins to exist with its first count."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, Labels], int] = {}

    def add(self, name: str, amount: int = 1, /, **labels: str) -> None:
        """Count *amount* more (negative: fewer) of *name*, one of :mod:`containerssh.core.metrics`."""
        key = (name, tuple(sorted(labels.items())))
        self._values[key] = self._values.get(key, 0) + amount

    def value(self, name: str, /, **labels: str) -> int:
        """How many events were counted; 0 before the first."""
        return self._values.get((name, tuple(sorted(labels.items()))), 0)

    def resume(self, samples: Iterable[Sample]) -> None:
        """Continue from the counts of another process."""
        for key, value in samples:
            self._values[key] = self._values.get(key, 0) + value

    def snapshot(self) -> Mapping[tuple[str, Labels], int]:
        """All counters, as they are now."""
        return dict(self._values)


counters = Counters()
"""The counters of this process."""
