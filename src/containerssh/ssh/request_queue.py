"""The queue of channel requests that wait for earlier ones."""

from __future__ import annotations

from typing import NamedTuple

from containerssh.ssh.options import Limits


class Request(NamedTuple):
    """A CHANNEL_REQUEST (RFC 4254 section 5.4); *payload* is what follows ``want reply``."""

    name: bytes
    want_reply: bool
    payload: bytes

    @property
    def size(self) -> int:
        return len(self.name) + len(self.payload)


class RequestQueue:
    """A bounded queue of requests."""

    __slots__ = ("_limits", "_requests", "_size")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        # A list: usually empty, and an empty deque takes ten times the memory.
        self._requests: list[Request] = []
        self._size = 0

    def put(self, request: Request) -> bool:
        """Enqueue *request*; False if the queue is full. A window-change replaces the one before it."""
        if request.name == b"window-change" and self._requests and not request.want_reply:
            last = self._requests[-1]
            if last[:2] == request[:2]:
                del self._requests[-1]
                self._size -= last.size
        if len(self._requests) >= self._limits.queued_requests or self._size + request.size > self._limits.queued_bytes:
            return False
        self._requests.append(request)
        self._size += request.size
        return True

    def take(self) -> Request | None:
        """Dequeue the oldest request; None if there is none."""
        if not self._requests:
            return None
        request = self._requests.pop(0)
        self._size -= request.size
        return request
