"""The state of pods: one watch for all of this server's pods in a namespace, and one for each persistent pod."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any

from containerssh.backends.kubernetes.client import PODS, KubernetesClient
from containerssh.backends.kubernetes.errors import APIError
from containerssh.backends.kubernetes.events import EventWatches
from containerssh.backends.kubernetes.pauses import Pauses
from containerssh.backends.kubernetes.refusals import user_words
from containerssh.backends.kubernetes.watch import Known
from containerssh.core.codes import KubernetesCode
from containerssh.core.errors import BackendError, ContainerSSHError, describe
from containerssh.core.flag import Flag
from containerssh.core.messages import Event

logger = logging.getLogger(__name__)

_PAUSES = (0.5, 5.0)


class Followed:
    """The last known state of the pod of a name."""

    def __init__(self, name: str, known: Known | None = None) -> None:
        self.name = name
        self._known = Known() if known is None else known
        """The state of the watch, which other pods share."""
        self.uid = ""
        """The uid of the pod; while it is empty, any pod of the name is followed."""
        self.pod: Mapping[str, Any] | None = None
        """Its last known metadata and status; None before the first event."""
        self.failure: ContainerSSHError | None = None
        """The error that has ended the watch; None while there is none."""
        self.changed = Flag()
        """Set when anything above has changed; :meth:`news` clears it."""
        self._gone: set[str] = set()

    @property
    def gone(self) -> bool:
        """Whether the pod was deleted, so its processes have ended."""
        return self.uid in self._gone

    def follow_only(self, pod: Mapping[str, Any]) -> None:
        """Follow *pod* only, which the API has just returned, and no other pod of its name."""
        self.uid = str(pod["metadata"]["uid"])
        if self.pod is None or self.pod["metadata"].get("uid") != self.uid:
            self.pod = _essence(pod)
        if not self.gone:
            # It may have been created while the watch was interrupted, and may be deleted before the watch resumes.
            self._known.expect(pod)
        self.changed.set()

    def see(self, pod: Mapping[str, Any]) -> None:
        """Process the new state of a pod of this name."""
        if self._is_followed(pod):
            self.pod = pod
            self.changed.set()

    def deleted(self, pod: Mapping[str, Any]) -> None:
        """Process the deletion of a pod of this name."""
        if self._is_followed(pod):
            # Until the uid is known, several pods of the name may be deleted one after another; there are few of them.
            self._gone.add(str(pod["metadata"].get("uid")))
            self.changed.set()

    def fail(self, failure: ContainerSSHError) -> None:
        """End the following with *failure*."""
        self.failure = failure
        self.changed.set()

    async def news(self) -> None:
        """
        Returns when something has changed since the last call.

        Raises:
            BackendError: the pod cannot be watched any more.
        """
        await self.changed.wait()
        self.changed.clear()
        if self.failure is not None:
            user = user_words(self.failure) if isinstance(self.failure, APIError) else None
            raise BackendError(KubernetesCode.POD_WAIT_FAILED, describe(self.failure), user_message=user)

    def _is_followed(self, pod: Mapping[str, Any]) -> bool:
        return not self.uid or pod["metadata"].get("uid") == self.uid


class Follower:
    """A watch that several tasks share; it runs while any of its pods is followed."""

    def __init__(self, client: KubernetesClient, namespace: str, selectors: Mapping[str, str]) -> None:
        self._client = client
        self._namespace = namespace
        self._selectors = selectors
        self._followed: dict[str, list[Followed]] = {}
        self._seen: dict[str, Mapping[str, Any]] = {}
        self._known = Known()
        """The state at the end of the last watch, from which the next one continues."""
        self._task: asyncio.Task[None] | None = None

    @property
    def in_use(self) -> bool:
        """Whether any pod is followed."""
        return bool(self._followed)

    @asynccontextmanager
    async def follow(self, name: str) -> AsyncIterator[Followed]:
        """The scope in which the pod *name* is followed."""
        followed = Followed(name, self._known)
        self._followed.setdefault(name, []).append(followed)
        if (known := self._seen.get(name)) is not None:
            followed.see(known)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._watch())
        try:
            yield followed
        finally:
            others = self._followed[name]
            others.remove(followed)
            if not others:
                del self._followed[name]
                self._seen.pop(name, None)
            if not self._followed and self._task is not None:
                task, self._task = self._task, None
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def _watch(self) -> None:
        pauses = Pauses(*_PAUSES)
        while True:
            try:
                async with aclosing(
                    self._client.watch(
                        PODS,
                        self._namespace,
                        label_selector=self._selectors.get("label", ""),
                        field_selector=self._selectors.get("field", ""),
                        known=self._known,
                    )
                ) as events:
                    async for event in events:
                        pauses.reset()
                        self._take(event.type, event.object)
            except ContainerSSHError as exc:
                # A malformed response may be due to a broken connection; the tasks that wait have time limits.
                if not isinstance(exc, APIError) or exc.passing or exc.status == 401:
                    logger.debug(Event(KubernetesCode.POD_WAIT, f"Pods cannot be watched; trying again: {exc}"))
                    await pauses.wait()
                    continue
                for others in self._followed.values():
                    for followed in others:
                        followed.fail(exc)
                self._task = None
                return

    def _take(self, kind: str, pod: Mapping[str, Any]) -> None:
        name = str(pod["metadata"].get("name"))
        pod = _essence(pod)
        for followed in self._followed.get(name, ()):
            if kind == "DELETED":
                followed.deleted(pod)
            else:
                followed.see(pod)
        # Only the state of followed pods is kept; there may be many others.
        if kind != "DELETED" and name in self._followed:
            self._seen[name] = pod
        elif (last := self._seen.get(name)) is not None and last["metadata"].get("uid") == pod["metadata"].get("uid"):
            # Compared by uid: there may be another pod of this name by now.
            del self._seen[name]


def _essence(pod: Mapping[str, Any]) -> Mapping[str, Any]:
    """The metadata and status of *pod*, which are kept as long as a login; whole pods are large."""
    metadata = {name: value for name, value in pod["metadata"].items() if name != "managedFields"}
    status = pod.get("status")
    return {"metadata": metadata, "status": status if isinstance(status, Mapping) else {}}


class Followers:
    """The watches of one client, each created when it is first needed. Close it after the last :meth:`follow`."""

    def __init__(self, client: KubernetesClient) -> None:
        self._client = client
        self._by_selector: dict[tuple[str, str, str], Follower] = {}
        self.events = EventWatches(client)
        """The events (of the API's kind Event) about these pods."""

    @asynccontextmanager
    async def follow(self, namespace: str, name: str, *, label: str = "") -> AsyncIterator[Followed]:
        """
        The scope in which the pod *name* is followed. With *label*, a label selector, one watch serves all pods that it
        selects, and the pod is about to be created.
        """
        if label:
            self.events.begin(namespace)
        field = "" if label else f"metadata.name={name}"
        key = (namespace, label, field)
        follower = self._by_selector.get(key)
        if follower is None:
            follower = self._by_selector[key] = Follower(self._client, namespace, {"label": label, "field": field})
        try:
            async with follower.follow(name) as followed:
                yield followed
        finally:
            if not follower.in_use and self._by_selector.get(key) is follower:
                del self._by_selector[key]

    async def close(self) -> None:
        """End the watches of events, which go on for a while after their last use."""
        await self.events.close()
