"""The config server, which configures each login (``webhooks.md`` section 5.2)."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta

from containerssh.auth.exchange import CONFIG_SERVER, Exchange
from containerssh.auth.fields import invalid_answer, question, read_text, read_values
from containerssh.config.services import ConfigServerConfig
from containerssh.core.codes import ConfigCode
from containerssh.core.errors import ConfigError
from containerssh.core.messages import Event, LabelValue
from containerssh.core.metadata import Login
from containerssh.web.client import HTTPClient, WebhookError, open_http_client

logger = logging.getLogger(__name__)

_PATIENCE = timedelta(seconds=60)


@dataclass(frozen=True)
class ConfigAnswer:
    """The config server's response for a login."""

    login: Login
    """The login with the response's metadata, environment, files and authenticated name merged in."""
    config: Mapping[str, object] | None = field(repr=False)
    """A part of the configuration as JSON, not yet validated; None: no changes to the file's."""
    overlay: bool
    """Whether *config* is merged by presence; otherwise zero values are ignored, since Go servers always send them."""


class ConfigServer:
    """Asks the config server about each login; see :func:`open_config_server`."""

    def __init__(self, config: ConfigServerConfig, client: HTTPClient, *, patience: timedelta = _PATIENCE) -> None:
        self._config = config
        self._client = client
        self._patience = patience

    async def ask(self, login: Login) -> ConfigAnswer:
        """
        The response for *login*. Sensitive entries are sent only with ``transmitSensitiveMetadata``.

        Raises:
            BackendError: the server did not answer within 60 s.
            ConfigError: its response is malformed.
        """
        labels: dict[str, LabelValue] = {"connectionId": login.connection_id, "username": login.username}
        exchange = Exchange(
            self._client,
            "",
            "Configuration request",
            ConfigCode.REQUEST,
            ConfigCode.BACKEND_ERROR,
            ConfigCode.INVALID_STATUS_CODE,
            labels,
            CONFIG_SERVER,
        )
        known = login if self._config.transmit_sensitive_metadata else login.without_sensitive()
        name = {"authenticatedUsername": login.authenticated_username} if login.authenticated_username else {}
        answer = await exchange.ask(question(known, **name), within=self._patience)
        try:
            told = _read(answer, login)
        except WebhookError as exc:
            given_up = exchange.given_up(exc)
            raise ConfigError(ConfigCode.BACKEND_ERROR, str(given_up), reason=exc.code) from exc
        logger.debug(Event(ConfigCode.RESPONSE, "Configuration received", **labels))
        return told


@asynccontextmanager
async def open_config_server(config: ConfigServerConfig) -> AsyncIterator[ConfigServer]:
    """A config server's client for the lifetime of the server; its connections are closed at the end."""
    async with open_http_client(config) as client:
        yield ConfigServer(config, client)


def _read(answer: Mapping[str, object], login: Login) -> ConfigAnswer:
    config = answer.get("config")
    if config is not None and not isinstance(config, Mapping):
        raise invalid_answer("config is not an object")
    mode = read_text(answer, "configMode")
    if mode not in ("", "overlay"):
        raise invalid_answer("configMode is neither empty nor overlay")
    values = read_values(answer)
    told = login.with_values(values.metadata, values.environment, values.files)
    if name := read_text(answer, "authenticatedUsername"):
        told = replace(told, authenticated_username=name)
    return ConfigAnswer(told, config, overlay=mode == "overlay")
