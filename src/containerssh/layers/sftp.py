"""Has the subsystem ``sftp`` served as configured, under its rules."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from containerssh.core.files import SFTPRules
from containerssh.core.handlers import SessionChannel, SessionHandler
from containerssh.core.layer import ConnectionLayer, SessionLayer

SUBSYSTEM = "sftp"


@dataclass(eq=False)
class SFTPConnection(ConnectionLayer):
    """The layer directly around the backend, so it sees requests as the security policy has changed them."""

    rules: SFTPRules

    @asynccontextmanager
    async def session(self, channel: SessionChannel) -> AsyncIterator[SessionHandler]:
        async with self.inner.session(channel) as session:
            yield SFTPSession(session, self.rules)


@dataclass(eq=False)
class SFTPSession(SessionLayer):
    rules: SFTPRules

    async def run_subsystem(self, name: str) -> None:
        if name == SUBSYSTEM:
            await self.inner.run_sftp(self.rules)
        else:
            await self.inner.run_subsystem(name)
