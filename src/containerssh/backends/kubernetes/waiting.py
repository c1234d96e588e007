"""Waiting until a pod is ready: the user is told the progress, and a lasting failure ends the wait at once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta

from containerssh.backends.kubernetes.events import EventWatches
from containerssh.backends.kubernetes.following import Followed
from containerssh.backends.kubernetes.launch import PodError
from containerssh.backends.kubernetes.progress import Over, Ready, Starting, Trouble, is_warning, judge, tell_event
from containerssh.core.codes import KubernetesCode
from containerssh.core.errors import ContainerSSHError
from containerssh.core.handlers import Notices
from containerssh.core.messages import Event

logger = logging.getLogger(__name__)

_QUICK_START = 1.0
"""Seconds before the first event is told. Most pods are ready by then."""
_MOST_NOTICES = 100


@dataclass
class Waiting:
    """One wait for one pod, whose uid is known."""

    event_watches: EventWatches
    namespace: str
    followed: Followed
    console: str
    notices: Notices
    patience: timedelta
    """How long a problem may last."""
    last: str = ""
    """The last problem, for the log."""
    _told: set[str] = field(default_factory=set, init=False)
    _since: float | None = field(default=None, init=False)
    """When the problem began, by the event loop's clock; None: there has been none."""
    _well_since: float | None = field(default=None, init=False)
    _repeats: bool = field(default=False, init=False)
    """Whether the last problem is one that comes back after a time without it, as a failing container does."""

    async def until_ready(self) -> None:
        """
        Returns when programs can be started in the pod. The caller limits the time.

        Raises:
            PodError: that will not happen, or a problem lasted too long.
            BackendError: the pod cannot be followed.
        """
        logger.debug(Event(KubernetesCode.POD_WAIT, "Waiting until the pod is ready", podName=self.followed.name))
        async with self._telling_events():
            while True:
                if self.followed.gone:
                    raise PodError("the pod was deleted while it was starting", user_message="The pod was deleted.")
                trouble = self._look()
                if trouble is None and self._is_ready():
                    return
                limit = self._limit(trouble)
                if trouble is not None and limit is not None and asyncio.get_running_loop().time() >= limit:
                    raise _failed(trouble)
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(limit):
                        await self.followed.news()

    def _limit(self, trouble: Trouble | None) -> float | None:
        """When *trouble* has lasted too long."""
        if trouble is None or self._since is None:
            return None
        return self._since + self.patience.total_seconds()

    def _is_ready(self) -> bool:
        return self.followed.pod is not None and isinstance(judge(self.followed.pod, self.console), Ready)

    def _look(self) -> Trouble | None:
        """The present problem, if there is one; raises PodError if it is lasting."""
        if self.followed.pod is None:
            return None
        match judge(self.followed.pod, self.console):
            case Trouble() as trouble:
                self.last = trouble.words
                if trouble.lasting:
                    raise _failed(trouble)
                self._begin_or_go_on(trouble)
                return trouble
            case Over(words, user, reason):
                raise PodError(words, user_message=user, reason=reason, code=KubernetesCode.POD_ENDED)
            case Starting(text):
                logger.debug(Event(KubernetesCode.POD_WAIT, text))
        if self._well_since is None:
            self._well_since = asyncio.get_running_loop().time()
        return None

    def _begin_or_go_on(self, trouble: Trouble) -> None:
        """A container that fails again soon after its restart had not recovered."""
        now = asyncio.get_running_loop().time()
        well_for = 0.0 if self._well_since is None else now - self._well_since
        recovered = self._well_since is not None and not (self._repeats and well_for < self.patience.total_seconds())
        if self._since is None or recovered:
            self._since = now
            self._tell(trouble.user)
            logger.debug(Event(KubernetesCode.POD_WAIT, f"The pod does not start yet: {trouble.words}"))
        self._well_since, self._repeats = None, trouble.repeats

    @asynccontextmanager
    async def _telling_events(self) -> AsyncIterator[None]:
        """The scope in which the user is told the pod's events, once starting takes longer than usual."""
        task = asyncio.create_task(self._tell_events())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _tell_events(self) -> None:
        try:
            async with self.event_watches.of_pod(self.namespace, self.followed.uid) as events:
                await asyncio.sleep(_QUICK_START)
                while True:
                    event = await events.next()
                    if warning := is_warning(event):
                        self.last = warning
                        logger.debug(Event(KubernetesCode.POD_WAIT, warning, podName=self.followed.name))
                    if text := tell_event(event):
                        self._tell(text)
        except ContainerSSHError:
            # Without the right to watch events there is less to tell; the wait goes on.
            if self.followed.pod is not None:
                judgement = judge(self.followed.pod, self.console)
                if isinstance(judgement, Starting):
                    self._tell(judgement.text)

    def _tell(self, text: str) -> None:
        if text not in self._told and len(self._told) < _MOST_NOTICES:
            self._told.add(text)
            self.notices.notice(text)


def _failed(trouble: Trouble) -> PodError:
    return PodError(f"the pod does not start: {trouble.words}", user_message=trouble.user, reason=trouble.reason)
