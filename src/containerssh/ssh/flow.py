"""Flow control of asyncssh's connection: when it reads, when it sends, and how it closes.

What is changed in the library, and why:

* Limits that it lacks: on unsent bytes (whatever window the client has granted, and also during a key exchange that the
  client never completes), and on bytes that arrive while a packet is being processed.
* Fairness: the packets of one connection are processed for a limited time, then other connections get their turn.
* Speed: packets of one iteration of the event loop are sent in one write; no IGNORE packet before every packet, which
  protects CBC ciphers only; one timer for keepalives instead of one for each piece of data; a fast path for channel
  data (:mod:`containerssh.ssh.packets`).
* Data written before the end of a connection is still sent.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

from asyncssh import constants
from asyncssh.connection import SSHServerConnectionOptions

from containerssh.core.codes import SSHCode
from containerssh.core.flag import Flag
from containerssh.core.messages import Event
from containerssh.ssh import presence
from containerssh.ssh.channel_adapter import AdapterChannel
from containerssh.ssh.packets import PacketConnection

if TYPE_CHECKING:
    from containerssh.ssh.connection import Connection
    from containerssh.ssh.options import ServerOptions

# More than the largest packet that the library accepts.
_UNREAD_MAX = 288 * 1024
_OUT_MAX = 256 * 1024
# Seconds for which the packets of one connection are processed before other connections get their turn.
_TURN = 0.001
# Below this size, joining the pieces costs less than a system call with a list of them.
_JOINED = 16 * 1024
# Seconds that a closing connection may take to send unsent data.
_CLOSING = 5.0


class _Silent:
    """
    Replaces the library's logger, which formats its messages before it checks whether they are logged.
    """

    def get_child(self, *_: object, **__: object) -> _Silent:
        return self

    def debug1(self, *_: object, **__: object) -> None:
        """Log nothing."""

    debug2 = info = packet = debug1


_SILENT = _Silent()
_NOTHING: Any = frozenset()


class FlowConnection(PacketConnection):
    """A TCP connection; its end is reported to :attr:`front`."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        library: SSHServerConnectionOptions,
        options: ServerOptions,
        front: Connection,
    ) -> None:
        super().__init__(loop, library)
        # Each connection would have its own of these, which take more than a KiB and are empty or unused.
        self._logger = cast(Any, _SILENT)
        self._close_event = cast(Any, Flag())
        self._trusted_host_keys = self._trusted_ca_keys = None
        self._revoked_host_keys = self._x509_revoked_certs = self._server_sig_algs = _NOTHING

        self.front = front
        self._limits = options.limits
        self._out: list[bytes] = []
        self._out_size = 0
        self._out_due = False
        self._write_paused = False
        self._read_paused = False
        self._turn_ends = 0.0
        self._turn_due = False
        self._quiet = True
        self._deferred_size = 0
        self._rekey_timer: asyncio.TimerHandle | None = None
        self._heard = 0.0
        self._abort_timer: asyncio.TimerHandle | None = None
        self._first_channel = 0

    def end(self, reason: str, code: int = constants.DISC_BY_APPLICATION) -> None:
        """Send a DISCONNECT with *code* and *reason*, and close once all unsent data is sent, or after five seconds."""
        if self._transport:
            self._send_disconnect(code, reason, "")
            self._force_close(None)

    def drop(self) -> None:
        """Close at once, without a DISCONNECT; unsent data is lost."""
        if self._transport:
            self._out.clear()
            self._out_size = 0
            self._transport.abort()
            self._force_close(None)

    def is_gone(self, limit: timedelta) -> bool:
        """Whether the client's host has answered nothing for *limit*."""
        sock = self._transport.get_extra_info("socket") if self._transport else None
        return sock is not None and presence.is_gone(sock, limit)

    @property
    def ready(self) -> bool:
        """Whether channel data may be sent now; if not, ``flush`` of each channel is called later."""
        return (
            self._transport is not None and not self._write_paused and self._kex_complete and self._out_size < _OUT_MAX
        )

    # -- the connection's life -------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).set_write_buffer_limits(high=_OUT_MAX)
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None = None) -> None:
        if self._abort_timer:
            self._abort_timer.cancel()
        super().connection_lost(exc)

    def _force_close(self, exc: Exception | None) -> None:
        """Unlike the library, send what was written before, such as a DISCONNECT."""
        transport = self._transport
        if transport is None:
            return
        self._flush_out()
        if self._transport is None:
            return
        self._transport = None
        if self._rekey_timer:
            self._rekey_timer.cancel()
        if not transport.is_closing():
            transport.close()
            self._abort_timer = self._loop.call_later(_CLOSING, transport.abort)
        self._loop.call_soon(self._cleanup, exc)

    def _cleanup(self, exc: Exception | None) -> None:
        super()._cleanup(exc)
        for task in list(self._tasks):
            task.cancel()
        # Nothing is read any more. Each of these would form a reference cycle with this object.
        self._recv_handler = _not_now
        self._kex = None
        self.front.lost(exc)

    def internal_error(self, exc_info: Any = None, error_logger: Any = None) -> None:
        error = (exc_info or sys.exc_info())[1]
        self.front.broken(error)
        super().internal_error(exc_info, error_logger)

    def _reset_keepalive_timer(self) -> None:
        """Unlike the library, do not set a new timer for each piece of data: the existing one checks when it is due."""
        self._heard = self._loop.time()
        if self._keepalive_timer is None:
            super()._reset_keepalive_timer()

    def _keepalive_timer_callback(self) -> None:
        left = self._heard + self._keepalive_interval - self._loop.time()
        if left > 0 and self._keepalive_timer is not None:
            self._keepalive_timer = self._loop.call_later(left, self._keepalive_timer_callback)
            return
        if self._keepalive_count > 0:
            self.front.log(logging.DEBUG, Event(SSHCode.KEEPALIVE_NORESP, "The client does not answer keepalives"))
        super()._keepalive_timer_callback()

    # -- receiving ---------------------------------------------------------------------------------

    def data_received(self, data: bytes, datatype: Any = None) -> None:
        self._turn_ends = time.monotonic() + _TURN
        self._inpbuf += data
        self._recv_data()
        if (
            not (self._auth_in_progress or self._auth_complete or self._out)
            and self._transport
            and (sock := self._transport.get_extra_info("socket"))
        ):
            # An answer would acknowledge the data as well. Set again each time, since the kernel resets the option.
            presence.acknowledge(sock)
        # A packet is being processed, and what follows it is kept here: the client has to wait.
        if len(self._inpbuf) > _UNREAD_MAX:
            self._stop_reading()

    def _finish_recv_packet(self, pkttype: int, seq: int, _task: Any = None, is_async: bool = False) -> None:
        if is_async:
            if self._transport is None:
                return
            self._turn_ends = time.monotonic() + _TURN
            super()._finish_recv_packet(pkttype, seq, _task, is_async)
            self._read_on()
            return
        super()._finish_recv_packet(pkttype, seq, _task, is_async)
        # One read may contain thousands of small packets: other connections get their turn in between.
        if self._inpbuf:
            self.turn_over()

    def turn_over(self) -> bool:
        """Whether the time of this turn is over; if so, the next one begins in a later iteration of the event loop."""
        if not self._turn_due and time.monotonic() >= self._turn_ends:
            self._turn_due = True
            self._recv_handler = _not_now
            self._stop_reading()
            self._loop.call_soon(self._next_turn)
        return self._turn_due

    def _next_turn(self) -> None:
        self._turn_due = False
        if self._transport is None:
            return
        self._recv_handler = self._recv_pkthdr
        self._turn_ends = time.monotonic() + _TURN
        self._recv_data()
        self._read_on()

    def _stop_reading(self) -> None:
        if not self._read_paused and self._transport:
            self._read_paused = True
            self._transport.pause_reading()

    def _read_on(self) -> None:
        if self._read_paused and not self._turn_due and len(self._inpbuf) <= _UNREAD_MAX and self._transport:
            self._read_paused = False
            self._transport.resume_reading()

    def log_received_packet(self, *_: object, **__: object) -> None:
        """The library's debug log of packets costs time even when it is off."""

    log_sent_packet = log_received_packet

    # -- sending ------------------------------------------------------------------------------------

    def send_packet(self, pkttype: int, *args: bytes, handler: Any = None) -> None:
        if (pkttype == constants.MSG_IGNORE and self._quiet) or self.send_directly(pkttype, args):
            return
        waiting = len(self._deferred_packets)
        # The library uses the handler for its debug log only.
        super().send_packet(pkttype, *args)
        if len(self._deferred_packets) > waiting:
            self._deferred_size += sum(map(len, args)) + 64
            if self._deferred_size > self._unsent_max:
                self._loop.call_soon(self._overflow)

    def _send_deferred_packets(self) -> None:
        self._deferred_size = 0
        super()._send_deferred_packets()

    def _send(self, data: bytes) -> None:
        self._out.append(data)
        self._out_size += len(data)
        if not self._out_due:
            self._out_due = True
            self._loop.call_soon(self._flush)
        elif self._out_size >= _OUT_MAX:
            self._flush_out()

    def _flush(self) -> None:
        self._out_due = False
        self._flush_out()
        if self.ready:
            self._flush_channels()

    def _flush_out(self) -> None:
        transport = self._transport
        if transport is None or not self._out:
            return
        pieces, size = self._out, self._out_size
        self._out = []
        self._out_size = 0
        if not transport.is_closing():
            if size < _JOINED:
                transport.write(b"".join(pieces))
            else:
                transport.writelines(pieces)
            if transport.get_write_buffer_size() > self._unsent_max:
                self._overflow()

    @property
    def _unsent_max(self) -> int:
        return self._limits.unsent_bytes if self._auth_complete else self._limits.unsent_bytes_unauthenticated

    def _overflow(self) -> None:
        if self._transport:
            self.front.limit_reached(SSHCode.LIMIT_UNSENT, "The client does not read what it asked for")
            self.drop()

    def _flush_channels(self) -> None:
        """Let each channel send its unsent data, beginning with another channel each time."""
        channels = [chan for chan in self._channels.values() if isinstance(chan, AdapterChannel) and chan.waiting]
        if channels:
            self._first_channel += 1
            turn = self._first_channel % len(channels)
            for chan in channels[turn:] + channels[:turn]:
                if not self.ready:
                    return
                chan.flush()

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        if self.ready:
            self._flush_channels()


def _not_now() -> bool:
    """Takes the place of the handler of the next packet while that has to wait."""
    return False
