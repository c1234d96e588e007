"""Removing pods that nobody needs: one that cannot be removed keeps no other, and is tried again ever more rarely."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from containerssh.backends.kubernetes.client import PODS, KubernetesClient
from containerssh.backends.kubernetes.errors import APIError
from containerssh.core.codes import KubernetesCode
from containerssh.core.messages import Event

logger = logging.getLogger(__name__)

_AT_ONCE = 8
_REMEMBERED = 1000


@dataclass(frozen=True)
class Unneeded:
    """A pod, and what it is that nobody needs."""

    pod: Mapping[str, Any]
    why: str
    """Words that go on after "a pod that"."""

    @property
    def uid(self) -> str:
        return str(self.pod["metadata"]["uid"])


class Removal:
    """At one API server."""

    def __init__(self, client: KubernetesClient, *, again: float = 15.0, longest: float = 300.0) -> None:
        """*again*: seconds until the first other try for a pod; each later one waits twice as long, up to *longest*."""
        self._client = client
        self._again = again
        self._longest = longest
        self._failed: dict[str, tuple[float, float]] = {}
        """By uid: when it may be tried again, and the pause before that."""

    async def remove(
        self, unneeded: Sequence[Unneeded], *, unless: Callable[[], Awaitable[bool]] | None = None
    ) -> list[Mapping[str, Any]]:
        """
        Remove the pods; those that are still there. What keeps one of them is told once. *unless* is asked now and then
        whether the others are needed after all; what it raises is raised.

        Raises:
            APIError: so many got no answer that the API is taken for away.
        """
        now = asyncio.get_running_loop().time()
        due: list[Unneeded] = []
        left: list[Mapping[str, Any]] = []
        for one in unneeded:
            if self._failed.get(one.uid, (0.0, 0.0))[0] <= now:
                due.append(one)
            else:
                left.append(one.pod)
        # What failed before may be slow to fail again: it comes last.
        due.sort(key=lambda one: one.uid in self._failed)
        for start in range(0, len(due), _AT_ONCE):
            if start and unless is not None and await unless():
                return left + [one.pod for one in due[start:]]
            batch = due[start : start + _AT_ONCE]
            ends = await asyncio.gather(*(self._remove(one) for one in batch))
            left += [one.pod for one, end in zip(batch, ends, strict=True) if end is not None]
            refused = [end for end in ends if end is not None]
            if len(refused) == len(batch) == _AT_ONCE and all(end.status in (0, 401) for end in refused):
                raise refused[0]
        return left

    async def _remove(self, one: Unneeded) -> APIError | None:
        metadata = one.pod["metadata"]
        name = str(metadata.get("name"))
        try:
            await self._client.delete(PODS, str(metadata.get("namespace")), name, uid=one.uid)
        except APIError as exc:
            if exc.status not in (404, 409):
                self._remember(one, name, exc)
                return exc
        else:
            logger.info(Event(KubernetesCode.ORPHAN_REMOVED, f"Removed a pod that {one.why}", podName=name))
        self._failed.pop(one.uid, None)
        return None

    def _remember(self, one: Unneeded, name: str, error: APIError) -> None:
        before = self._failed.pop(one.uid, None)
        if before is None:
            text = f"A pod that {one.why} cannot be removed; that is tried again ({error.explanation})"
            logger.warning(Event(KubernetesCode.POD_REMOVE_FAILED, text, podName=name))
        pause = self._again if before is None else min(2 * before[1], self._longest)
        while len(self._failed) >= _REMEMBERED:
            del self._failed[next(iter(self._failed))]
        self._failed[one.uid] = asyncio.get_running_loop().time() + pause, pause
