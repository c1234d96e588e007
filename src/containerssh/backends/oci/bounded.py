"""Running tools under a size limit for what they write, since an untrusted image determines it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

from containerssh.backends.oci.launcher import Ended, Launcher
from containerssh.config.values import format_size
from containerssh.core.codes import OCICode
from containerssh.core.errors import BackendError

_LOOK_AGAIN = 0.25
# Measuring takes longer the more files there are; spend at most a tenth of the time on it.
_SHARE = 10


async def run_bounded(
    launcher: Launcher, argv: Sequence[str], environment: Mapping[str, str], folder: Path, most: int
) -> Ended:
    """
    Run a program to completion; it is killed when *folder* contains more than *most* bytes (0: no limit), or when the
    caller is cancelled. The size is measured a few times per second, so it may be exceeded slightly.

    Raises:
        BackendError: the limit was exceeded.
    """
    if not most:
        return await launcher.execute(argv, environment)
    running = asyncio.create_task(launcher.execute(argv, environment))
    try:
        pause = _LOOK_AGAIN
        while not running.done():
            await asyncio.wait((running,), timeout=pause)
            pause = max(_LOOK_AGAIN, _SHARE * await _look(launcher, folder, most))
        return running.result()
    finally:
        running.cancel()
        await asyncio.wait((running,))


async def _look(launcher: Launcher, folder: Path, most: int) -> float:
    """
    Measure *folder*; return the seconds that this took. Done by the helper, since the gateway may not have access to
    all folders.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    ended = await launcher.call("bound", folder=str(folder), most=most)
    if ended.status != 0:
        text = f"the image was given up, since it takes more than {format_size(most)} (oci.imageSizeMax): "
        raise BackendError(OCICode.IMAGE_FAILED, text + ended.last_words)
    return loop.time() - began
