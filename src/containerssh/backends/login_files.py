"""Writing a login's files into its container."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta

from containerssh.core.errors import ContainerSSHError, describe
from containerssh.core.messages import Code, Event
from containerssh.core.metadata import Login

logger = logging.getLogger(__name__)


async def write_login_files(
    login: Login,
    write: Callable[[str, bytes], Awaitable[None]],
    *,
    limit: timedelta,
    writing: Code,
    failed: Code,
) -> None:
    """
    Write each file of *login* by ``write(path, content)``, which may take *limit*. *writing* is the code of the message
    before each file. As in upstream, a file that cannot be written is only a warning, with the code *failed*.
    """
    for path, content in login.files.items():
        logger.debug(Event(writing, "Writing a file", path=path))
        try:
            async with asyncio.timeout(limit.total_seconds()):
                await write(path, content.value)
        except (ContainerSSHError, OSError, TimeoutError, ValueError) as exc:
            text = f"A file could not be written into the container ({describe(exc)})"
            logger.warning(Event(failed, text, path=path))
