"""The SSH server: listening, taking connections in, stopping."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from containerssh.core.codes import ServiceCode, SSHCode
from containerssh.core.errors import BackendError, describe
from containerssh.core.handlers import ServerHandler
from containerssh.core.messages import Event, log_labels
from containerssh.core.metadata import SocketAddress
from containerssh.ssh.adapter import AdapterConnection, library_options
from containerssh.ssh.algorithms import CLIENT_SIGNATURES, Kind, check
from containerssh.ssh.connection import Connection, Registry
from containerssh.ssh.host_keys import load_host_keys
from containerssh.ssh.options import ServerOptions
from containerssh.ssh.selfcheck import check_library

logger = logging.getLogger(__name__)

_BACKLOG = 128
# Between two tries to accept while the system refuses, for want of descriptors say; and between two log lines about it.
_ACCEPT_PAUSE = 0.5
_ACCEPT_LOG_EVERY = 30.0


@dataclass(frozen=True)
class ListeningServer:
    """A server that takes connections."""

    addresses: Sequence[SocketAddress]

    @property
    def port(self) -> int:
        """The port of the first address; all have the same."""
        return self.addresses[0].port


class SSHServer:
    """The server; :meth:`serving` is its life."""

    def __init__(self, handler: ServerHandler, options: ServerOptions) -> None:
        """
        Raises:
            ConfigError: an option cannot be used, or the installed asyncssh is not one that this was written for.
        """
        check_library()
        self._handler = handler
        self._options = options
        self._keys = load_host_keys(options.host_keys)
        self._kex = check(options.kex, Kind.KEX)
        self._ciphers = check(options.ciphers, Kind.CIPHERS)
        self._macs = check(options.macs, Kind.MACS)
        self._connections = Registry()
        self._refusals_logged = float("-inf")

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[ListeningServer]:
        """
        Listen and serve. Leaving stops it: no more connections, a TERM to every program, after ``shutdown_grace`` a
        disconnect to every client; it returns when the scopes of all handlers are left.

        Raises:
            BackendError: an address cannot be bound.
        """
        library = await library_options(self._options, self._keys, self._kex, self._ciphers, self._macs)
        sockets = await self._bind()
        addresses = [SocketAddress.of(*sock.getsockname()[:2]) for sock in sockets]
        accepting = [asyncio.create_task(self._accept(sock, library)) for sock in sockets]
        try:
            for address in addresses:
                logger.info(Event(SSHCode.AVAILABLE, "SSH server listening", module="ssh", address=str(address)))
            yield ListeningServer(addresses)
        finally:
            for task in accepting:
                task.cancel()
            await asyncio.wait(accepting)
            for sock in sockets:
                sock.close()
            await self._stop()

    async def _bind(self) -> list[socket.socket]:
        loop = asyncio.get_running_loop()
        host, port = self._options.host, self._options.port
        sockets: list[socket.socket] = []
        try:
            found = await loop.getaddrinfo(
                host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_ADDRCONFIG
            )
            for family, kind, protocol, _, address in dict.fromkeys(found):
                sock = socket.socket(family, kind, protocol)
                sockets.append(sock)
                sock.setblocking(False)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    # "::" alone serves IPv4 as well, as upstream does; beside an IPv4 socket it must not.
                    both = len(found) == 1 and address[0] == "::"
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if both else 1)
                # One port for all addresses, also where the system picks it.
                sock.bind((address[0], port or (sockets[0].getsockname()[1] if len(sockets) > 1 else 0), *address[2:]))
                sock.listen(_BACKLOG)
        except OSError as exc:
            for sock in sockets:
                sock.close()
            where = str(SocketAddress(host, port))
            raise BackendError(SSHCode.START_FAILED, f"cannot listen on {where}", address=where) from exc
        return sockets

    async def _accept(self, listener: socket.socket, library: Any) -> None:
        loop = asyncio.get_running_loop()

        def protocol() -> AdapterConnection:
            front = Connection(self._handler, self._options, self._connections)
            return AdapterConnection(loop, library, self._options, self._keys, CLIENT_SIGNATURES, front)

        while True:
            try:
                sock, _ = await loop.sock_accept(listener)
            except OSError as exc:
                self._log_refusal(f"No connection can be accepted ({describe(exc)})")
                await asyncio.sleep(_ACCEPT_PAUSE)
                continue
            if len(self._connections.newcomers) >= self._options.limits.unauthenticated:
                self._log_refusal("Connections are refused: too many have not logged in yet")
                sock.close()
                continue
            try:
                await loop.connect_accepted_socket(protocol, sock)
            except OSError as exc:
                logger.debug(Event(SSHCode.DISCONNECTED, f"A connection was lost at once ({describe(exc)})"))
                sock.close()

    def _log_refusal(self, text: str) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._refusals_logged >= _ACCEPT_LOG_EVERY:
            self._refusals_logged = now
            with log_labels(module="ssh"):
                logger.error(Event(ServiceCode.CRASHED, text))

    async def _stop(self) -> None:
        grace = self._options.shutdown_grace.total_seconds()
        tasks = [asyncio.create_task(connection.stop(grace)) for connection in list(self._connections.all)]
        if not tasks:
            return
        try:
            await asyncio.wait(tasks)
        except asyncio.CancelledError:
            # Asked again, and more urgently: no grace.
            for task in tasks:
                task.cancel()
            ends = [asyncio.create_task(connection.stop(0)) for connection in list(self._connections.all)]
            if ends:
                await asyncio.wait(ends)
            raise
