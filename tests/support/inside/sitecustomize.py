"""What a server under test brings along: on SIGUSR1 it writes its asyncio tasks, one a line, to a file."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path


def _tell(*_: object) -> None:
    path = Path(os.environ["TEST_TASKS_FILE"])
    new = path.with_suffix(".new")
    # The handler runs in the thread of the loop, while the loop runs.
    new.write_text("".join(f"{task!r}\n" for task in asyncio.all_tasks()))
    new.rename(path)


if "TEST_TASKS_FILE" in os.environ:
    signal.signal(signal.SIGUSR1, _tell)
