"""What the adapter's channels tell, and whom."""

from __future__ import annotations

from typing import Protocol

from containerssh.core.messages import Event


class Front(Protocol):
    """Our side of a channel: a session, or a forward's stream."""

    @property
    def running(self) -> bool:
        """Whether something is still to be told to the client once both directions of data are over."""

    def requested(self, name: bytes, want_reply: bool, payload: bytes) -> None:
        """A channel request arrived."""

    def data_received(self, data: bytes) -> None:
        """Bytes arrived."""

    def eof_received(self) -> None:
        """The client sends nothing more."""

    def resume_writing(self) -> None:
        """There is room again."""

    def finished(self) -> None:
        """Everything was sent, CLOSE included."""

    def closed_by_peer(self) -> None:
        """The channel is gone, by the client or with the connection. Nothing is told after that."""

    def log(self, level: int, event: Event, error: BaseException | None = None) -> None:
        """Log with the channel's labels."""


class _Nobody:
    """Whom a channel tells that is gone: it leads nowhere, so that both sides of the channel can be freed at once."""

    running = False

    def requested(self, *_: object, **__: object) -> None:
        """Do nothing."""

    data_received = eof_received = resume_writing = finished = closed_by_peer = log = requested


NOBODY: Front = _Nobody()
