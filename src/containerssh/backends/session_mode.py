"""The session mode of all backends: a container for each session instead of one for the login."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

from containerssh.core.codes import SSHCode
from containerssh.core.errors import Rejected
from containerssh.core.forwarding import ANY_ADDRESS, AddressRules
from containerssh.core.handlers import ConnectionHandler, Incoming, Listener, SessionChannel, SessionHandler
from containerssh.core.streams import ByteStream


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

    async def connect_tcp(self, host: str, port: int, addresses: AddressRules = ANY_ADDRESS) -> ByteStream:
        raise _nowhere("port")

    async def connect_unix(self, path: str) -> ByteStream:
        raise _nowhere("socket")

    async def listen_tcp(self, host: str, port: int, incoming: Incoming) -> Listener:
        raise _nowhere("port")

    async def listen_unix(self, path: str, incoming: Incoming) -> Listener:
        raise _nowhere("socket")

    async def terminate(self) -> None:
        await asyncio.gather(*(container.terminate() for container in self._containers))


def _nowhere(what: str) -> Rejected:
    text = f"{what} forwarding needs one container for the whole connection; here each session has its own"
    return Rejected(SSHCode.CHANNEL_REQUEST_FAILED, text, user_message=text)
