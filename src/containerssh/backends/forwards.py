"""The forwards of a login, and the variables that point its programs to the client's ssh-agent and displays."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import timedelta

from containerssh.agent.forwards import AgentListener
from containerssh.agent.link import AgentLink
from containerssh.core.codes import AgentCode
from containerssh.core.errors import Rejected
from containerssh.core.forwarding import AddressRules
from containerssh.core.handlers import Incoming, Listener, SessionChannel
from containerssh.core.requests import Origin, X11Request
from containerssh.core.streams import ByteStream

_CONNECT = timedelta(seconds=30)
_DISPLAYS = 16


class ContainerForwards:
    """The forwards of one login; all of them end with the container's link."""

    def __init__(self, link: AgentLink) -> None:
        self._forwards = link.forwards
        self._making = asyncio.Lock()
        self._agent: AgentListener | None = None
        self._displays: dict[X11Request, AgentListener] = {}
        self._single_displays = 0

    async def connect_tcp(self, host: str, port: int, addresses: AddressRules) -> ByteStream:
        return await self._forwards.connect_tcp(host, port, addresses, _CONNECT)

    async def connect_unix(self, path: str) -> ByteStream:
        return await self._forwards.connect_unix(path, _CONNECT)

    async def listen_tcp(self, host: str, port: int, incoming: Incoming) -> Listener:
        return await self._forwards.listen_tcp(host, port, incoming)

    async def listen_unix(self, path: str, incoming: Incoming) -> Listener:
        return await self._forwards.listen_unix(path, incoming)

    async def agent(self, channel: SessionChannel) -> Mapping[str, str]:
        """
        The variables for programs that use the client's ssh-agent. All sessions share one socket, which exists until
        the login ends: editors keep using it after the session in which they found it.
        """
        async with self._making:
            if self._agent is None:

                async def incoming(_: Origin) -> ByteStream:
                    return await channel.open_agent()

                self._agent = await self._forwards.listen_agent(incoming)
            return self._agent.environment

    async def display(self, request: X11Request, channel: SessionChannel) -> Mapping[str, str]:
        """
        The variables for programs that open windows on the client's display. Sessions with the same cookie share a
        display, which exists until the login ends; a display for a single connection is not shared.
        """
        async with self._making:
            listener = self._displays.get(request)
            if listener is None:
                if len(self._displays) + self._single_displays >= _DISPLAYS:
                    text = "too many displays are forwarded"
                    raise Rejected(AgentCode.LISTEN_FAILED, text, user_message="Too many displays are forwarded.")
                listener = await self._forwards.listen_x11(request, channel.open_x11)
                if request.single_connection:
                    self._single_displays += 1
                else:
                    self._displays[request] = listener
            return listener.environment
