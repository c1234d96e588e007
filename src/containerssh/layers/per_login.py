"""Determines a login's own configuration, and the backend that serves it.

The sources are, in this order: the file, the user's part of the users file (merged by presence), the config server's
response. An error in any of them ends the login with a message code. The login is never served with a part of them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from containerssh.config.app import AppConfig
from containerssh.config.merge import merge_answer, overlay
from containerssh.core.codes import BackendCode
from containerssh.core.errors import ConfigError
from containerssh.core.handlers import AuthMethod, ConnectionHandler, NetworkHandler, Notices, ServerHandler
from containerssh.core.messages import log_labels, log_threshold
from containerssh.core.metadata import ConnectionMetadata, Login, LoginSpan
from containerssh.layers.security import Policy, SecurityConnection
from containerssh.layers.sftp import SFTPConnection

if TYPE_CHECKING:
    from containerssh.auth.config_server import ConfigAnswer


class LoginBackend(Protocol):
    """A backend, for the lifetime of the server."""

    def login(
        self, login: Login, config: AppConfig, notices: Notices
    ) -> AbstractAsyncContextManager[ConnectionHandler]:
        """A login's container: entering starts it, leaving removes it. Raises BackendError."""


class LoginConfiguration(Protocol):
    """The config server."""

    async def ask(self, login: Login) -> ConfigAnswer:
        """The configuration of *login*. Raises ConfigError, BackendError."""
        ...


@dataclass(eq=False)
class PerLoginServer(ServerHandler):
    """The innermost server handler: everything below it is created for one login."""

    config: AppConfig
    config_server: LoginConfiguration | None
    backends: Mapping[str, LoginBackend]

    def accept(self, meta: ConnectionMetadata) -> AbstractAsyncContextManager[NetworkHandler]:
        return nullcontext(PerLoginNetwork(self))


@dataclass(eq=False)
class PerLoginNetwork(NetworkHandler):
    server: PerLoginServer

    @property
    def auth_methods(self) -> frozenset[AuthMethod]:
        """Not used: the authentication layer around this one handles them."""
        return frozenset()

    @asynccontextmanager
    async def login(self, login: Login, notices: Notices) -> AsyncIterator[ConnectionHandler]:
        login, config = await self._settle(login)
        backend = self.server.backends.get(config.backend)
        if backend is None:
            raise ConfigError(BackendCode.CONFIG_ERROR, f"invalid backend: {config.backend}", backend=config.backend)
        if longest := config.security.max_login_time:
            login = replace(login, span=LoginSpan.from_now(longest))
        labels = {"authenticatedUsername": login.authenticated_username, "backend": config.backend}
        with (
            log_labels(module="backend", **labels),
            log_threshold(None if config.log.level == self.server.config.log.level else config.log.level.stdlib),
        ):
            async with backend.login(login, config, notices) as connection:
                files = SFTPConnection(connection, config.sftp.rules)
                yield SecurityConnection(files, Policy(config.security, login.restrictions))

    async def _settle(self, login: Login) -> tuple[Login, AppConfig]:
        config = self.server.config
        if login.config_overlay:
            config = overlay(config, login.config_overlay)
        if self.server.config_server is None:
            return login, config
        answer = await self.server.config_server.ask(login)
        if answer.config:
            merge = overlay if answer.overlay else merge_answer
            config = merge(config, answer.config)
        return answer.login, config
