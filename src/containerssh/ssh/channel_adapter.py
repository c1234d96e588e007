"""asyncssh's session channel with its own handling of requests, flow control and closing.

* Requests are passed to the front unparsed, and answered when the front says so.
* Nothing is sent while the connection cannot take it, whatever window the client has granted.
* A channel ends in the order data, EOF, exit status, CLOSE. A client that closes its side after EOF still receives the
  exit status; the library would send CLOSE at once.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from typing import TYPE_CHECKING, Any, cast

from asyncssh import constants
from asyncssh.channel import SSHServerChannel
from asyncssh.misc import DisconnectError, ProtocolError
from asyncssh.packet import PacketDecodeError, SSHPacket, UInt32

from containerssh.core.codes import SSHCode
from containerssh.core.errors import describe
from containerssh.core.flag import Flag
from containerssh.core.messages import Event
from containerssh.ssh.front import NOBODY, Front
from containerssh.ssh.places import places

if TYPE_CHECKING:
    from containerssh.ssh.adapter import AdapterConnection

logger = logging.getLogger(__name__)

_PACKET_MAX = 32768
_STDERR = constants.EXTENDED_DATA_STDERR
_HEAD = struct.Struct(">II")
_EXTENDED_HEAD = struct.Struct(">III")
PACKET_MIN = 256
"""
The smallest maximum packet size that a client may set: with a smaller one, output would need a packet for each few
bytes.
"""
_PIECES = 16
_SMALL = 4096
_JOINED = 32768


class AdapterChannel(SSHServerChannel[bytes]):
    """The channel of a session or a forward; it passes what the client sends to :attr:`front`."""

    __slots__ = places(SSHServerChannel)

    # None after the end; the base class declares its own connection class only.
    _conn: AdapterConnection | None  # type: ignore[assignment]  # ours makes no other channels
    front: Front

    def __init__(
        self,
        conn: AdapterConnection,
        loop: asyncio.AbstractEventLoop,
        own_window: int,
        number: int | None,
        window: int = 0,
        packet_size: int = 0,
        *,
        is_forward: bool = False,
    ) -> None:
        """*number* is the client's channel number; None for a channel that :meth:`open` opens towards the client."""
        super().__init__(
            conn,
            loop,
            allow_pty=True,
            line_editor=False,
            line_echo=False,
            line_history=0,
            max_line_length=0,
            encoding=None,
            errors="strict",
            window=own_window,
            max_pktsize=_PACKET_MAX,
        )
        # The library's own event takes 0.8 KiB.
        self._close_event = cast(Any, Flag())
        self.is_forward = is_forward
        self._send_chan = number
        self._send_window = window
        self._send_pktsize = min(packet_size, _PACKET_MAX)
        self._out: list[tuple[memoryview, int | None]] = []
        self._final: tuple[bytes, ...] | None = None
        self._recv_paused = True

    # -- what the front calls -------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether the channel can no longer send."""
        return self._send_state in {"close_pending", "closed"} or self._conn is None

    def confirm(self) -> None:
        """Confirm the client's open request."""
        if self._conn is not None and self._unanswered:
            assert self._send_chan is not None
            assert self._recv_chan is not None
            self._conn.send_channel_open_confirmation(
                self._send_chan, self._recv_chan, self._recv_window, self._recv_pktsize
            )
            self._send_state = "open"
            self._recv_state = "open"

    def refuse(self, code: int, reason: str) -> None:
        """Refuse the client's open request; the channel is closed."""
        if self._conn is not None and self._unanswered and self._send_chan is not None:
            self._conn.refuse_channel(self._send_chan, code, reason)
            self._cleanup()

    async def open(self, kind: bytes, fields: bytes) -> None:
        """
        Open the channel towards the client (RFC 4254 section 5.1). If cancelled, the channel is closed as soon as the
        client has answered.

        Raises:
            asyncssh.ChannelOpenError: the client refuses, or has disconnected.
        """
        await self._open(kind, fields)

    def process_open_confirmation(self, send_chan: int, send_window: int, send_pktsize: int, packet: SSHPacket) -> None:
        unwanted = self._open_waiter is not None and self._open_waiter.cancelled()
        super().process_open_confirmation(send_chan, send_window, min(send_pktsize, _PACKET_MAX), packet)
        if unwanted or send_pktsize < PACKET_MIN:
            self._close_both()

    @property
    def _unanswered(self) -> bool:
        return self._send_state == "closed" and self._recv_state == "closed" and self._send_chan is not None

    def reply(self, ok: bool) -> None:
        """Answer the oldest request that wants a reply."""
        if not self.closed:
            self.send_packet(constants.MSG_CHANNEL_SUCCESS if ok else constants.MSG_CHANNEL_FAILURE)

    def put(self, data: bytes, *, stderr: bool = False) -> bool:
        """
        Send *data*; return whether there is room for more. If not, ``front.resume_writing`` is called later.

        Raises:
            BrokenPipeError: the channel, or its outgoing direction, is closed.
        """
        if self._send_state != "open":
            raise BrokenPipeError("the channel is closed")
        size = len(data)
        if not size:
            return not self._send_paused
        conn = self._conn
        if (
            not (self._out or stderr)
            and size <= self._send_window
            and size <= self._send_pktsize
            and conn is not None
            and conn.ready
        ):
            # The fast path for small data such as keystrokes; equivalent to the code below.
            self._send_window -= size
            conn.send_data(constants.MSG_CHANNEL_DATA, _HEAD.pack(self._send_chan, size), data)
            return True
        datatype = _STDERR if stderr else None
        if len(self._out) > _PIECES and self._out[-1][1] == datatype and len(self._out[-1][0]) < _SMALL:
            # Join small writes: many separate objects would need far more memory than their bytes.
            self._out[-1] = (memoryview(bytes(self._out[-1][0]) + data), datatype)
        else:
            self._out.append((memoryview(data), datatype))
        self._send_buf_len += len(data)
        self.flush()
        return not self._send_paused

    @property
    def has_room(self) -> bool:
        """Whether :meth:`put` may be called again."""
        return not self._send_paused

    def end_output(self) -> None:
        """Send EOF after all data written so far."""
        if self._send_state == "open":
            self._send_state = "eof_pending"
            self.flush()

    def finish(self, request: bytes, *fields: bytes) -> None:
        """After all data: send EOF, the request that reports the exit status or signal, and CLOSE."""
        self._final = (request, *fields)
        if self._send_state == "open":
            self._send_state = "eof_pending"
        self.flush()

    def close_after_output(self) -> None:
        """After all data: send EOF and CLOSE."""
        self._final = ()
        if self._send_state == "open":
            self._send_state = "eof_pending"
        self.flush()

    def cut(self) -> None:
        """Close at once; unsent output is lost."""
        self._out.clear()
        self._final = None
        if self._conn is not None:
            if self._unanswered:
                self.refuse(constants.OPEN_CONNECT_FAILED, "The session failed")
            else:
                self._close_both()

    @property
    def waiting(self) -> bool:
        """Whether unsent data is left."""
        return bool(self._out)

    def flush(self) -> None:
        """Send as much as the window and the connection allow."""
        conn = self._conn
        if conn is None:
            return
        out = self._out
        while out and self._send_window and conn.ready:
            data, datatype = out[0]
            size = min(self._send_window, self._send_pktsize)
            if len(data) > size:
                out[0] = (data[size:], datatype)
                data = data[:size]
            else:
                del out[0]
            self._send_buf_len -= len(data)
            self._send_window -= len(data)
            if datatype is None:
                conn.send_data(constants.MSG_CHANNEL_DATA, _HEAD.pack(self._send_chan, len(data)), data)
            else:
                head = _EXTENDED_HEAD.pack(self._send_chan, datatype, len(data))
                conn.send_data(constants.MSG_CHANNEL_EXTENDED_DATA, head, data)
        self._tell_room()
        if not out:
            if self._send_state == "eof_pending":
                self.send_packet(constants.MSG_CHANNEL_EOF)
                self._send_state = "eof"
            if self._send_state == "eof" and self._final is not None:
                final, self._final = self._final, None
                if final:
                    self._send_request(final[0], *final[1:])
                self._close_both()
                self.front.finished()

    def _tell_room(self) -> None:
        if self._send_paused:
            if self._send_buf_len <= self._send_low_water:
                self._send_paused = False
                self.front.resume_writing()
        elif self._send_buf_len > self._send_high_water:
            self._send_paused = True

    def _close_both(self) -> None:
        self._out.clear()
        self._close_send()
        self._discard_recv()

    # -- what the library calls ---------------------------------------------------------------------

    # The library's name for this method.
    _flush_send_buf = flush

    def _pause_resume_writing(self) -> None:
        """Called by the library's constructor only; :meth:`flush` does its work."""

    def process_packet(self, pkttype: int, pktid: int, packet: SSHPacket) -> Any:
        """An internal error in a channel closes that channel; a protocol error closes the connection."""
        try:
            return super().process_packet(pkttype, pktid, packet)
        except (DisconnectError, PacketDecodeError):
            raise
        except Exception as exc:  # noqa: BLE001  whatever it is, the other channels go on
            self._failed(exc)
            return True

    def take(self, data: bytes) -> None:
        """Process the data of a CHANNEL_DATA packet; errors are handled as in :meth:`process_packet`."""
        if self._recv_state != "open":
            raise ProtocolError("Channel not open for sending")
        if len(data) > self._recv_window:
            raise ProtocolError("Window exceeded")
        try:
            left = self._recv_window - len(data)
            if self._recv_paused or left < self._init_recv_window / 2 or not data or self.closed:
                self._accept_data(data)
            else:
                self._recv_window = left
                self.front.data_received(data)
        except DisconnectError:
            raise
        except Exception as exc:  # noqa: BLE001  whatever it is, the other channels go on
            self._failed(exc)

    def grow(self, count: int) -> None:
        """Process a WINDOW_ADJUST of *count* bytes; errors are handled as in :meth:`process_packet`."""
        try:
            self._grow(count)
        except DisconnectError:
            raise
        except Exception as exc:  # noqa: BLE001  whatever it is, the other channels go on
            self._failed(exc)

    def _failed(self, error: Exception) -> None:
        text = f"A channel failed ({describe(error)})"
        self.front.log(logging.ERROR, Event(SSHCode.CHANNEL_REQUEST_FAILED, text), error)
        self.cut()

    def log_received_packet(self, *_: object, **__: object) -> None:
        """The library's debug log of packets costs time even when it is off."""

    log_sent_packet = log_received_packet

    def _accept_data(self, data: bytes, datatype: Any = None) -> None:
        if not data or self.closed:
            return
        self._recv_window -= len(data)
        if not self._recv_paused:
            self._deliver_data(data, datatype)
        elif self._recv_buf and len(self._recv_buf[-1][0]) < _JOINED:
            # Join small packets: a window of one-byte packets would take a hundred times its size in memory.
            last = self._recv_buf[-1][0]
            self._recv_buf[-1] = (last + data, None)
        else:
            self._recv_buf.append((data, None))

    def _deliver_data(self, data: bytes, datatype: Any) -> None:
        if self._recv_window < self._init_recv_window / 2:
            self.send_packet(constants.MSG_CHANNEL_WINDOW_ADJUST, UInt32(self._init_recv_window - self._recv_window))
            self._recv_window = self._init_recv_window
        self.front.data_received(data)

    def _flush_recv_buf(self, exc: Exception | None = None) -> None:
        while self._recv_buf and not self._recv_paused:
            self._deliver_data(*self._recv_buf.pop(0))
        if not self._recv_buf and self._recv_state == "eof_pending":
            self._recv_state = "eof"
            self.front.eof_received()

    def _process_window_adjust(self, _pkttype: int, _pktid: int, packet: SSHPacket) -> None:
        count = packet.get_uint32()
        packet.check_end()
        self._grow(count)

    def _grow(self, count: int) -> None:
        if self._recv_state not in {"open", "eof_pending", "eof"}:
            raise ProtocolError("Channel not open")
        self._send_window += count
        # RFC 4254 section 5.2
        if self._send_window > 0xFFFFFFFF:
            raise ProtocolError("The window grew beyond 2^32 - 1 bytes")
        self.flush()

    def _process_request(self, _pkttype: int, _pktid: int, packet: SSHPacket) -> None:
        if self._recv_state not in {"open", "eof_pending", "eof"}:
            raise ProtocolError("Channel not open")
        name = packet.get_string()
        want_reply = packet.get_boolean()
        self.front.requested(name, want_reply, packet.get_remaining_payload())

    def _process_close(self, _pkttype: int, _pktid: int, packet: SSHPacket) -> None:
        if self._recv_state not in {"open", "eof_pending", "eof"}:
            raise ProtocolError("Channel not open")
        packet.check_end()
        if self.is_forward:
            self._deliver_last()
        self._recv_buf = []
        self._recv_state = "close_pending"
        if self._send_state == "eof" and self.front.running:
            # The client closes because both directions have ended; the exit status is still to be sent.
            self.front.eof_received()
            return
        self._close_both()

    def _deliver_last(self) -> None:
        """Deliver data that arrived before CLOSE (RFC 4254 section 5.3): at most a window."""
        for data, _ in self._recv_buf:
            self.front.data_received(data)
        if self._recv_state != "eof":
            self.front.eof_received()

    def _cleanup(self, exc: Exception | None = None) -> None:
        if self._conn is None:
            return
        super()._cleanup(exc)
        self._out.clear()
        front, self.front = self.front, NOBODY
        front.closed_by_peer()

    _packet_handlers = {  # noqa: RUF012  the library's own attribute
        **SSHServerChannel._packet_handlers,
        constants.MSG_CHANNEL_WINDOW_ADJUST: _process_window_adjust,
        constants.MSG_CHANNEL_REQUEST: _process_request,
        constants.MSG_CHANNEL_CLOSE: _process_close,
    }
