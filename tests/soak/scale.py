"""How much of everything: ``SOAK`` in the environment, 1 being all of it."""

from __future__ import annotations

import os

SCALE = float(os.environ.get("SOAK") or 1)


def scaled(count: int, least: int = 1) -> int:
    """So much of *count*."""
    return max(least, round(count * SCALE))
