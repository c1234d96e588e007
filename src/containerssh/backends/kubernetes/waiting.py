"""Waiting for a pod: the user hears how far it is, and what cannot become good ends at once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta

from containerssh.backends.kubernetes.following import Followed
from containerssh.backends.kubernetes.hearing import Hearers
from containerssh.backends.kubernetes.launch import PodError
from containerssh.backends.kubernetes.progress import Over, Ready, Starting, Trouble, is_warning, judge, tell_event
from containerssh.core.codes import KubernetesCode
from containerssh.core.errors import ContainerSSHError
from containerssh.core.handlers import Notices
from containerssh.core.messages import Event

logger = logging.getLogger(__name__)

_QUICK_START = 1.0
"""Seconds after which somebody who waits wants to know what for. Most pods are there by then."""
_MOST_NOTICES = 100


@dataclass
class Waiting:
    """One wait for one pod, whose uid is known."""

    hearers: Hearers
    namespace: str
    followed: Followed
    console: str
    notices: Notices
    patience: timedelta
    """For how long the cluster may say that something is wrong."""
    last: str = ""
    """The last thing that was wrong, for the log."""
    _told: set[str] = field(default_factory=set, init=False)

    async def until_ready(self) -> None:
        """
        Returns when programs can be started in the pod. The caller limits the time.

        Raises:
            PodError: that will not happen, or something was wrong for too long.
            BackendError: the pod cannot be followed.
        """
        logger.debug(Event(KubernetesCode.POD_WAIT, "Waiting until the pod is ready", podName=self.followed.name))
        async with self._hearing():
            wrong: tuple[float, Trouble] | None = None
            while True:
                if self.followed.gone:
                    raise PodError("the pod was deleted while it was starting", user_message="The pod was deleted.")
                wrong = self._look(wrong)
                if wrong is None and self._is_ready():
                    return
                limit = None if wrong is None else wrong[0] + self.patience.total_seconds()
                try:
                    async with asyncio.timeout_at(limit):
                        await self.followed.news()
                except TimeoutError:
                    assert wrong is not None
                    raise _failed(wrong[1]) from None

    def _is_ready(self) -> bool:
        return self.followed.pod is not None and isinstance(judge(self.followed.pod, self.console), Ready)

    def _look(self, wrong: tuple[float, Trouble] | None) -> tuple[float, Trouble] | None:
        """Since when something is wrong, and what; raises PodError."""
        if self.followed.pod is None:
            return None
        match judge(self.followed.pod, self.console):
            case Trouble() as trouble:
                self.last = trouble.words
                if trouble.lasting:
                    raise _failed(trouble)
                if wrong is None:
                    self._tell(trouble.user)
                    logger.debug(Event(KubernetesCode.POD_WAIT, f"The pod does not start yet: {trouble.words}"))
                return (wrong[0] if wrong is not None else asyncio.get_running_loop().time()), trouble
            case Over(words, user, reason):
                raise PodError(words, user_message=user, reason=reason, code=KubernetesCode.POD_ENDED)
            case Starting(text):
                logger.debug(Event(KubernetesCode.POD_WAIT, text))
        return None

    @asynccontextmanager
    async def _hearing(self) -> AsyncIterator[None]:
        """Events are listened to meanwhile, and told once it takes longer than usual."""
        task = asyncio.create_task(self._hear())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _hear(self) -> None:
        try:
            async with self.hearers.hear(self.namespace, self.followed.uid) as heard:
                await asyncio.sleep(_QUICK_START)
                while True:
                    event = await heard.next()
                    if warning := is_warning(event):
                        self.last = warning
                        logger.debug(Event(KubernetesCode.POD_WAIT, warning, podName=self.followed.name))
                    if text := tell_event(event):
                        self._tell(text)
        except ContainerSSHError:
            # Who may not see events hears less, and waits all the same.
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
