"""The images of logins: lookup, and pulling according to the policy."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta

from containerssh.backends.docker.answers import Image
from containerssh.backends.docker.client import EngineClient
from containerssh.backends.docker.engine_error import EngineError, counted
from containerssh.backends.docker.pull import PullProgress
from containerssh.backends.docker.reference import ImageReference
from containerssh.config.docker import DockerAuthConfig, DockerExecutionConfig
from containerssh.core.codes import DockerCode
from containerssh.core.handlers import Notices
from containerssh.core.messages import Event

logger = logging.getLogger(__name__)

_REMEMBERED_FOR = timedelta(seconds=30)
_REMEMBERED = 256
_NOTICE_EVERY = timedelta(seconds=1)


@dataclass
class _Pull:
    """A pull that several logins may be waiting for."""

    task: asyncio.Task[None]
    watchers: list[Callable[[PullProgress], None]] = field(default_factory=list)


class ImageStore:
    """
    The images of one engine. The list is cached for half a minute; a stale entry shows when a container is created.
    """

    def __init__(self, client: EngineClient) -> None:
        self._client = client
        self._known: dict[str, tuple[Image, float]] = {}
        self._pulls: dict[tuple[str, str, str], _Pull] = {}

    async def ready(self, reference: ImageReference, config: DockerExecutionConfig, notices: Notices) -> Image:
        """
        The image, pulled if the policy of *config* requires it, with progress messages for the user.

        Raises:
            EngineError: the image does not exist or cannot be pulled.
        """
        policy = config.image_pull_policy
        logger.debug(Event(DockerCode.IMAGE_PULL_NEEDED_CHECKING, f"Pull policy of {reference.text}: {policy}"))
        image = None
        if policy != "Always" and (image := await self._look(reference)) is not None:
            return image
        if policy != "Never":
            try:
                await self._pull(reference, config, notices)
            except EngineError as exc:
                exc.user_message = f"The image {reference.text} could not be pulled."
                raise
            image = await self._look(reference)
        if image is None:
            text = f"the engine has no image {reference.text}, and the pull policy is {policy}"
            user_message = f"The image {reference.text} is not available."
            raise counted(EngineError(DockerCode.IMAGE_PULL_FAILED, text, user_message=user_message))
        return image

    def forget(self, reference: ImageReference) -> None:
        """Remove a cached image that the engine no longer has."""
        self._known.pop(reference.text, None)

    async def _look(self, reference: ImageReference) -> Image | None:
        now = asyncio.get_running_loop().time()
        known = self._known.get(reference.text)
        if known is not None and now < known[1]:
            return known[0]
        logger.debug(Event(DockerCode.IMAGE_LISTING, f"Looking for the image {reference.text}"))
        image = await self._client.inspect_image(reference)
        self._known.pop(reference.text, None)
        if image is not None:
            while len(self._known) >= _REMEMBERED:
                del self._known[next(iter(self._known))]
            self._known[reference.text] = (image, now + _REMEMBERED_FOR.total_seconds())
        return image

    async def _pull(self, reference: ImageReference, config: DockerExecutionConfig, notices: Notices) -> None:
        if not reference.repository:
            raise EngineError(
                DockerCode.IMAGE_PULL_FAILED, f"{reference.text} is an image's id, which no registry knows"
            )
        credentials = registry_credentials(config.auth)
        key = (reference.text, config.platform_text, credentials)
        async with self._joined(key, reference) as pull:
            show = _Show(reference, notices)
            pull.watchers.append(show)
            try:
                # The task is shared: a login that is cancelled must not cancel it for others.
                await asyncio.shield(pull.task)
            finally:
                pull.watchers.remove(show)
        self.forget(reference)

    @asynccontextmanager
    async def _joined(self, key: tuple[str, str, str], reference: ImageReference) -> AsyncIterator[_Pull]:
        pull = self._pulls.get(key)
        if pull is None or pull.task.done():
            pull = self._pulls[key] = self._begin(key, reference)
        try:
            yield pull
        finally:
            if not pull.watchers:
                pull.task.cancel()
                if self._pulls.get(key) is pull:
                    del self._pulls[key]

    def _begin(self, key: tuple[str, str, str], reference: ImageReference) -> _Pull:
        watchers: list[Callable[[PullProgress], None]] = []

        def progress(report: PullProgress) -> None:
            for watcher in watchers:
                watcher(report)

        logger.debug(Event(DockerCode.IMAGE_PULL, f"Pulling the image {reference.text}"))
        _, platform, credentials = key
        work = self._client.pull(reference, platform=platform, credentials=credentials, progress=progress)
        task = asyncio.create_task(work)
        # The waiting logins receive the error; without any, it is not needed.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return _Pull(task, watchers)


class _Show:
    """Shows the progress of a pull to one user, at a limited rate."""

    def __init__(self, reference: ImageReference, notices: Notices) -> None:
        self._reference = reference
        self._notices = notices
        self._next = 0.0
        self._last: int | None = -1

    def __call__(self, report: PullProgress) -> None:
        now = asyncio.get_running_loop().time()
        percent = report.percent
        if percent == self._last or now < self._next:
            return
        self._next, self._last = now + _NOTICE_EVERY.total_seconds(), percent
        how_far = "" if percent is None else f": {percent} %"
        self._notices.notice(f"Pulling image {self._reference.text}{how_far}")


def registry_credentials(auth: DockerAuthConfig | None) -> str:
    """The value of ``X-Registry-Auth``: URL-safe base64 of a JSON object; empty without credentials."""
    if auth is None:
        return ""
    username, password = auth.username, auth.password.get_secret_value()
    if (both := auth.auth.get_secret_value()) and not username:
        username, password = _split(both)
    given = {
        "username": username,
        "password": password,
        "email": auth.email,
        "serveraddress": auth.serveraddress,
        "identitytoken": auth.identitytoken.get_secret_value(),
        "registrytoken": auth.registrytoken.get_secret_value(),
    }
    text = json.dumps({name: value for name, value in given.items() if value})
    return base64.urlsafe_b64encode(text.encode()).decode() if any(given.values()) else ""


def _split(both: str) -> tuple[str, str]:
    try:
        username, colon, password = base64.b64decode(both, validate=True).decode().partition(":")
    except ValueError:
        colon = ""
    if not colon:
        raise EngineError(DockerCode.CONFIG_ERROR, "docker.execution.auth.auth is not base64 of username:password")
    return username, password.rstrip("\0")
