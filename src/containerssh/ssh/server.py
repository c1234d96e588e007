"""The SSH server: listening, accepting connections, stopping."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from containerssh.core.codes import CoreCode, GeneralCode, ServiceCode, SSHCode
from containerssh.core.errors import BackendError, ProtocolError, describe
from containerssh.core.flag import Flag
from containerssh.core.handlers import ServerHandler
from containerssh.core.messages import Code, Event, log_labels
from containerssh.core.metadata import SocketAddress
from containerssh.ssh import presence, proxy
from containerssh.ssh.adapter import AdapterConnection, Offer, prepare
from containerssh.ssh.admission import ConnectionLimiter, Refused, is_within
from containerssh.ssh.algorithms import CLIENT_SIGNATURES, Kind, check
from containerssh.ssh.connection import Connection
from containerssh.ssh.host_keys import HostKey, load_host_keys, with_certificates
from containerssh.ssh.limits import count, log_reached
from containerssh.ssh.options import ServerOptions
from containerssh.ssh.refusal import LOG_EVERY, Refusals
from containerssh.ssh.registry import Registry
from containerssh.ssh.selfcheck import check_library
from containerssh.ssh.shared_counts import SharedCounts

logger = logging.getLogger(__name__)

_BACKLOG = 128
# The delay between attempts to accept while the system fails, for example without free descriptors.
_ACCEPT_PAUSE = 0.5
_INTRODUCTIONS_MAX = 1000
# How often to look for a changed limit while detection of unreachable clients is off.
_NO_LOOK = 30.0


@dataclass(frozen=True)
class ListeningServer:
    """A server that accepts connections."""

    addresses: Sequence[SocketAddress]

    @property
    def port(self) -> int:
        """The port of the first address; all addresses have the same."""
        return self.addresses[0].port


@dataclass(frozen=True, eq=False)
class Settings:
    """Validated options for new connections."""

    options: ServerOptions
    keys: Sequence[HostKey]
    kex: Sequence[str]
    ciphers: Sequence[str]
    macs: Sequence[str]
    offer: Offer | None = None
    """The offer of algorithms and host keys made from the options."""

    @classmethod
    def of(cls, options: ServerOptions) -> Settings:
        """Raises ConfigError: an option cannot be used."""
        return cls(
            options,
            with_certificates(load_host_keys(options.host_keys), options.host_certificates),
            check(options.kex, Kind.KEX),
            check(options.ciphers, Kind.CIPHERS),
            check(options.macs, Kind.MACS),
        )

    async def prepared(self) -> Settings:
        """These settings with ``offer``."""
        offer = await prepare(self.options, self.keys, self.kex, self.ciphers, self.macs, CLIENT_SIGNATURES)
        return replace(self, offer=offer)


async def listen(host: str, port: int) -> list[socket.socket]:
    """
    Create listening sockets for every address of *host* (empty: all interfaces); the caller closes them.

    Raises:
        BackendError: an address cannot be bound.
    """
    loop = asyncio.get_running_loop()
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
                # "::" alone also accepts IPv4, as upstream's server does; beside an IPv4 socket it must not.
                both = len(found) == 1 and address[0] == "::"
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if both else 1)
            # The same port for all addresses, even if the system selects it.
            sock.bind((address[0], port or (sockets[0].getsockname()[1] if len(sockets) > 1 else 0), *address[2:]))
            sock.listen(_BACKLOG)
    except OSError as exc:
        for sock in sockets:
            sock.close()
        where = str(SocketAddress(host, port))
        raise BackendError(SSHCode.START_FAILED, f"cannot listen on {where}", address=where) from exc
    return sockets


class SSHServer:
    """The server; :meth:`serving` is its lifetime."""

    def __init__(self, handler: ServerHandler, options: ServerOptions, shared: SharedCounts | None = None) -> None:
        """
        *shared* is the table of all processes that listen on the same port.

        Raises:
            ConfigError: an option is invalid, or the installed asyncssh is unsupported.
        """
        check_library()
        self._handler = handler
        self._settings = Settings.of(options)
        self._limiter = ConnectionLimiter(options.admission, shared=shared)
        self._refusals = Refusals(options.server_version)
        self._connections = Registry(self._limiter)
        self._accepting: list[asyncio.Task[None]] = []
        self._hurried = asyncio.Event()
        self._introductions: set[asyncio.Task[None]] = set()
        self._last_logged: dict[Code, float] = {}

    @property
    def connections(self) -> Collection[Connection]:
        """The current connections, those that have not logged in yet included."""
        return self._connections.all

    @property
    def accepting(self) -> bool:
        """Whether the server accepts connections."""
        return bool(self._accepting) and not any(task.done() for task in self._accepting)

    async def prepare(self, options: ServerOptions) -> Settings:
        """
        Validate new options for :meth:`use`.

        Raises:
            ConfigError: an option is invalid.
        """
        settings = await asyncio.to_thread(Settings.of, options)
        return await settings.prepared()

    def use(self, settings: Settings) -> None:
        """Use *settings* for new connections; existing ones keep theirs. The listening addresses do not change."""
        self._settings = settings
        self._limiter.use(settings.options.admission)
        self._refusals.server_version = settings.options.server_version

    def hurry(self) -> None:
        """Stop without a grace period, now or when stopping begins."""
        self._hurried.set()

    @asynccontextmanager
    async def serving(self, sockets: Sequence[socket.socket] = ()) -> AsyncIterator[ListeningServer]:
        """
        Listen and serve, on *sockets* if any are given; they are closed at the end. Leaving the scope stops the server:
        it accepts no more connections, sends TERM to all programs, disconnects all clients after ``shutdown_grace``,
        and returns when the scopes of all handlers have been left.

        Raises:
            BackendError: an address cannot be bound.
        """
        self._settings = await self._settings.prepared()
        sockets = sockets or await listen(self._settings.options.host, self._settings.options.port)
        addresses = [SocketAddress.of(*sock.getsockname()[:2]) for sock in sockets]
        self._accepting = [asyncio.create_task(self._accept(sock)) for sock in sockets]
        self._accepting.append(asyncio.create_task(self._look_for_the_gone()))
        try:
            for address in addresses:
                logger.info(Event(SSHCode.AVAILABLE, "SSH server listening", module="ssh", address=str(address)))
            yield ListeningServer(addresses)
        finally:
            ending = [*self._accepting, *self._introductions]
            for task in ending:
                task.cancel()
            await asyncio.wait(ending)
            for sock in sockets:
                sock.close()
            await self._refusals.close()
            await self._stop()
            log_reached()

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        # Registered permanently; the loop's sock_accept would register it again for each connection.
        arrived = Flag()
        loop.add_reader(listener, arrived.set)
        try:
            while True:
                await arrived.wait()
                arrived.clear()
                try:
                    sock, address = listener.accept()
                except (BlockingIOError, InterruptedError):
                    # Another process has accepted the connection, or the client has disconnected.
                    continue
                except OSError as exc:
                    loop.remove_reader(listener)
                    self._log_seldom(
                        logging.ERROR, ServiceCode.CRASHED, f"No connection can be accepted ({describe(exc)})"
                    )
                    await asyncio.sleep(_ACCEPT_PAUSE)
                    loop.add_reader(listener, arrived.set)
                    continue
                sock.setblocking(False)
                await self._admit(sock, SocketAddress.of(*address[:2]))
        finally:
            loop.remove_reader(listener)

    async def _admit(self, sock: socket.socket, peer: SocketAddress) -> None:
        if not is_within(peer.host, self._settings.options.proxies):
            await self._start_connection(sock, peer)
        elif len(self._introductions) < _INTRODUCTIONS_MAX:
            task = asyncio.create_task(self._read_proxy_header(sock, peer))
            self._introductions.add(task)
            task.add_done_callback(self._introductions.discard)
            # A task that is cancelled before its first step does not run its own clean-up.
            task.add_done_callback(lambda done: sock.close() if done.cancelled() else None)
        else:
            sock.close()
            self._log_seldom(logging.WARNING, SSHCode.PROXY_REFUSED, "Too many connections await a PROXY header")

    async def _read_proxy_header(self, sock: socket.socket, proxy_address: SocketAddress) -> None:
        """Read the client's address from a trusted proxy's header."""
        try:
            client = await proxy.read_header(sock, within=self._settings.options.proxy_header_within)
        except ProtocolError as exc:
            sock.close()
            text = f"A connection from a trusted proxy was refused: {exc.explanation}"
            self._log_seldom(logging.WARNING, SSHCode.PROXY_REFUSED, text, remoteAddr=proxy_address.host)
        except BaseException:
            sock.close()
            raise
        else:
            await self._start_connection(sock, client or proxy_address)

    async def _start_connection(self, sock: socket.socket, peer: SocketAddress) -> None:
        """Serve the connection *sock* of *peer*, if the limits admit it."""
        loop = asyncio.get_running_loop()
        try:
            ticket = self._limiter.enter(peer.host, loop.time())
        except Refused as why:
            self._refusals.refuse(sock, peer, why)
            return
        if ticket.instead_of is not None:
            other = ticket.instead_of.owner
            assert isinstance(other, Connection)
            self._refusals.note(SSHCode.LIMIT_UNAUTHENTICATED, other.peer)
            if other.connected_once:
                other.make_room()
        settings = self._settings
        front = Connection(self._handler, settings.options, self._connections, peer, ticket)
        try:
            presence.watch(sock, settings.options.limits.unreachable)
            await loop.connect_accepted_socket(self._protocol(settings, front), sock)
        except OSError as exc:
            logger.debug(Event(SSHCode.DISCONNECTED, f"A connection was lost at once ({describe(exc)})"))
            sock.close()
        except Exception as exc:
            # Whoever called takes in the next ones.
            text = f"A connection was dropped because of a fault in the server ({describe(exc)})"
            logger.exception(Event(GeneralCode.UNKNOWN_ERROR, text, remoteAddr=peer.host))
            sock.close()
        finally:
            if not front.connected_once:
                self._limiter.left(ticket)

    def _protocol(self, settings: Settings, front: Connection) -> Callable[[], AdapterConnection]:
        assert settings.offer is not None
        loop, offer = asyncio.get_running_loop(), settings.offer.at(time.time())
        if offer is not settings.offer and settings is self._settings:
            text = "A host certificate has become valid or has expired; clients get the valid ones"
            logger.warning(Event(CoreCode.HOST_CERTIFICATE_UNUSED, text, module="ssh"))
            self._settings = replace(settings, offer=offer)
        return lambda: AdapterConnection(loop, offer, settings.options, front)

    async def _look_for_the_gone(self) -> None:
        while True:
            limit = self._settings.options.limits.unreachable
            await asyncio.sleep(limit.total_seconds() / 6 if limit else _NO_LOOK)
            for connection in list(self._connections.all) if limit else ():
                connection.end_if_gone(limit)

    def _log_seldom(self, level: int, code: Code, text: str, **labels: str) -> None:
        """Log at most one line per code and interval, so that clients cannot flood the log."""
        if code is SSHCode.PROXY_REFUSED:
            count(SSHCode.PROXY_REFUSED)
        now = asyncio.get_running_loop().time()
        if now - self._last_logged.get(code, float("-inf")) >= LOG_EVERY:
            self._last_logged[code] = now
            with log_labels(module="ssh"):
                logger.log(level, Event(code, text, **labels))

    async def _stop(self) -> None:
        grace = self._settings.options.shutdown_grace.total_seconds()
        self._connections.closed = True
        tasks = [asyncio.create_task(connection.stop(grace)) for connection in list(self._connections.all)]
        if not tasks:
            return
        hurried = asyncio.create_task(self._hurried.wait())
        try:
            ended = asyncio.create_task(asyncio.wait(tasks))
            await asyncio.wait([ended, hurried], return_when=asyncio.FIRST_COMPLETED)
        finally:
            # Asked again, and more urgently: no grace.
            hurried.cancel()
            for task in tasks:
                task.cancel()
            ends = [asyncio.create_task(connection.stop(0)) for connection in list(self._connections.all)]
            if ends:
                await asyncio.wait(ends)
