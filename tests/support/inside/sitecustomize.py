"""
What a server under test brings along. On SIGUSR1 it writes its asyncio tasks, one a line, to a file; on SIGUSR2 how
many objects of our classes there are, and from then on the collector of garbage is off.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
from collections import Counter
from pathlib import Path


def _tell(*_: object) -> None:
    # The handler runs in the thread of the loop, while the loop runs.
    _write("".join(f"{task!r}\n" for task in asyncio.all_tasks()))


def _count(*_: object) -> None:
    if gc.isenabled():
        gc.collect()
        gc.disable()
    kinds = Counter(type(thing) for thing in gc.get_objects())
    ours = {f"{kind.__module__}.{kind.__qualname__}": count for kind, count in kinds.items() if _is_ours(kind)}
    _write(json.dumps(ours))


def _is_ours(kind: type) -> bool:
    return str(kind.__module__).startswith("containerssh.")


def _write(text: str) -> None:
    path = Path(os.environ["TEST_TASKS_FILE"])
    new = path.with_suffix(".new")
    new.write_text(text)
    new.rename(path)


if "TEST_TASKS_FILE" in os.environ:
    signal.signal(signal.SIGUSR1, _tell)
    signal.signal(signal.SIGUSR2, _count)
