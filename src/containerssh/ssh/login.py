"""A login that is open, for the tasks of its connection that were started before."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from containerssh.core.handlers import ConnectionHandler
from containerssh.core.messages import LogScope


class OpenLogin(NamedTuple):
    handler: ConnectionHandler
    log_scope: LogScope
    """The labels and the log level of the login."""


async def joined(login: asyncio.Future[OpenLogin]) -> ConnectionHandler:
    """
    Wait for *login*; what the current task logs from then on has the labels and the level of the login.

    Raises:
        LoginFailed: there is no login.
    """
    opened = await asyncio.shield(login)
    opened.log_scope.join()
    return opened.handler
