"""A program's output on its way to the client's channel, and when a session may end without waiting for the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from contextlib import suppress

from containerssh.core.handlers import SessionChannel
from containerssh.core.streams import ByteReader, Pump

_GRACE = 0.2
"""Seconds without data after which output counts as idle."""


class Output:
    """
    Copies standard output and standard error to *channel*, from its creation on; *stderr* is None if none is copied.
    Its creator cancels :attr:`tasks` at the end.
    """

    def __init__(self, stdout: ByteReader, stderr: ByteReader | None, channel: SessionChannel) -> None:
        self._copies = [Pump(stdout, channel.stdout)]
        if stderr is not None:
            self._copies.append(Pump(stderr, channel.stderr))
        self._pumps = [asyncio.create_task(_run(copy)) for copy in self._copies]
        self.tasks = [*self._pumps, asyncio.create_task(_end(self._pumps, channel))]

    async def drained(self) -> None:
        """
        Wait until all output tasks have ended, or have been idle for a short time. To be called after the program has
        exited; the agent has then sent all that the program wrote.
        """
        while True:
            before = self._moved
            _, pending = await asyncio.wait(self._pumps, timeout=_GRACE)
            if not pending:
                return
            # If the whole server was suspended, the timer fires before pending data is processed.
            for copy in self._copies:
                copy.look()
            if self._moved == before and sum(copy.idle for copy in self._copies) == len(pending):
                return

    @property
    def _moved(self) -> int:
        return sum(copy.count for copy in self._copies)


async def _end(pumps: Collection[asyncio.Task[None]], channel: SessionChannel) -> None:
    """Send EOF once both streams have ended: an SSH channel has a single end of file for both."""
    await asyncio.wait(pumps)
    with suppress(ConnectionError):
        await channel.stdout.write_eof()
        await channel.stderr.write_eof()


async def _run(copy: Pump) -> None:
    # A broken stream means that the link or the client has gone; both are handled elsewhere.
    with suppress(ConnectionError):
        await copy.run()
