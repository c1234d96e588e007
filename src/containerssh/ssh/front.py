"""The callbacks of the adapter's channels."""

from __future__ import annotations

from typing import Protocol

from containerssh.core.messages import Event


class Front(Protocol):
    """The front's side of a channel: a session, or a forward's stream."""

    @property
    def running(self) -> bool:
        """Whether something must still be sent to the client after both directions of data have ended."""

    def requested(self, name: bytes, want_reply: bool, payload: bytes) -> None:
        """A channel request arrived."""

    def data_received(self, data: bytes) -> None:
        """Bytes arrived."""

    def eof_received(self) -> None:
        """EOF arrived."""

    def resume_writing(self) -> None:
        """The channel accepts output again."""

    def finished(self) -> None:
        """Everything was sent, CLOSE included."""

    def closed_by_peer(self) -> None:
        """The channel was closed, by the client or with the connection. No other call follows."""

    def log(self, level: int, event: Event, error: BaseException | None = None) -> None:
        """Log with the channel's labels."""


class _Nobody:
    """The front of a channel that has ended. It holds no references, so both sides of the channel are freed at once."""

    running = False

    def requested(self, *_: object, **__: object) -> None:
        """Do nothing."""

    data_received = eof_received = resume_writing = finished = closed_by_peer = log = requested


NOBODY: Front = _Nobody()
