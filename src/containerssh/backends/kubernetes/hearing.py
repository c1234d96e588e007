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


class Heard:
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


class Hearers:
    """The events of all namespaces in which pods of one client start. Close it at the end."""

    def __init__(self, client: KubernetesClient) -> None:
        self._client = client
        self._by_namespace: dict[str, _Hearer] = {}

    def attend(self, namespace: str) -> None:
        """Watch the events of *namespace*, so that none about a pod created after this call is missed."""
        self._hearer(namespace)

    @asynccontextmanager
    async def hear(self, namespace: str, uid: str) -> AsyncIterator[Heard]:
        """The scope of the events of the pod *uid*, including those since :meth:`attend`."""
        hearer = self._hearer(namespace)
        heard = hearer.begin(uid)
        try:
            yield heard
        finally:
            hearer.end(uid, heard)

    async def close(self) -> None:
        """End all watches."""
        hearers, self._by_namespace = list(self._by_namespace.values()), {}
        for hearer in hearers:
            hearer.cancel()
        await asyncio.gather(*(hearer.task for hearer in hearers), return_exceptions=True)

    def _hearer(self, namespace: str) -> _Hearer:
        hearer = self._by_namespace.get(namespace)
        if hearer is None:
            hearer = self._by_namespace[namespace] = _Hearer(self._client, namespace, self._by_namespace)
        hearer.go_on()
        return hearer


class _Hearer:
    """The watch of one namespace."""

    def __init__(self, client: KubernetesClient, namespace: str, all_of_them: dict[str, _Hearer]) -> None:
        self._client = client
        self._namespace = namespace
        self._all_of_them = all_of_them
        self._hearing: dict[str, list[Heard]] = {}
        self._recent: deque[tuple[str, Mapping[str, Any]]] = deque(maxlen=_RECENT)
        self._last_used = 0.0
        self._known = Passing()
        self.task = asyncio.create_task(self._watch())
        self._timer = asyncio.get_running_loop().call_later(_LINGER, self._look_after)

    def go_on(self) -> None:
        """Start the watch again if it has ended, and postpone its end."""
        self._last_used = asyncio.get_running_loop().time()
        if self.task.done():
            self.task = asyncio.create_task(self._watch())

    def begin(self, uid: str) -> Heard:
        heard = Heard()
        for whose, event in self._recent:
            if whose == uid:
                heard.add(event)
        self._hearing.setdefault(uid, []).append(heard)
        return heard

    def end(self, uid: str, heard: Heard) -> None:
        self._hearing[uid].remove(heard)
        if not self._hearing[uid]:
            del self._hearing[uid]
        self._last_used = asyncio.get_running_loop().time()

    def cancel(self) -> None:
        self._timer.cancel()
        self.task.cancel()

    def _look_after(self) -> None:
        """End the watch if it has not been used for long."""
        loop = asyncio.get_running_loop()
        left = self._last_used + _LINGER - loop.time()
        if self._hearing or left > 0:
            self._timer = loop.call_later(_LINGER if self._hearing else left, self._look_after)
        else:
            self._all_of_them.pop(self._namespace, None)
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
                    for heard in [one for some in self._hearing.values() for one in some]:
                        heard.fail(exc)
                    return
                await pauses.wait()

    def _take(self, event: Mapping[str, Any]) -> None:
        about = event.get("involvedObject")
        uid = about.get("uid") if isinstance(about, Mapping) else None
        if isinstance(uid, str):
            self._recent.append((uid, event))
            for heard in self._hearing.get(uid, ()):
                heard.add(event)
