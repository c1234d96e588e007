"""The resources of a loaded configuration. A connection uses the configuration that was current when it began.

Resources opened for a configuration (webhook clients, password hashing threads) are closed when its last connection has
ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from containerssh.authenticators import open_authenticators
from containerssh.backends.registry import Backends, ByName
from containerssh.config.app import AppConfig
from containerssh.core.handlers import NetworkHandler, ServerHandler
from containerssh.core.metadata import ConnectionMetadata
from containerssh.core.tasks import HeldScope
from containerssh.geoip import countries
from containerssh.layers.authentication import AuthenticationServer
from containerssh.layers.metrics import MetricsServer
from containerssh.layers.per_login import PerLoginServer

if TYPE_CHECKING:
    from containerssh.auth.config_server import ConfigServer


@dataclass(frozen=True)
class Opened:
    """The opened resources of a generation."""

    handler: ServerHandler
    backends: ByName


class Generation:
    """A configuration with its resources; created by :meth:`Generations.open`."""

    def __init__(self, config: AppConfig, scope: HeldScope[Opened]) -> None:
        self.config = config
        self.scope = scope
        self.connections = 0
        self.retired = False

    @property
    def opened(self) -> Opened:
        return self.scope.value

    def retire(self) -> None:
        """Accept no more connections; close the resources once the existing connections have ended."""
        self.retired = True
        if not self.connections:
            self.scope.let_go()


class Generations(ServerHandler):
    """The outermost handler: assigns each connection to the generation that is current when it arrives."""

    def __init__(self, backends: Backends) -> None:
        self._backends = backends
        self._open: set[Generation] = set()
        self.current: Generation

    async def open(self, config: AppConfig) -> Generation:
        """
        Create a generation for :meth:`use`; the caller retires it if it is not used.

        Raises:
            ConfigError, BackendError: the configuration cannot be used.
        """
        generation = Generation(config, await HeldScope.enter(_opened(config, self._backends)))
        self._open = {other for other in self._open if not other.scope.left} | {generation}
        return generation

    def use(self, generation: Generation) -> None:
        """Make *generation* current, for all new connections."""
        if self.in_force:
            self.current.retire()
        self.current = generation

    @property
    def in_force(self) -> bool:
        """Whether a generation is current."""
        return hasattr(self, "current")

    async def close(self) -> None:
        """Close all generations, after the last connection."""
        for generation in self._open:
            generation.scope.let_go()
        await asyncio.gather(*(generation.scope.leave() for generation in self._open))

    def accept(self, meta: ConnectionMetadata) -> AbstractAsyncContextManager[NetworkHandler]:
        return _Accepted(self.current, meta)


class _Accepted:
    """A connection of a generation. A class, because the frame of a generator would cost memory in every connection."""

    __slots__ = ("_generation", "_inner")

    def __init__(self, generation: Generation, meta: ConnectionMetadata) -> None:
        self._generation = generation
        self._inner = generation.opened.handler.accept(meta)

    async def __aenter__(self) -> NetworkHandler:
        self._generation.connections += 1
        try:
            return await self._inner.__aenter__()
        except BaseException:
            self._ended()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        try:
            return await self._inner.__aexit__(kind, error, trace)
        finally:
            self._ended()

    def _ended(self) -> None:
        generation = self._generation
        generation.connections -= 1
        if generation.retired and not generation.connections:
            generation.scope.let_go()


@asynccontextmanager
async def _opened(config: AppConfig, backends: Backends) -> AsyncIterator[Opened]:
    async with AsyncExitStack() as stack:
        by_name = await backends.choose(config)
        config_server: ConfigServer | None = None
        if config.configserver.url:
            from containerssh.auth.config_server import open_config_server

            config_server = await stack.enter_async_context(open_config_server(config.configserver))
        authenticators = await open_authenticators(config, stack)
        handler: ServerHandler = AuthenticationServer(PerLoginServer(config, config_server, by_name), authenticators)
        if config.metrics.enable:
            country_of = await asyncio.to_thread(countries, config.geoip)
            handler = MetricsServer(handler, country_of, authorizes=authenticators.authorizer is not None)
        yield Opened(handler, by_name)
