"""A fast path for packets, bypassing the library's general one, which supports every kind of packet, cipher and
compression.

With the ciphers of :mod:`containerssh.ssh.ciphers`, all packets sent outside key exchanges take it. Of the incoming
packets, those that make up transfers (CHANNEL_DATA, WINDOW_ADJUST), those that clients send to obscure keystroke timing
(IGNORE, PING), and authentication requests take it. All others are left to the library.
"""

from __future__ import annotations

import os
import struct
import time

from asyncssh import constants
from asyncssh.connection import SSHServerConnection
from asyncssh.misc import MACError, ProtocolError
from asyncssh.packet import PacketDecodeError, SSHPacket

from containerssh.ssh.channel_adapter import AdapterChannel
from containerssh.ssh.ciphers import TAG, PacketCipher, keep_state
from containerssh.ssh.places import places

_HEAD = struct.Struct(">BBII")
_SMALLEST = 4 + TAG
_SMALL = 1024
_RANDOM = 4096
MSG_PING = 192
"""OpenSSH's PROTOCOL, section 1.9."""
# Messages that the library passes to the connection in every state; messages that require a login.
_ANY_TIME = frozenset({constants.MSG_IGNORE, constants.MSG_SERVICE_REQUEST, constants.MSG_USERAUTH_REQUEST})
_LOGGED_IN = frozenset({MSG_PING})


class _Padding:
    """Random padding bytes, fetched in bulk: a system call for a few bytes costs as much as a small packet."""

    def __init__(self) -> None:
        self._bytes = b""
        self._used = 0

    def take(self, count: int) -> bytes:
        start = self._used
        end = start + count
        if end > len(self._bytes):
            self._bytes = os.urandom(_RANDOM)
            start, end = 0, count
        self._used = end
        return self._bytes[start:end]


_padding = _Padding()
_HEADS = [bytes((number,)) for number in range(256)]


class PacketConnection(SSHServerConnection):
    """The library's connection with a fast path for channel data in both directions."""

    __slots__ = places(SSHServerConnection)

    _out: list[bytes]
    _out_size: int

    def send_newkeys(self, k: bytes, h: bytes) -> None:
        super().send_newkeys(k, h)
        self._send_encryption = keep_state(self._send_encryption)
        self._next_recv_encryption = keep_state(self._next_recv_encryption)

    def send_data(self, kind: int, head: bytes, data: bytes | memoryview) -> None:
        """Send a channel data packet; *head* is what stands between *kind* and the data (RFC 4254 section 5.2)."""
        cipher = self._send_encryption
        if not isinstance(cipher, PacketCipher) or not self._kex_complete or self._rekey_due:
            self.send_packet(kind, head, bytes(data))
            return
        pieces = self._sealed(cipher, len(head) + len(data), kind, head, data)
        transport = self._transport
        if len(data) < _SMALL and not self._out and transport is not None and not transport.is_closing():
            # Small data, such as the echo of a keystroke, is sent at once instead of at the end of the loop iteration.
            transport.write(b"".join(pieces))
            return
        *first, last = pieces
        self._out += first
        self._out_size += sum(map(len, first))
        self._send(last)

    def send_directly(self, kind: int, fields: tuple[bytes, ...]) -> bool:
        """
        Send a packet on the fast path; False if the library must send it (during key exchanges or with compression).
        """
        cipher = self._send_encryption
        if (
            not isinstance(cipher, PacketCipher)
            or not self._kex_complete
            or self._rekey_due
            or not (
                self._auth_complete
                or kind < constants.MSG_USERAUTH_REQUEST
                or (self._auth_in_progress and kind <= constants.MSG_USERAUTH_LAST)
            )
        ):
            return False
        self._send(b"".join(self._sealed(cipher, sum(map(len, fields)), kind, *fields)))
        return True

    def _sealed(self, cipher: PacketCipher, length: int, kind: int, *fields: bytes | memoryview) -> tuple[bytes, ...]:
        """The next packet in encrypted form, in pieces; *length* is the total length of *fields*."""
        # RFC 4253 section 6, without the length field, which both ciphers encrypt or authenticate separately.
        padding = -(length + 2) % self._send_blocksize
        if padding < 4:
            padding += self._send_blocksize
        size = length + 2 + padding
        packet = b"".join((_HEADS[padding], _HEADS[kind], *fields, _padding.take(padding)))
        sequence = self._send_seq
        self._send_seq = (sequence + 1) & 0xFFFFFFFF
        self._rekey_bytes_sent += size
        return cipher.seal(sequence, size.to_bytes(4, "big"), packet)

    @property
    def _rekey_due(self) -> bool:
        return self._rekey_bytes_sent >= self._rekey_bytes or bool(
            self._rekey_seconds and time.monotonic() >= self._rekey_time
        )

    def _recv_pkthdr(self) -> bool:
        """Process complete packets on the fast path; leave the first other packet to the library."""
        cipher = self._recv_encryption
        if not isinstance(cipher, PacketCipher):
            return super()._recv_pkthdr()
        received = self._inpbuf
        view = memoryview(received)
        start = 0
        while len(received) - start > _SMALLEST and self._transport:
            header = received[start : start + 4]
            length = cipher.length(self._recv_seq, header)
            if length > self._max_recv_pktlen:
                raise ProtocolError("Max packet size exceeded")
            end = start + 4 + length + TAG
            if end > len(received):
                break
            packet = cipher.open(self._recv_seq, header, view[start + 4 : end])
            if not packet:
                raise MACError("MAC verification failed")
            if not (self._take_channels(packet) or self._take_message(packet)):
                self._packet = received[start : start + self._recv_blocksize]
                self._pktlen = length
                self._inpbuf = received[start + self._recv_blocksize :]
                cipher.give_back(packet)
                self._recv_handler = self._recv_packet
                return True
            self._recv_seq = (self._recv_seq + 1) & 0xFFFFFFFF
            start = end
            if start < len(received) and self.turn_over():
                break
        self._inpbuf = received[start:]
        return False

    def turn_over(self) -> bool:
        """Whether remaining received data must wait because other connections come first."""
        return False

    def _take_channels(self, packet: bytes) -> bool:
        """Process CHANNEL_DATA and WINDOW_ADJUST; return False, without effect, for other packets."""
        if len(packet) < _HEAD.size:
            return False
        padding, kind, number, size = _HEAD.unpack_from(packet)
        channel = self._channels.get(number)
        if not padding or not isinstance(channel, AdapterChannel):
            return False
        rest = len(packet) - padding - _HEAD.size
        if kind == constants.MSG_CHANNEL_DATA and rest == size:
            self._auth_final = True
            channel.take(packet[_HEAD.size : _HEAD.size + size])
        elif kind == constants.MSG_CHANNEL_WINDOW_ADJUST and not rest:
            self._auth_final = True
            channel.grow(size)
        else:
            return False
        return True

    def _take_message(self, packet: bytes) -> bool:
        """The same for messages to the connection itself."""
        if len(packet) < 2 or not packet[0]:
            return False
        kind = packet[1]
        if kind in _LOGGED_IN and self._auth_complete:
            self._auth_final = True
        elif kind not in _ANY_TIME:
            return False
        message = SSHPacket(packet[1 : -packet[0]])
        try:
            message.get_byte()
            self.process_packet(kind, self._recv_seq, message)
        except PacketDecodeError as exc:
            raise ProtocolError(str(exc)) from None
        return True
