"""How long commands take from their start."""

from __future__ import annotations

import subprocess
import sys
import time

LIMIT = 60.0


def version() -> float:
    """Milliseconds for ``containerssh --version``."""
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "containerssh", "--version"], check=True, stdout=subprocess.DEVNULL, timeout=LIMIT
    )
    return (time.perf_counter() - began) * 1000
