"""Logins without the gateway's guest agent, whose programs the engine or the cluster starts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

from containerssh.agent.upstream_forwards import UpstreamForwards
from containerssh.backends.container import ContainerSession, Execution
from containerssh.backends.programs import Programs
from containerssh.core.errors import Rejected
from containerssh.core.forwarding import ANY_ADDRESS, AddressRules, address_of
from containerssh.core.handlers import ConnectionHandler, Incoming, Listener, SessionChannel, SessionHandler
from containerssh.core.messages import Code
from containerssh.core.requests import X11Request
from containerssh.core.streams import ByteStream


@dataclass(eq=False)
class PlainConnection(ConnectionHandler):
    """A login; its creator closes the arguments after the last session."""

    open_programs: Callable[[], AbstractAsyncContextManager[Programs]]
    """The scope of a session's program: in the login's container, or in session mode in its own container."""

    execution: Execution

    refusal: Code
    """The message code for features that need the guest agent."""

    forwards: UpstreamForwards | None = None
    """Forwards through the image's agent, if it has one; the creator closes them."""

    takes_variables: bool = True
    """Whether programs can receive environment variables from a client."""

    _sessions: set[ContainerSession] = field(default_factory=set, init=False)

    @asynccontextmanager
    async def session(self, channel: SessionChannel) -> AsyncIterator[SessionHandler]:
        async with self.open_programs() as programs:
            session = PlainSession(programs, channel, self)
            self._sessions.add(session)
            try:
                yield session
            finally:
                self._sessions.discard(session)
                await session.close()

    async def connect_tcp(self, host: str, port: int, addresses: AddressRules = ANY_ADDRESS) -> ByteStream:
        forwards = self.forwards_for("port forwarding")
        # The image's agent does not tell what a name resolves to; names go wherever the lists let them.
        if address_of(host) is not None:
            addresses = addresses.apart_from_host(await self.execution.host())
        return await forwards.connect_tcp(host, port, addresses)

    async def connect_unix(self, path: str) -> ByteStream:
        return await self.forwards_for("socket forwarding").connect_unix(path)

    async def listen_tcp(self, host: str, port: int, incoming: Incoming) -> Listener:
        return await self.forwards_for("port forwarding").listen_tcp(host, port, incoming)

    async def listen_unix(self, path: str, incoming: Incoming) -> Listener:
        return await self.forwards_for("socket forwarding").listen_unix(path, incoming)

    async def terminate(self) -> None:
        await asyncio.gather(*(session.terminate() for session in self._sessions))

    def forwards_for(self, what: str) -> UpstreamForwards:
        """The forwards; raises Rejected if there are none."""
        if self.forwards is None:
            raise self.needs_agent(what)
        return self.forwards

    def needs_agent(self, what: str) -> Rejected:
        text = f"{what} needs the guest agent, which this server works without"
        return Rejected(self.refusal, text, user_message=text)


class PlainSession(ContainerSession):
    """A session whose program is started by the engine or the cluster."""

    def __init__(self, programs: Programs, channel: SessionChannel, connection: PlainConnection) -> None:
        super().__init__(programs, connection.execution, channel)
        self._connection = connection

    async def set_env(self, name: str, value: str) -> None:
        if not self._connection.takes_variables:
            raise self._connection.needs_agent("setting variables")
        await super().set_env(name, value)

    async def request_x11(self, request: X11Request) -> None:
        forwards = self._connection.forwards_for("X11 forwarding")
        self._check_not_started()
        self._env.update(await forwards.display(request, self._channel))

    async def request_agent(self) -> None:
        raise self._connection.needs_agent("forwarding of the ssh-agent")
