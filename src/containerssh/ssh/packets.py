"""Packets past the library's general way, which is made for every kind of packet, cipher and compression.

Under the ciphers that :mod:`containerssh.ssh.ciphers` keeps, what is sent outside of key exchanges is handled here. Of
what arrives it is what transfers consist of (CHANNEL_DATA in one direction, WINDOW_ADJUST for the other), what clients
send with each key that is typed so that nobody can count them (IGNORE, PING), and the requests of logins. Everything
else still takes the library's way.
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
# Those that the library, too, hands to the connection whatever state it is in; those that need a login.
_ANY_TIME = frozenset({constants.MSG_IGNORE, constants.MSG_SERVICE_REQUEST, constants.MSG_USERAUTH_REQUEST})
_LOGGED_IN = frozenset({MSG_PING})


class _Padding:
    """Random bytes, fetched many at a time: the system's call for a few costs as much as a small packet."""

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
    """The library's connection with a short way for channel data, in both directions."""

    __slots__ = places(SSHServerConnection)

    _out: list[bytes]
    _out_size: int

    def send_newkeys(self, k: bytes, h: bytes) -> None:
        super().send_newkeys(k, h)
        self._send_encryption = keep_state(self._send_encryption)
        self._next_recv_encryption = keep_state(self._next_recv_encryption)

    def send_data(self, kind: int, head: bytes, data: bytes | memoryview) -> None:
        """Send a packet of channel data, of which *head* is what stands between *kind* and the bytes (RFC 4254 5.2)."""
        cipher = self._send_encryption
        if not isinstance(cipher, PacketCipher) or not self._kex_complete or self._rekey_due:
            self.send_packet(kind, head, bytes(data))
            return
        pieces = self._sealed(cipher, len(head) + len(data), kind, head, data)
        transport = self._transport
        if len(data) < _SMALL and not self._out and transport is not None and not transport.is_closing():
            # A keystroke's echo does not wait for what else this turn of the loop may bring.
            transport.write(b"".join(pieces))
            return
        *first, last = pieces
        self._out += first
        self._out_size += sum(map(len, first))
        self._send(last)

    def send_directly(self, kind: int, fields: tuple[bytes, ...]) -> bool:
        """Send a packet that the library would neither hold back nor compress; False: that is for the library to do."""
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
        """The next packet as it goes over the wire, in pieces; *length* is that of all *fields*."""
        # RFC 4253 section 6; the length itself is not counted, as both ciphers send it separately.
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
        """Take all complete packets that have a short way; leave the next other one to the library."""
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
        """Whether what else was received has to wait, because other connections come first."""
        return False

    def _take_channels(self, packet: bytes) -> bool:
        """Whether *packet* was data for a channel, or window; if not, nothing was done with it."""
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
        """The same for a message to the connection itself."""
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
