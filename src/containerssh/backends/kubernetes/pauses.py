"""Pauses between tries."""

from __future__ import annotations

import asyncio
import random


class Pauses:
    """
    Twice as long each time, between *first* and *most* seconds, less a part by chance: servers that lost the API
    together do not come back together.
    """

    def __init__(self, first: float, most: float) -> None:
        self._first = first
        self._most = most
        self._next = first

    def reset(self) -> None:
        """A try went well."""
        self._next = self._first

    @property
    def upcoming(self) -> float:
        """The most seconds that the next one may take."""
        return self._next

    async def wait(self) -> None:
        """Wait for the next one's time."""
        pause, self._next = self._next, min(2 * self._next, self._most)
        await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  spreads requests, hides nothing
