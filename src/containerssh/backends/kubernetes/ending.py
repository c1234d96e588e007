"""Why a pod has ended, for the link to the agent in it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from containerssh.agent.link import AgentLink
from containerssh.backends.kubernetes.following import Followed
from containerssh.backends.kubernetes.progress import Over, container_end, judge
from containerssh.core.codes import KubernetesCode
from containerssh.core.errors import BackendError, ContainerSSHError
from containerssh.core.messages import Event

logger = logging.getLogger(__name__)

_REASON_LIMIT = 3.0
"""Seconds that the cluster has to report why a link broke."""
_AFTER_GRACE = 10.0
"""Seconds that a node has, after a deleted pod's grace period, to report that the pod has ended."""


@dataclass(frozen=True)
class PodEnding:
    """The end of a pod that was ready."""

    followed: Followed
    console: str
    """The name of the container in which programs run."""
    restarts: int
    """How many times that container had been restarted when the pod was ready."""

    async def explain(self) -> ContainerSSHError | None:
        """Why the link has ended, if the pod is the reason; the cluster may take a moment to report it."""
        try:
            async with asyncio.timeout(_REASON_LIMIT):
                while (reason := self._reason()) is None:
                    await self.followed.news()
        except (TimeoutError, ContainerSSHError):
            return None
        return reason

    @asynccontextmanager
    async def breaks(self, link: AgentLink) -> AsyncIterator[None]:
        """The scope in which the end of the pod ends *link*: the connection to a lost node never ends by itself."""
        watching = asyncio.create_task(self._watch(link))
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _watch(self, link: AgentLink) -> None:
        try:
            ends: float | None = None
            with suppress(TimeoutError):
                while not self.followed.gone and not self._has_ended():
                    if ends is None and (grace := self._grace_period()) is not None:
                        ends = asyncio.get_running_loop().time() + grace + _AFTER_GRACE
                    async with asyncio.timeout_at(ends):
                        await self.followed.news()
            link.break_off(self._reason() or _deleted())
        except ContainerSSHError as exc:
            # Without a watch the link still ends by itself when its connection breaks.
            logger.debug(Event(KubernetesCode.POD_WAIT_FAILED, f"The pod cannot be followed: {exc.explanation}"))

    def _has_ended(self) -> bool:
        pod = self.followed.pod
        return pod is not None and pod.get("status", {}).get("phase") in ("Failed", "Succeeded")

    def _grace_period(self) -> float | None:
        """Seconds; None: the pod is not being deleted."""
        metadata = self.followed.pod["metadata"] if self.followed.pod is not None else {}
        if not metadata.get("deletionTimestamp"):
            return None
        grace = metadata.get("deletionGracePeriodSeconds")
        return float(grace) if isinstance(grace, int) and 0 <= grace < 2**31 else 0.0

    def _reason(self) -> BackendError | None:
        pod = self.followed.pod
        if pod is not None and isinstance(over := judge(pod, self.console), Over):
            return _ended(over.words, over.user)
        if self.followed.gone:
            return _deleted()
        if pod is not None and (end := container_end(pod, self.console, self.restarts)):
            return _ended(end.words, end.user)
        return None


def _deleted() -> BackendError:
    return _ended("the pod was deleted", "The pod was deleted.")


def _ended(words: str, user: str) -> BackendError:
    return BackendError(KubernetesCode.POD_ENDED, words, user_message=user)
