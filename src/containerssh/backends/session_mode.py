"""The session mode of all backends: a container for each session instead of one for the login."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

from containerssh.core.handlers import ConnectionHandler, SessionChannel, SessionHandler


@dataclass(eq=False)
class SessionModeConnection(ConnectionHandler):
    """A login without a container of its own, so there is nothing to forward to either."""

    open_container: Callable[[], AbstractAsyncContextManager[ConnectionHandler]]
    """The scope of one session's container."""

    _containers: set[ConnectionHandler] = field(default_factory=set, init=False)

    @asynccontextmanager
    async def session(self, channel: SessionChannel) -> AsyncIterator[SessionHandler]:
        async with self.open_container() as container:
            self._containers.add(container)
            try:
                async with container.session(channel) as session:
                    yield session
            finally:
                self._containers.discard(container)

    async def terminate(self) -> None:
        await asyncio.gather(*(container.terminate() for container in self._containers))
