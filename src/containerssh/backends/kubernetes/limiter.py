"""How often the API may be asked."""

from __future__ import annotations

import asyncio


class Limiter:
    """A bucket of *burst* requests that is filled again with *rate* of them a second; a rate of None: no limit."""

    def __init__(self, rate: float | None, burst: int) -> None:
        self._rate = rate
        self._burst = max(1, burst)
        self._left = float(self._burst)
        self._counted = 0.0

    async def take(self) -> None:
        """Wait for one's turn; whoever came first goes first."""
        if self._rate is None:
            return
        now = asyncio.get_running_loop().time()
        if self._counted:
            self._left = min(self._burst, self._left + (now - self._counted) * self._rate)
        self._counted = now
        self._left -= 1
        if self._left < 0:
            try:
                await asyncio.sleep(-self._left / self._rate)
            except asyncio.CancelledError:
                # Who gives up has used nothing: else a client that begins and gives up keeps others waiting for hours.
                self._left += 1
                raise
