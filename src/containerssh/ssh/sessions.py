"""The sessions of a connection, each with its own task."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Iterator

from containerssh.core.codes import GeneralCode
from containerssh.core.errors import describe
from containerssh.core.flag import Flag
from containerssh.core.handlers import Notices
from containerssh.core.messages import Event
from containerssh.ssh.channel import Session

logger = logging.getLogger(__name__)


class Sessions(Notices):
    """The running sessions. The connection ends them before it ends itself."""

    __slots__ = ("_notice", "_settled", "_tasks", "first", "idle")

    def __init__(self) -> None:
        self._settled = False
        self._tasks: dict[Session, asyncio.Task[None]] = {}
        self._notice: str | None = None
        self.first: Session | None = None
        """The first session, which shows progress and a failed login."""
        self.idle = Flag()
        """Set when the last one has ended."""

    def __len__(self) -> int:
        return len(self._tasks)

    def __iter__(self) -> Iterator[Session]:
        """Iterate over a snapshot: sessions may end during the iteration."""
        return iter(list(self._tasks))

    def start(self, session: Session, context: contextvars.Context) -> None:
        """Run *session* with the labels of *context*."""
        task = context.run(asyncio.get_running_loop().create_task, session.run())
        self._tasks[session] = task
        self.idle.clear()
        task.add_done_callback(lambda _: self._ended(session, context))

    def notice(self, text: str) -> None:
        """Show *text* to the user who waits for a container, once there is a terminal to show it on."""
        self._notice = None if self._settled else text
        if self.first is not None and self.first.interactive:
            self.show_notice()

    def show_notice(self) -> None:
        """Show a pending notice: the first session has become interactive."""
        if self.first is not None and self._notice is not None:
            self.first.notice(self._notice)
            self._notice = None

    def settled(self) -> None:
        """Drop pending notices: the login is ready or has failed."""
        self._settled = True
        self._notice = None

    def tell(self, text: str) -> None:
        """Show *text* to the users of all interactive sessions."""
        for session in self:
            if session.running and session.interactive:
                session.notice(f"\r\ncontainerssh: {text}")

    async def end(self) -> None:
        """Wait until all sessions have ended, after their channels are closed."""
        for session in self:
            session.closed_by_peer()
        if self._tasks:
            await asyncio.wait(list(self._tasks.values()))

    def _ended(self, session: Session, context: contextvars.Context) -> None:
        task = self._tasks.pop(session)
        if not task.cancelled() and (error := task.exception()):
            text = f"A session's task failed ({describe(error)})"
            context.run(logger.error, Event(GeneralCode.UNKNOWN_ERROR, text))
        if not self._tasks:
            self.idle.set()
