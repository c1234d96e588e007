"""The docker backend: a container for each login, or in session mode for each of its programs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial

from pydantic import ValidationError

from containerssh.backends.container import ContainerConnection
from containerssh.backends.docker.container import EngineContainer
from containerssh.backends.docker.engine import Engine, Engines
from containerssh.backends.docker.engine_error import EngineError
from containerssh.backends.docker.launch import LABEL_INSTANCE
from containerssh.backends.docker.outlived import Outlived
from containerssh.backends.docker.plain import execution_of, forbids_agent, plain_login
from containerssh.backends.docker.start import Start
from containerssh.backends.expiry import LABEL_EXPIRES
from containerssh.backends.session_mode import SessionModeConnection
from containerssh.config.docker import DockerConfig, DockerConnectionConfig
from containerssh.core.codes import DockerCode
from containerssh.core.errors import BackendError
from containerssh.core.handlers import ConnectionHandler, Notices
from containerssh.core.instance import Instance
from containerssh.core.messages import Event
from containerssh.core.metadata import Login
from containerssh.core.tasks import finish

logger = logging.getLogger(__name__)

_REMOVE_AGAIN = timedelta(seconds=30)
_LAST_TRY = timedelta(seconds=10)
_WARNINGS = 100
_NOTE = "docker engine "


class DockerBackend:
    """Starts containers through Docker engines; a server has one instance."""

    name = "docker"

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._engines = Engines()
        self._left: set[EngineContainer] = set()
        self._held: set[str] = set()
        self._outlived = Outlived(instance)
        self._janitor: asyncio.Task[None] | None = None
        self._warned: set[str] = set()
        self._looked_at: DockerConfig | None = None
        self._noted: set[DockerConnectionConfig] = set()

    @asynccontextmanager
    async def login(self, login: Login, config: DockerConfig, notices: Notices) -> AsyncIterator[ConnectionHandler]:
        """
        The scope of a login: its container runs inside, and is removed at the end.

        Raises:
            ConfigError: the engine's certificates cannot be used.
            BackendError: the container could not be started; the text contains the engine's message.
        """
        self._warn(config)
        engine = await self._engines.get(config.connection, config.timeouts.http)
        self._leave_note(config)
        start = Start(engine, self._instance, config, login, notices, self._remember, self._held)
        way = config.execution.agent_in_use
        if way in ("image", "none"):
            async with plain_login(start, way) as handler:
                yield handler
        elif config.execution.mode == "session":
            await start.prepare()
            yield SessionModeConnection(partial(_session_container, start))
        else:
            async with AsyncExitStack() as undo:
                try:
                    link = await undo.enter_async_context(start.run(config.timeouts.container_start))
                except EngineError as exc:
                    if way != "auto" or not forbids_agent(exc):
                        raise
                    yield await undo.enter_async_context(plain_login(start, "auto", why=exc.explanation))
                else:
                    assert start.container is not None
                    yield ContainerConnection(link, execution_of(config, start.container.host_addresses))

    async def probe(self, config: DockerConfig) -> str:
        """
        Describe the engine that responds.

        Raises:
            ConfigError, BackendError: no engine responds.
        """
        engine = await self._engines.get(config.connection, config.timeouts.http)
        return f"{await engine.client.ping()} at {engine.client.endpoint.url}"

    async def import_image(self, config: DockerConfig, name: str, archive: bytes) -> None:
        """
        Create the image *name* from the root file system in *archive* (tar).

        Raises:
            ConfigError, BackendError: the engine does not respond or refuses.
        """
        engine = await self._engines.get(config.connection, config.timeouts.http)
        await engine.client.import_image(name, archive)

    async def reap(self, config: DockerConfig | None) -> int:
        """
        Remove the containers of this machine's dead instances; return their number. Searches the configured engine
        (None: none is configured), the engines that this process has used, and those that the dead instances have used.
        The caller forgets the instances after all backends have finished.

        Raises:
            BackendError: an engine does not respond, or a container could not be removed; the other engines were
                processed nevertheless.
        """
        dead = set(self._instance.dead())
        removed = 0
        failure: BackendError | None = None
        for engine in await self._places(config, dead) if dead else ():
            try:
                found = await engine.client.list_containers(LABEL_INSTANCE)
                for container in [one for one, labels in found.items() if labels.get(LABEL_INSTANCE) in dead]:
                    await engine.client.remove_container(container)
                    removed += 1
                    text = "Removed a container that an ended server process had left"
                    logger.info(Event(DockerCode.ORPHAN_REMOVED, text, containerId=container))
            except BackendError as exc:
                failure = failure or exc
        if failure is not None:
            raise failure
        return removed

    async def reap_outlived(self, config: DockerConfig | None) -> None:
        """
        Remove containers that are older than the maximum duration of their logins and cannot belong to a login of a
        living instance, from the configured engine (None: none is configured) and from those that this process has
        used; see :class:`Outlived`.

        Raises:
            BackendError: an engine does not respond, or a container could not be removed.
        """
        where: dict[str, Engine] = {}
        found: dict[str, Mapping[str, str]] = {}
        failure: BackendError | None = None
        for engine in await self._places(config):
            try:
                here = await engine.client.list_containers(LABEL_EXPIRES)
            except BackendError as exc:
                failure = failure or exc
                continue
            found |= here
            where |= dict.fromkeys(here, engine)
        for container in self._outlived.among(found, self._held, datetime.now(UTC), time.monotonic()):
            await where[container].client.remove_container(container)
            text = "Removed a container that had outlived the longest time of its login"
            logger.info(Event(DockerCode.ORPHAN_REMOVED, text, containerId=container))
        if failure is not None:
            raise failure

    async def _places(self, config: DockerConfig | None, dead: Collection[str] = ()) -> list[Engine]:
        """The engines that may have containers of this server or of *dead* instances."""
        http = (config or DockerConfig.default()).timeouts.http
        connections = [config.connection] if config is not None else []
        connections += [connection for dead_id in dead for connection in _noted(self._instance, dead_id)]
        asked = [await self._engines.get(connection, http) for connection in dict.fromkeys(connections)]
        return list({engine.client.endpoint.url: engine for engine in [*asked, *self._engines.known()]}.values())

    def has_work_elsewhere(self, dead: Collection[str]) -> bool:
        """Whether engines other than the configured one may have containers."""
        return bool(self._engines.known()) or any(any(_noted(self._instance, dead_id)) for dead_id in dead)

    def _leave_note(self, config: DockerConfig) -> None:
        """
        Record the engine's address for the next process, in case this one is killed. Omitted for engines with a private
        key, which must not be stored.
        """
        if config.connection not in self._noted and not config.connection.key.get_secret_value():
            self._noted.add(config.connection)
            self._instance.note(_NOTE + config.connection.model_dump_json(include={"host", "cacert"}))

    async def close(self) -> None:
        """Clean up after the last login: retry failed removals once, then close idle connections."""
        if self._janitor is not None:
            self._janitor.cancel()
            await asyncio.wait([self._janitor])
        if self._left:
            await finish(self._remove_left, within=_LAST_TRY)
            for container in self._left:
                container.give_up()
        await self._engines.close()

    def _warn(self, config: DockerConfig) -> None:
        """Warn about ignored keys, once for each set: they may occur in every response of a config server."""
        if config is self._looked_at:
            return
        self._looked_at = config
        text = ", ".join(config.ignored_keys())
        if text and text not in self._warned and len(self._warned) < _WARNINGS:
            self._warned.add(text)
            logger.warning(Event(DockerCode.CONFIG_IGNORED, f"Keys without effect in the docker section: {text}"))

    def _remember(self, container: EngineContainer) -> None:
        text = "The container could not be removed; that is tried again in the background"
        logger.error(Event(DockerCode.CONTAINER_REMOVE_FAILED, text, containerId=container.id))
        self._left.add(container)
        if self._janitor is None or self._janitor.done():
            self._janitor = asyncio.create_task(self._tidy())

    async def _tidy(self) -> None:
        while self._left:
            await asyncio.sleep(_REMOVE_AGAIN.total_seconds())
            await finish(self._remove_left, within=_REMOVE_AGAIN)

    async def _remove_left(self) -> None:
        await asyncio.gather(*(self._remove_one(container) for container in self._left))

    async def _remove_one(self, container: EngineContainer) -> None:
        try:
            await container.remove()
        except EngineError as exc:
            # The engine refused, and would do so again.
            logger.warning(exc.event())
        self._left.discard(container)
        self._held.discard(container.launch)


@asynccontextmanager
async def _session_container(start: Start) -> AsyncIterator[ContainerConnection]:
    """A container for one session."""
    config = start.config
    async with start.again().run(config.timeouts.command_start) as link:
        yield ContainerConnection(link, execution_of(config))


def _noted(instance: Instance, dead_id: str) -> Iterator[DockerConnectionConfig]:
    """The engines that a dead instance has used."""
    for note in instance.notes(dead_id):
        if note.startswith(_NOTE):
            with suppress(ValidationError):
                yield DockerConnectionConfig.model_validate_json(note.removeprefix(_NOTE))
