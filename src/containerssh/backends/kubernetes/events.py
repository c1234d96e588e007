"""The events (of the API's kind Event) about pods that start: one watch for all pods of a namespace.

With a watch for each pod, the API server's costs would grow with the square of their number: it does not cache events,
so it reads all of a namespace for every watch, and those of an hour for every list.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any

from containerssh.backends.kubernetes.client import EVENTS, KubernetesClient
from containerssh.backends.kubernetes.errors import APIError
from containerssh.backends.kubernetes.pauses import Pauses
from containerssh.backends.kubernetes.watch import Passing
from containerssh.core.codes import KubernetesCode
from containerssh.core.errors import ContainerSSHError
from containerssh.core.flag import Flag
from containerssh.core.messages import Event

logger = logging.getLogger(__name__)

_PAUSES = (0.5, 5.0)
_LINGER = 60.0
"""Seconds for which a watch goes on after its last use; on a busy server it never ends."""
_MOST_HELD = 100
"""Unread events of one pod that are kept."""
_RECENT = 256
"""Events of a namespace that are kept: those of a pod may arrive before the response with its uid."""


class PodEvents:
    """The events of one pod."""

    def __init__(self) -> None:
        self._events: deque[Mapping[str, Any]] = deque(maxlen=_MOST_HELD)
        self._failure: ContainerSSHError | None = None
        self._news = Flag()

    def add(self, event: Mapping[str, Any]) -> None:
        self._events.append(event)
        self._news.set()

    def fail(self, failure: ContainerSSHError) -> None:
        self._failure = failure
        self._news.set()

    async def next(self) -> Mapping[str, Any]:
        """
        The next event.

        Raises:
            ContainerSSHError: events cannot be watched.
        """
        while not self._events:
            if self._failure is not None:
                raise self._failure
            self._news.clear()
            await self._news.wait()
        return self._events.popleft()


class EventWatches:
    """The events of all namespaces in which pods of one client start. Close it at the end."""

    def __init__(self, client: KubernetesClient) -> None:
        self._client = client
        self._by_namespace: dict[str, _EventWatch] = {}

    def begin(self, namespace: str) -> None:
        """Watch the events of *namespace*, so that none about a pod created after this call is missed."""
        self._watch_of(namespace)

    @asynccontextmanager
    async def of_pod(self, namespace: str, uid: str) -> AsyncIterator[PodEvents]:
        """The scope of the events of the pod *uid*, including those since :meth:`begin`."""
        watch = self._watch_of(namespace)
        events = watch.open(uid)
        try:
            yield events
        finally:
            watch.close(uid, events)

    async def close(self) -> None:
        """End all watches."""
        watches, self._by_namespace = list(self._by_namespace.values()), {}
        for watch in watches:
            watch.cancel()
        await asyncio.gather(*(watch.task for watch in watches), return_exceptions=True)

    def _watch_of(self, namespace: str) -> _EventWatch:
        watch = self._by_namespace.get(namespace)
        if watch is None:
            watch = self._by_namespace[namespace] = _EventWatch(self._client, namespace, self._by_namespace)
        watch.keep_on()
        return watch


class _EventWatch:
    """The watch of one namespace."""

    def __init__(self, client: KubernetesClient, namespace: str, registry: dict[str, _EventWatch]) -> None:
        self._client = client
        self._namespace = namespace
        self._registry = registry
        self._readers: dict[str, list[PodEvents]] = {}
        self._recent: deque[tuple[str, Mapping[str, Any]]] = deque(maxlen=_RECENT)
        self._last_used = 0.0
        self._known = Passing()
        self.task = asyncio.create_task(self._watch())
        self._timer = asyncio.get_running_loop().call_later(_LINGER, self._end_if_unused)

    def keep_on(self) -> None:
        """Start the watch again if it has ended, and postpone its end."""
        self._last_used = asyncio.get_running_loop().time()
        if self.task.done():
            self.task = asyncio.create_task(self._watch())

    def open(self, uid: str) -> PodEvents:
        events = PodEvents()
        for whose, event in self._recent:
            if whose == uid:
                events.add(event)
        self._readers.setdefault(uid, []).append(events)
        return events

    def close(self, uid: str, events: PodEvents) -> None:
        self._readers[uid].remove(events)
        if not self._readers[uid]:
            del self._readers[uid]
        self._last_used = asyncio.get_running_loop().time()

    def cancel(self) -> None:
        self._timer.cancel()
        self.task.cancel()

    def _end_if_unused(self) -> None:
        """End the watch if it has not been used for long."""
        loop = asyncio.get_running_loop()
        left = self._last_used + _LINGER - loop.time()
        if self._readers or left > 0:
            self._timer = loop.call_later(_LINGER if self._readers else left, self._end_if_unused)
        else:
            self._registry.pop(self._namespace, None)
            self.cancel()

    async def _watch(self) -> None:
        pauses = Pauses(*_PAUSES)
        while True:
            try:
                async with aclosing(self._client.watch(EVENTS, self._namespace, known=self._known)) as events:
                    async for event in events:
                        pauses.reset()
                        if event.type != "DELETED":
                            self._take(event.object)
            except ContainerSSHError as exc:
                logger.debug(Event(KubernetesCode.POD_WAIT, f"Events cannot be seen: {exc.explanation}"))
                # With status 401 the token has expired; a new one follows.
                if isinstance(exc, APIError) and not (exc.passing or exc.status == 401):
                    # The next use of the namespace starts the watch again.
                    for readers in list(self._readers.values()):
                        for reader in readers:
                            reader.fail(exc)
                    return
                await pauses.wait()

    def _take(self, event: Mapping[str, Any]) -> None:
        about = event.get("involvedObject")
        uid = about.get("uid") if isinstance(about, Mapping) else None
        if isinstance(uid, str):
            self._recent.append((uid, event))
            for reader in self._readers.get(uid, ()):
                reader.add(event)
