"""Logins without the server's own agent: programs by the cluster's exec, through the image's agent where it has one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from containerssh.agent.upstream_forwards import UpstreamForwards, upstream_forwards
from containerssh.backends.container import ContainerConnection, ContainerSession, Execution
from containerssh.backends.kubernetes.execs import Execs
from containerssh.backends.kubernetes.start import Inside, execution_of
from containerssh.config.kubernetes import KubernetesConfig
from containerssh.core.codes import KubernetesCode
from containerssh.core.errors import Rejected
from containerssh.core.forwarding import ANY_ADDRESS, AddressRules
from containerssh.core.handlers import ConnectionHandler, Incoming, Listener, SessionChannel, SessionHandler
from containerssh.core.requests import X11Request
from containerssh.core.streams import ByteStream


@asynccontextmanager
async def connection(inside: Inside, config: KubernetesConfig) -> AsyncIterator[ConnectionHandler]:
    """What answers a login's requests in a pod that is ready."""
    if inside.link is not None:
        yield ContainerConnection(inside.link, execution_of(config, inside.given))
        return
    execution = execution_of(config, {})
    if not inside.execs.agent:
        yield PlainConnection(execution, inside.execs)
        return
    async with upstream_forwards(inside.execs.start, inside.execs.agent) as forwards:
        yield PlainConnection(execution, inside.execs, forwards)


@dataclass(eq=False)
class PlainConnection(ConnectionHandler):
    """A login whose pod is ready."""

    execution: Execution
    programs: Execs
    forwards: UpstreamForwards | None = None
    _sessions: set[ContainerSession] = field(default_factory=set, init=False)

    @asynccontextmanager
    async def session(self, channel: SessionChannel) -> AsyncIterator[SessionHandler]:
        session = PlainSession(self.programs, self.execution, channel)
        session.plain_forwards = self.forwards
        session.takes_variables = bool(self.programs.agent)
        self._sessions.add(session)
        try:
            yield session
        finally:
            self._sessions.discard(session)
            await session.close()

    async def connect_tcp(self, host: str, port: int, addresses: AddressRules = ANY_ADDRESS) -> ByteStream:
        return await self._for("port forwarding").connect_tcp(host, port, addresses)

    async def connect_unix(self, path: str) -> ByteStream:
        return await self._for("socket forwarding").connect_unix(path)

    async def listen_tcp(self, host: str, port: int, incoming: Incoming) -> Listener:
        return await self._for("port forwarding").listen_tcp(host, port, incoming)

    async def listen_unix(self, path: str, incoming: Incoming) -> Listener:
        return await self._for("socket forwarding").listen_unix(path, incoming)

    async def terminate(self) -> None:
        await asyncio.gather(*(session.terminate() for session in self._sessions))

    def _for(self, what: str) -> UpstreamForwards:
        if self.forwards is None:
            raise _needs_agent(what)
        return self.forwards


class PlainSession(ContainerSession):
    """A session whose program the cluster starts."""

    plain_forwards: UpstreamForwards | None = None
    """Through the image's agent, where there is one."""

    takes_variables: bool = False
    """Whether there is an agent, which gets them on its command line, as from upstream."""

    async def set_env(self, name: str, value: str) -> None:
        if not self.takes_variables:
            raise _needs_agent("setting variables")
        await super().set_env(name, value)

    async def request_x11(self, request: X11Request) -> None:
        if self.plain_forwards is None:
            raise _needs_agent("X11 forwarding")
        self._check_not_started()
        self._env.update(await self.plain_forwards.display(request, self._channel))

    async def request_agent(self) -> None:
        raise _needs_agent("forwarding of the ssh-agent")


def _needs_agent(what: str) -> Rejected:
    text = f"{what} needs the guest agent, which this server works without"
    return Rejected(KubernetesCode.GUEST_AGENT_DISABLED, text, user_message=text)
