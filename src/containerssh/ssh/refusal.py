"""Refusing clients: a message to the client, and rate-limited log lines."""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import suppress

from asyncssh import constants
from asyncssh.packet import Byte, String, UInt32

from containerssh.core.codes import SSHCode
from containerssh.core.messages import Event, log_labels
from containerssh.core.metadata import SocketAddress
from containerssh.ssh.admission import Refused
from containerssh.ssh.limits import count

logger = logging.getLogger(__name__)

LOG_EVERY = 60.0
"""Seconds between two log lines about refusals for the same reason."""

# Closing a socket with unread data resets the connection, and the client may lose the message.
_LINGER = 2.0
_LINGERING_MAX = 64
_UNREAD_MAX = 64 * 1024

_MEANINGS = {
    SSHCode.LIMIT_CONNECTIONS: "there are too many",
    SSHCode.LIMIT_CONNECTIONS_PER_ADDRESS: "there are too many from one address",
    SSHCode.LIMIT_CONNECTIONS_PER_PREFIX: "there are too many from one network",
    SSHCode.LIMIT_UNAUTHENTICATED: "too many have not logged in yet",
    SSHCode.LIMIT_UNAUTHENTICATED_PER_ADDRESS: "too many from one address have not logged in yet",
    SSHCode.LIMIT_UNAUTHENTICATED_PER_PREFIX: "too many from one network have not logged in yet",
    SSHCode.LIMIT_PENALTY: "their address failed too often",
}


def goodbye(version: str, text: str) -> bytes:
    """
    The server's identification and an unencrypted DISCONNECT (RFC 4253 sections 4.2 and 11.1).

    OpenSSH and PuTTY show its text to the user; they would not show a line before the identification.
    """
    payload = Byte(constants.MSG_DISCONNECT) + UInt32(constants.DISC_TOO_MANY_CONNECTIONS) + String(text) + String("")
    padding = 8 - (5 + len(payload)) % 8
    padding += 8 if padding < 4 else 0
    packet = UInt32(1 + len(payload) + padding) + Byte(padding) + payload + bytes(padding)
    return version.encode() + b"\r\n" + packet


class Refusals:
    """Reports refusals to clients and the log; call :meth:`close` when no more follow."""

    def __init__(self, version: str, *, log_every: float = LOG_EVERY) -> None:
        self.server_version = version
        self._log_every = log_every
        self._lingering: set[asyncio.Task[None]] = set()
        self._silent: dict[SSHCode, tuple[int, asyncio.TimerHandle]] = {}

    async def close(self) -> None:
        """Log outstanding counts and close all sockets."""
        for code, (_, timer) in list(self._silent.items()):
            timer.cancel()
            self._summary(code, last=True)
        for task in self._lingering:
            task.cancel()
        if self._lingering:
            await asyncio.wait(self._lingering)

    def refuse(self, sock: socket.socket, peer: SocketAddress, why: Refused) -> None:
        """Send the reason to the client of *sock* and close it; count and log the refusal."""
        self.note(why.code, peer)
        with suppress(OSError):
            # The first bytes of a connection always fit into the socket's send buffer.
            sock.send(goodbye(self.server_version, why.text))
            sock.shutdown(socket.SHUT_WR)
            if len(self._lingering) < _LINGERING_MAX:
                task = asyncio.get_running_loop().create_task(_drain(sock))
                self._lingering.add(task)
                task.add_done_callback(self._lingering.discard)
                return
        sock.close()

    def note(self, code: SSHCode, peer: SocketAddress) -> None:
        """Count and log a refusal."""
        count(code)
        if code in self._silent:
            counted, timer = self._silent[code]
            self._silent[code] = (counted + 1, timer)
            return
        with log_labels(module="ssh"):
            logger.warning(Event(code, f"Connections are refused: {_MEANINGS[code]}", remoteAddr=peer.host))
        self._be_silent(code)

    def _be_silent(self, code: SSHCode) -> None:
        timer = asyncio.get_running_loop().call_later(self._log_every, self._summary, code)
        self._silent[code] = (0, timer)

    def _summary(self, code: SSHCode, *, last: bool = False) -> None:
        counted, _ = self._silent.pop(code)
        if counted:
            text = f"{counted} more connections were refused: {_MEANINGS[code]}"
            with log_labels(module="ssh"):
                logger.warning(Event(code, text, count=counted))
            if not last:
                self._be_silent(code)


async def _drain(sock: socket.socket) -> None:
    """Discard input until the client closes, for a limited time; then close."""
    loop = asyncio.get_running_loop()
    with sock, suppress(OSError, TimeoutError):
        async with asyncio.timeout(_LINGER):
            for _ in range(_UNREAD_MAX // 4096):
                if not await loop.sock_recv(sock, 4096):
                    return
