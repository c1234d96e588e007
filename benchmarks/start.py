"""How long commands take from their start."""

from __future__ import annotations

import compileall
import subprocess
import sys
import time
from pathlib import Path

import containerssh

LIMIT = 60.0


def compile_package() -> None:
    """As an installation does; otherwise each start would, wherever Python is told to write no bytecode."""
    compileall.compile_dir(str(Path(containerssh.__file__).parent), quiet=1)


def version() -> float:
    """Milliseconds for ``containerssh --version``."""
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "containerssh", "--version"], check=True, stdout=subprocess.DEVNULL, timeout=LIMIT
    )
    return (time.perf_counter() - began) * 1000
