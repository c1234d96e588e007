"""The way of the bytes that spares the API server: agents in pods dial back to this process."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta

from containerssh.agent.codec import Fields, Frame, FrameType, Refused, broken
from containerssh.agent.direct import DirectListener, DirectStream, Invitation, direct_listener
from containerssh.agent.transport import Transport, lost
from containerssh.config.kubernetes_link import ADVERTISE, KubernetesAgentLinkConfig
from containerssh.core.codes import KubernetesCode
from containerssh.core.errors import BackendError, describe
from containerssh.core.messages import Event
from containerssh.core.streams import ByteWriter

logger = logging.getLogger(__name__)

_MAX_LISTENERS = 8
_ANSWER_LIMIT = timedelta(seconds=5)
"""For the agent to say how it went, beyond the time that it had for connecting."""


class DirectWays:
    """The listeners of this process; close it."""

    def __init__(self) -> None:
        self._listeners: dict[str, DirectListener] = {}
        self._undo = AsyncExitStack()

    @asynccontextmanager
    async def open(self, config: KubernetesAgentLinkConfig, own_host: str) -> AsyncIterator[DirectWay | None]:
        """
        The way for one login's agent; it ends with this scope. None: there is none, and the agent can do without.
        *own_host* is what pods probably see us as.

        Raises:
            BackendError: there has to be one.
        """
        async with AsyncExitStack() as undo:
            way = None
            try:
                listener = await self._listener(config)
                # Without any of them the agent says what is wrong.
                host = config.advertise or os.environ.get(ADVERTISE, "") or own_host
                invitation = await undo.enter_async_context(listener.invite(host))
                way = DirectWay(invitation, config, f"{host} port {listener.port}")
            except OSError as exc:
                _missed(config, f"agents cannot dial back to {config.listen}: {describe(exc)}", exc)
            yield way

    async def close(self) -> None:
        """Stop listening."""
        self._listeners.clear()
        await self._undo.aclose()

    async def _listener(self, config: KubernetesAgentLinkConfig) -> DirectListener:
        found = self._listeners.get(config.listen)
        if found is None:
            if len(self._listeners) >= _MAX_LISTENERS:
                raise OSError(f"this process listens at {_MAX_LISTENERS} addresses already")
            # Nothing is waited for in between, so that nobody else opens the same.
            found = await self._undo.enter_async_context(direct_listener(*config.place))
            self._listeners[config.listen] = found
        return found


@dataclass
class DirectWay:
    """How one login's agent may reach us."""

    invitation: Invitation
    config: KubernetesAgentLinkConfig
    place: str
    """For a log."""
    _tried: bool = field(default=False, init=False)

    async def move(self, first: Transport, writer: ByteWriter) -> DirectStream | None:
        """
        The agent's own connection; None: it goes on with the *first*, which is written by *writer*.

        Raises:
            BackendError, ProtocolError: there is no other way, or the agent is lost.
        """
        self._tried = True
        try:
            async with asyncio.timeout((self.config.timeout + _ANSWER_LIMIT).total_seconds()):
                request = self.invitation.request(self.config.timeout)
                await writer.write(Frame(FrameType.DIRECT, 0, request).encode())
                await _answer(first)
                stream = await self.invitation.arrived()
        except Refused as exc:
            await self.invitation.withdraw()
            _missed(self.config, f"the agent in the pod cannot reach {self.place}: {exc.text}", exc)
            return None
        except TimeoutError as exc:
            raise lost("the guest agent did not say whether it has connected") from exc
        except OSError as exc:
            raise lost(f"the guest agent did not connect as it said ({describe(exc)})") from exc
        logger.debug(Event(KubernetesCode.DIRECT, f"The agent has connected to {self.place}"))
        return stream

    async def settle(self) -> None:
        """After the agent's handshake: raises BackendError if it knows of no direct way, and there had to be one."""
        if not self._tried:
            await self.invitation.withdraw()
            _missed(self.config, "the agent in the pod is an older one, which cannot connect by itself", None)


async def _answer(first: Transport) -> None:
    """Raises Refused when the agent could not connect, BackendError or ProtocolError when it is lost."""
    answer, *rest = await first.receive()
    if rest or answer.id:
        raise broken("said more than was asked")
    if answer.type is FrameType.ERROR:
        fields = Fields(answer.payload)
        number, text = fields.number(2), fields.text()
        fields.end()
        raise Refused(number, text)
    if answer.type is not FrameType.OK:
        raise broken("did not say whether it has connected")


def _missed(config: KubernetesAgentLinkConfig, text: str, error: Exception | None) -> None:
    """Raises BackendError where there has to be a direct way."""
    if config.mode == "direct":
        raise BackendError(KubernetesCode.DIRECT_FAILED, text) from error
    logger.warning(Event(KubernetesCode.DIRECT_FAILED, f"{text}; its data goes through the API server"))
