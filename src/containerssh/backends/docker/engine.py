"""One engine, and the information cached about it while the server runs."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from containerssh.backends.docker.endpoint import open_endpoint
from containerssh.backends.docker.engine_error import EngineError
from containerssh.backends.docker.exec_client import ExecClient
from containerssh.backends.docker.images import ImageStore
from containerssh.backends.docker.restrictions import missing_isolation, missing_limits
from containerssh.config.docker import DockerConnectionConfig, DockerExecutionConfig
from containerssh.core.codes import DockerCode
from containerssh.core.messages import NOTICE, Event

logger = logging.getLogger(__name__)

_REMEMBERED = 64


class Engine:
    """The client and images of an engine, and how the agent enters its containers."""

    def __init__(self, client: ExecClient) -> None:
        self.client = client
        self.images = ImageStore(client)
        self._sees_our_files = client.endpoint.is_local
        self._told: set[str] = set()
        self._news: set[str] = set()
        self._checked: dict[str, list[str]] = {}

    def uses_socket(self, config: DockerExecutionConfig) -> bool:
        """Whether the agent dials back over a unix socket that is mounted into the container."""
        if config.agent_transport != "auto":
            return config.agent_transport == "socket"
        why = "its socket is local" if self._sees_our_files else "it does not see our files"
        self._tell("socket" if self._sees_our_files else "attach", why)
        return self._sees_our_files

    def lacks_our_files(self) -> None:
        """
        Record that the engine did not find a host folder: it runs on another machine, or the gateway runs in a
        container.
        """
        self._sees_our_files = False

    async def check(self, container: str, host: Mapping[str, Any]) -> None:
        """
        Compare a new container with the requested *host* (HostConfig). Podman silently drops some keys; a missing
        resource limit is logged, once for each *host*.

        Raises:
            EngineError: a configured isolation setting was not applied.
        """
        if not (await self.client.info()).is_podman:
            return
        key = json.dumps(host, sort_keys=True)
        missing = self._checked.get(key)
        if missing is None:
            found = await self.client.inspect_container(container)
            if found is None:
                return
            missing = missing_isolation(host, found)
            if limits := missing_limits(host, found):
                text = f"This engine silently ignores docker.execution.host {', '.join(limits)}"
                logger.warning(Event(DockerCode.CONFIG_IGNORED, text, engine=self.client.endpoint.url))
            if len(self._checked) >= _REMEMBERED:
                del self._checked[next(iter(self._checked))]
            self._checked[key] = missing
        if missing:
            text = (
                f"Podman silently ignores docker.execution.host {', '.join(missing)}, so the container is not started"
            )
            raise EngineError(DockerCode.CONTAINER_CREATE_FAILED, text)

    def is_first_time(self, what: str) -> bool:
        """Whether this is the first call with *what* for this engine: some messages are logged once per engine."""
        news = what not in self._news
        self._news.add(what)
        return news

    def _tell(self, transport: str, why: str) -> None:
        if transport in self._told:
            return
        self._told.add(transport)
        text = f"The guest agent is reached by {transport} on this engine: {why}"
        logger.log(
            NOTICE if len(self._told) > 1 else logging.INFO,
            Event(DockerCode.AGENT_TRANSPORT, text, engine=self.client.endpoint.url, transport=transport),
        )


class Engines:
    """The engines of all logins: the configured one, and those named by a config server."""

    def __init__(self) -> None:
        self._engines: dict[tuple[DockerConnectionConfig, timedelta], Engine] = {}

    async def get(self, connection: DockerConnectionConfig, http_limit: timedelta) -> Engine:
        """
        The engine at *connection*.

        Raises:
            ConfigError: its certificates cannot be used.
        """
        key = (connection, http_limit)
        engine = self._engines.get(key)
        if engine is None:
            endpoint = await asyncio.to_thread(open_endpoint, connection)
            engine = self._engines.setdefault(key, Engine(ExecClient(endpoint, http_limit)))
            if len(self._engines) > _REMEMBERED:
                # Logins that still use it keep their reference; only its idle connections are lost.
                await self._engines.pop(next(iter(self._engines))).client.close()
        return engine

    def known(self) -> list[Engine]:
        """All engines in use, each address once."""
        return list({engine.client.endpoint.url: engine for engine in self._engines.values()}.values())

    async def close(self) -> None:
        """Close idle connections."""
        while self._engines:
            await self._engines.popitem()[1].client.close()
