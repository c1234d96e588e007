"""The HTTP servers that run beside the SSH server (health, metrics, OAuth 2.0 redirect) and can be reconfigured at run
time.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Generic, TypeVar

from containerssh.config.app import AppConfig
from containerssh.config.oauth2 import OAuth2Config
from containerssh.config.services import HealthConfig, MetricsConfig
from containerssh.core.codes import ServiceCode
from containerssh.core.messages import Event
from containerssh.core.tasks import HeldScope

logger = logging.getLogger(__name__)

T = TypeVar("T")
C = TypeVar("C", HealthConfig, MetricsConfig)


class Endpoint(Generic[C]):
    """An HTTP server with its own configuration section that enables it."""

    def __init__(self, name: str, opened: Callable[[C], AbstractAsyncContextManager[object]]) -> None:
        self._name = name
        self._opened: Callable[[C], AbstractAsyncContextManager[object]] = opened
        self._config: C | None = None
        self._scope: HeldScope[object] | None = None

    async def use(self, config: C) -> None:
        """
        Serve as *config* requires; certificates are read again.

        Raises:
            ConfigError, BackendError: the server cannot be started; it is closed now.
        """
        if config == self._config and (self._scope is None or config.ssl_context() is None):
            return
        await self.close()
        if config.enable:
            self._scope = await HeldScope.enter(service(self._name, self._opened(config)))
        # Set last, so that the next reload retries after a failure.
        self._config = config

    async def close(self) -> None:
        scope, self._scope = self._scope, None
        self._config = None
        if scope is not None:
            await scope.leave()


class Redirect:
    """The redirect page of OAuth 2.0 logins."""

    def __init__(self) -> None:
        self._scope: HeldScope[object] | None = None

    async def use(self, config: AppConfig) -> None:
        """
        Serve as *config* requires; certificates are read again.

        Raises:
            ConfigError, BackendError: the page cannot be served; it is closed now.
        """
        await self.close()
        if (oauth2 := _oauth2(config)) is not None:
            from containerssh.auth.oauth2.redirect import redirect_page

            page = service("oAuth2 Redirect Server", redirect_page(oauth2.redirect))
            self._scope = await HeldScope.enter(page)

    async def close(self) -> None:
        scope, self._scope = self._scope, None
        if scope is not None:
            await scope.leave()


def _oauth2(config: AppConfig) -> OAuth2Config | None:
    interactive = config.auth.keyboard_interactive
    return interactive.oauth2 if interactive.method == "oauth2" else None


@asynccontextmanager
async def service(name: str, scope: AbstractAsyncContextManager[T]) -> AsyncIterator[T]:
    """Enter *scope* and log upstream's messages about the lifecycle of a service."""
    logger.info(Event(ServiceCode.STARTING, "Service starting", service=name))
    async with scope as value:
        logger.info(Event(ServiceCode.RUNNING, "Service running", service=name))
        try:
            yield value
        finally:
            logger.info(Event(ServiceCode.STOPPING, "Service stopping", service=name))
    logger.info(Event(ServiceCode.STOPPED, "Service stopped", service=name))
