"""One container, from the create request to its confirmed removal."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from containerssh.backends.docker.client import EngineClient
from containerssh.backends.docker.engine_error import Cure, EngineError
from containerssh.backends.docker.frames import Attached
from containerssh.backends.docker.launch import LABEL_LAUNCH
from containerssh.backends.host_addresses import host_addresses, usable
from containerssh.core.codes import DockerCode
from containerssh.core.forwarding import Address
from containerssh.core.messages import Event
from containerssh.core.text import one_line

logger = logging.getLogger(__name__)

T = TypeVar("T")

_PAUSE = 0.5
_TRIES = 3
_ABSENCE = 10.0
"""How long in seconds an engine that is restarting may be unreachable."""
_LISTS_AFTER = (0.0, 1.0, 3.0)


async def persist(once: Callable[[], Awaitable[T]], *, on_error: Callable[[EngineError], None]) -> T:
    """
    Call *once*, and retry while that can help; return its result. The caller limits the time.

    Raises:
        EngineError: the engine refused, had an internal error for the third time, or was unreachable for ten seconds.
    """
    failures = 0
    loop = asyncio.get_running_loop()
    absent_since: float | None = None
    while True:
        try:
            return await once()
        except EngineError as exc:
            failures += exc.cure is Cure.FEW_TRIES
            if exc.permanent or failures >= _TRIES:
                raise
            if not exc.absent:
                absent_since = None
            elif absent_since is None:
                absent_since = loop.time()
            elif loop.time() - absent_since >= _ABSENCE:
                exc.explanation += f"; nobody has listened there for {_ABSENCE:g} s"
                raise
            on_error(exc)
            logger.debug(Event(exc.code, f"{exc.explanation}; trying again"))
        await asyncio.sleep(_PAUSE)


class EngineContainer:
    """A container that may or may not exist, because the reply to the create request can be lost."""

    def __init__(self, client: EngineClient) -> None:
        self.client = client
        self.launch = secrets.token_hex(16)
        """The value of the container's label ``containerssh_launch``."""
        self.id = ""
        self.attached: Attached | None = None
        """The main program's streams, if this process reads them."""
        self._attempt: asyncio.Task[str] | None = None
        self._lost = False
        self._gateways: tuple[Address, ...] | None = None

    async def create(self, body: Mapping[str, Any], *, name: str, platform: str) -> None:
        """
        Try once to create the container. On cancellation the request continues, and :meth:`remove` waits for its
        result.

        Raises:
            EngineError: the request was refused, or its result is unknown.
        """
        if self._lost:
            await self._sweep()
        logger.debug(Event(DockerCode.CONTAINER_CREATE, "Creating the container"))
        self._attempt = asyncio.create_task(self.client.create_container(body, name=name, platform=platform))
        try:
            self.id = await asyncio.shield(self._attempt)
        except EngineError as exc:
            self._lost = self._lost or exc.lost
            raise

    async def start(self) -> None:
        """Try once to start the container."""
        logger.debug(Event(DockerCode.CONTAINER_START, "Starting the container", containerId=self.id))
        await self.client.start_container(self.id)

    async def host_addresses(self) -> tuple[Address, ...]:
        """
        The addresses at which the running container would reach this machine or the engine's; none if it is meant to be
        in the host's network. The first call asks the engine.

        Raises:
            EngineError: it does not answer.
        """
        if self._gateways is None:
            state = await self.client.inspect_container(self.id)
            if state is not None and state.host.get("NetworkMode") == "host":
                return ()
            self._gateways = usable(state.gateways) if state is not None else ()
        return (*await host_addresses(), *self._gateways)

    async def ended(self) -> EngineError | None:
        """The reason why the container does not run, with the end of its output; None while it runs."""
        state = await self.client.inspect_container(self.id)
        if state is not None and state.running:
            return None
        text, code = "the container was removed while it was being started", DockerCode.CONTAINER_ENDED
        if state is not None:
            text = f"the container ended with status {state.exit_code} while it was being started"
            if state.error:
                text += f": {one_line(state.error)}"
            try:
                output = await self.client.container_output(self.id, terminal=state.has_terminal)
            except EngineError:
                output = ""
            output = output or (self.attached.words if self.attached is not None else "")
            if output.strip():
                text += f"; the end of its output: {one_line(output[-500:])}"
        return EngineError(code, text, user_message="The container ended while it was being started.")

    async def remove(self) -> None:
        """
        Remove the container, in whatever state it is; retries until cancelled.

        Raises:
            EngineError: the engine refuses.
        """
        if self._attempt is not None and not self.id:
            try:
                self.id = await asyncio.shield(self._attempt)
            except EngineError as exc:
                self._lost = self._lost or exc.lost
        if self._lost:
            await self._until_done(self._sweep_late)
        if self.id:
            logger.debug(Event(DockerCode.CONTAINER_REMOVE, "Removing the container", containerId=self.id))
            await self._until_done(self._remove_known)
            text = "The container is removed"
            logger.debug(Event(DockerCode.CONTAINER_REMOVE_SUCCESSFUL, text, containerId=self.id))

    def give_up(self) -> None:
        """Stop retrying, because the server ends."""
        if self._attempt is not None:
            self._attempt.cancel()

    async def _remove_known(self) -> None:
        pause = 0.05
        while not await self.client.remove_container(self.id):
            await asyncio.sleep(pause)
            pause = min(2 * pause, _PAUSE)

    async def _sweep_late(self) -> None:
        # The engine may still be processing the create request of a broken connection.
        for pause in _LISTS_AFTER:
            await asyncio.sleep(pause)
            if await self._sweep():
                return

    async def _sweep(self) -> bool:
        found = await self.client.list_containers(f"{LABEL_LAUNCH}={self.launch}")
        for container in found:
            await self.client.remove_container(container)
        return bool(found)

    async def _until_done(self, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                return await work()
            except EngineError as exc:
                if exc.permanent:
                    raise
                logger.debug(Event(DockerCode.CONTAINER_REMOVE_FAILED, exc.explanation, containerId=self.id))
            await asyncio.sleep(_PAUSE)
