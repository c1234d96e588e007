"""Connections to the agents' port that have not presented a ticket: limited in number, time and bytes."""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from collections.abc import Callable, Iterable

from containerssh.agent.codec import DIRECT_PREAMBLE, TICKET_SIZE

_BACKLOG = 512
_MAX_STRANGERS = 128
"""The most connections without a ticket; for one more, the oldest is closed."""
_LIMIT = 3.0
"""Seconds to present it."""
_ACCEPTED_AT_ONCE = 16
_WANTED = len(DIRECT_PREAMBLE) + TICKET_SIZE
# The pause between attempts to accept while the system refuses.
_PAUSE = 0.1
_PASSING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Strangers:
    """
    Accepts connections while :attr:`wanted`. After the preamble and TICKET_SIZE bytes, a connection is passed to
    *known*, which owns it from then on. Others are closed without a reply. Nothing beyond the ticket is read.
    """

    def __init__(self, listener: socket.socket, known: Callable[[bytes, socket.socket], None]) -> None:
        """Takes over *listener*."""
        self.port: int = listener.getsockname()[1]
        self._listener = listener
        self._known = known
        self._loop = asyncio.get_running_loop()
        self._open: dict[socket.socket, _Stranger] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._pause: asyncio.TimerHandle | None = None
        self._accepting = False

    @property
    def wanted(self) -> bool:
        """Whether connections are accepted. Others wait in the kernel, up to the listener's backlog."""
        return self._accepting

    @wanted.setter
    def wanted(self, value: bool) -> None:
        if value is self._accepting:
            return
        self._accepting = value
        if value:
            self._loop.add_reader(self._listener, self._accept)
            return
        self._loop.remove_reader(self._listener)
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        for stranger in list(self._open.values()):
            self._dismiss(stranger)

    def close(self) -> None:
        """Stop listening, and close all connections without a ticket."""
        self.wanted = False
        self._listener.close()

    def _accept(self) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                connection, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as exc:
                if exc.errno in _PASSING:
                    self._loop.remove_reader(self._listener)
                    self._pause = self._loop.call_later(_PAUSE, self._go_on)
                    return
                # The client has gone already.
                continue
            self._admit(connection)

    def _go_on(self) -> None:
        self._pause = None
        self._loop.add_reader(self._listener, self._accept)

    def _admit(self, connection: socket.socket) -> None:
        if len(self._open) >= _MAX_STRANGERS:
            self._dismiss(next(iter(self._open.values())))
        connection.setblocking(False)
        stranger = self._open[connection] = _Stranger(connection)
        self._loop.add_reader(connection, self._hear, stranger)
        if self._timer is None:
            self._timer = self._loop.call_later(_LIMIT, self._expire)

    def _hear(self, stranger: _Stranger) -> None:
        try:
            more = stranger.connection.recv(_WANTED - len(stranger.said))
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            more = b""
        stranger.said += more
        expected = DIRECT_PREAMBLE[: len(stranger.said)]
        if not more or not stranger.said.startswith(expected):
            self._dismiss(stranger)
        elif len(stranger.said) == _WANTED:
            self._forget(stranger)
            self._known(bytes(stranger.said[len(DIRECT_PREAMBLE) :]), stranger.connection)

    def _expire(self) -> None:
        self._timer = None
        now = time.monotonic()
        for stranger in list(self._open.values()):
            if stranger.until > now:
                self._timer = self._loop.call_later(stranger.until - now, self._expire)
                return
            self._dismiss(stranger)

    def _dismiss(self, stranger: _Stranger) -> None:
        self._forget(stranger)
        stranger.connection.close()

    def _forget(self, stranger: _Stranger) -> None:
        del self._open[stranger.connection]
        self._loop.remove_reader(stranger.connection)
        if not self._open and self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Stranger:
    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.said = bytearray()
        self.until = time.monotonic() + _LIMIT


def listening_socket(host: str, ports: Iterable[int]) -> socket.socket:
    """
    A socket that listens on the numeric address *host*, at the first of *ports* that is free (0: any); ``::`` includes
    IPv4.

    Raises:
        OSError: no port is free, or the machine does not have the address.
    """
    failure: OSError | None = None
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in ports:
        try:
            both = host == "::" and socket.has_dualstack_ipv6()
            listener = socket.create_server((host, port), family=family, backlog=_BACKLOG, dualstack_ipv6=both)
        except OSError as exc:
            failure = exc
            continue
        listener.setblocking(False)
        return listener
    raise failure or OSError("there is no port to listen on")
