"""asyncssh's connection, bent to our needs: the overrides of its private parts, in one place.

What is changed, and why:

* Authentication and global requests are ours: the library would answer before a handler was asked, and would mix the
  names of attempts.
* Limits where the library has none: bytes that a client does not take (whatever window it granted, and also during a
  key exchange that it never ends), bytes that arrive while a packet is being worked on, the time of a key exchange.
* Speed: packets of one turn of the event loop leave in one write; no IGNORE packet in front of every packet, which
  protects CBC ciphers only; no rereading of host keys at each login; a short way for channel data
  (:mod:`containerssh.ssh.packets`).
* A host key signs with the algorithm agreed in its own connection; the library keeps it in an object shared by all.
* A guessed first packet of a key exchange is judged as RFC 4253 section 7 says, or as the ``kexguess2`` extension says.

:mod:`containerssh.ssh.selfcheck` refuses a library that lacks what is overridden here.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

from asyncssh import constants
from asyncssh.connection import SSHServerConnection, SSHServerConnectionOptions
from asyncssh.misc import ConnectionLost, DisconnectError
from asyncssh.packet import Boolean, NameList, SSHPacket, String, UInt32
from asyncssh.public_key import SSHKeyPair

from containerssh.core.codes import SSHCode
from containerssh.core.flag import Flag
from containerssh.core.messages import Event
from containerssh.ssh import presence
from containerssh.ssh.channel_adapter import PACKET_MIN, AdapterChannel
from containerssh.ssh.host_keys import HostKey
from containerssh.ssh.limits import Rekeyings
from containerssh.ssh.packets import PacketConnection

if TYPE_CHECKING:
    from containerssh.ssh.connection import Connection
    from containerssh.ssh.options import ServerOptions

logger = logging.getLogger(__name__)

# More than the largest packet that the library takes.
_UNREAD_MAX = 288 * 1024
_OUT_MAX = 256 * 1024
# Seconds that the packets of one connection are worked on before others are looked after.
_TURN = 0.001
# Below this a copy costs less than the system's work for a list of pieces.
_JOINED = 16 * 1024
_CLOSING = 5.0
_MSG_USERAUTH_PK_OK = 60
_MSG_USERAUTH_INFO_REQUEST = 60
_MSG_USERAUTH_INFO_RESPONSE = 61
_MSG_PING = 192
_MSG_PONG = 193
_KEXGUESS2 = b"kexguess2@matt.ucc.asn.au"


@dataclass(frozen=True)
class AuthRequest:
    """A USERAUTH_REQUEST (RFC 4252 section 5); *payload* is what follows the method's name."""

    username: bytes
    method: bytes
    payload: bytes
    head: bytes
    """Everything before *payload*, as signatures cover it."""


@dataclass(eq=False)
class _Signer:
    """A host key with the signature algorithm of one connection."""

    key: HostKey
    algorithm: str

    @property
    def public_data(self) -> bytes:
        return self.key.blob

    def sign(self, data: bytes) -> bytes:
        return self.key.sign(data, self.algorithm)


class _Silent:
    """
    In place of the library's logger, whose lines nobody sees: it puts what it is told in words before it looks whether
    it is on.
    """

    def get_child(self, *_: object, **__: object) -> _Silent:
        return self

    def debug1(self, *_: object, **__: object) -> None:
        """Say nothing."""

    debug2 = info = packet = debug1


_SILENT = _Silent()
_NOTHING: Any = frozenset()


@dataclass(frozen=True, eq=False)
class Offer:
    """What a server tells each of its clients alike; made by :func:`prepare`."""

    library: SSHServerConnectionOptions
    keys: Mapping[bytes, HostKey]
    """By the names of their signature algorithms."""
    algorithms: Sequence[bytes]
    """These names."""
    signatures: Sequence[bytes]
    """The algorithms that clients may sign with."""
    announced: bytes
    """The host keys as HOSTKEYS-00 lists them (OpenSSH's PROTOCOL, section 2.5)."""


class _Answers:
    """Takes INFO_RESPONSE messages (RFC 4256 section 3.4) where the library looks for an authentication in progress."""

    def __init__(self, connection: AdapterConnection) -> None:
        self._connection = connection

    def process_packet(self, pkttype: int, _pktid: int, packet: SSHPacket) -> bool:
        if pkttype != _MSG_USERAUTH_INFO_RESPONSE:
            return False
        count = packet.get_uint32()
        # Each answer takes four bytes at least, so the packet itself limits a count that lies.
        answers = [packet.get_string() for _ in range(count)]
        packet.check_end()
        self._connection.front.auth_answers(answers)
        return True

    def log_received_packet(self, *_: object) -> None:
        """The library's debug log of packets is not used."""

    def cancel(self) -> None:
        """Called by the library at the end of a connection; the front ends its own attempt."""


async def prepare(
    options: ServerOptions,
    keys: Sequence[HostKey],
    kex: Sequence[str],
    ciphers: Sequence[str],
    macs: Sequence[str],
    signatures: Sequence[str],
) -> Offer:
    """What connections of a server with these options are made with."""
    version = options.server_version.removeprefix("SSH-2.0-")
    library: SSHServerConnectionOptions = await SSHServerConnectionOptions.construct(
        config=None,
        server_host_keys=[key.key for key in keys],
        gss_host=None,
        gss_auth=False,
        gss_kex=False,
        server_version=version,
        kex_algs=list(kex),
        encryption_algs=list(ciphers),
        mac_algs=list(macs),
        compression_algs=["none"],
        encoding=None,
        line_editor=False,
        allow_scp=False,
        agent_forwarding=False,
        x11_forwarding=False,
        login_timeout=0,
        keepalive_interval=options.client_alive_interval.total_seconds(),
        keepalive_count_max=options.client_alive_count_max,
        rekey_bytes=options.rekey_bytes,
        rekey_seconds=3600,
    )
    by_algorithm = {name.encode(): key for key in keys for name in key.algorithms}
    return Offer(
        library,
        by_algorithm,
        list(by_algorithm),
        [name.encode() for name in signatures],
        b"".join(String(key.blob) for key in keys),
    )


class AdapterConnection(PacketConnection):
    """A TCP connection; :attr:`front` is told what the client asks, and answers with the methods of the first part."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        offer: Offer,
        options: ServerOptions,
        front: Connection,
    ) -> None:
        super().__init__(loop, offer.library)
        # Each connection would have its own of these, which take more than a KiB and stay empty or are never looked at.
        self._logger = cast(Any, _SILENT)
        self._close_event = cast(Any, Flag())
        self._trusted_host_keys = self._trusted_ca_keys = None
        self._revoked_host_keys = self._x509_revoked_certs = self._server_sig_algs = _NOTHING

        self.front = front
        self._offer = offer
        self._limits = options.limits
        self._gss = None
        self._keys = offer.keys
        self._signer: _Signer | None = None
        self._server_host_key_algs = offer.algorithms
        self._sig_algs = offer.signatures
        self._extensions_to_send[b"ping@openssh.com"] = b"0"

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
        self._rekeyings: Rekeyings | None = None
        self._abort_timer: asyncio.TimerHandle | None = None
        self._closing: asyncio.Transport | None = None
        self._client_kex: Sequence[bytes] = ()
        self._client_guessed = False
        self._no_more_sessions = False
        self._proofs: dict[tuple[HostKey, str], bytes] = {}
        self._first_channel = 0

    # -- what the front calls -------------------------------------------------------------------

    @property
    def session_id(self) -> bytes:
        """The hash of the first key exchange, which signatures of this connection cover."""
        return self._session_id

    @property
    def client_version(self) -> str:
        """The client's identification string; empty before it came."""
        return str(self.get_extra_info("client_version", ""))

    def auth_failed(self, methods: Sequence[str]) -> None:
        """The last request failed; *methods* can continue."""
        self._auth = None
        self.send_packet(constants.MSG_USERAUTH_FAILURE, NameList([name.encode() for name in methods]), Boolean(False))

    def auth_key_acceptable(self, algorithm: bytes, blob: bytes) -> None:
        """The key asked about would be accepted with a signature."""
        self.send_packet(_MSG_USERAUTH_PK_OK, String(algorithm), String(blob))

    def auth_ask(self, instruction: str, questions: Sequence[tuple[str, bool]]) -> None:
        """Put questions; the answers come through ``front.auth_answers``."""
        self._auth = cast(Any, _Answers(self))
        prompts = b"".join(String(text) + Boolean(echo) for text, echo in questions)
        self.send_packet(
            _MSG_USERAUTH_INFO_REQUEST,
            String(""),
            String(instruction),
            String(""),
            UInt32(len(questions)),
            prompts,
        )

    def auth_succeeded(self) -> None:
        """The client is logged in: from here on it may open channels."""
        self._auth = None
        self.send_packet(constants.MSG_USERAUTH_SUCCESS)
        self._auth_in_progress = False
        self._auth_complete = True
        self._next_service = None
        self._send_deferred_packets()
        self._set_keepalive_timer()
        self._send_global_request(b"hostkeys-00@openssh.com", self._offer.announced)

    def banner(self, text: str) -> None:
        """Show *text* before the client is authenticated (RFC 4252 section 5.4)."""
        self.send_packet(constants.MSG_USERAUTH_BANNER, String(text), String(""))

    def end(self, reason: str, code: int = constants.DISC_BY_APPLICATION) -> None:
        """Say why and close, when what was written before has left; at most a few seconds later in any case."""
        if self._transport:
            self._send_disconnect(code, reason, "")
            self._force_close(None)

    def drop(self) -> None:
        """Close at once, without a word."""
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
        self.front.connected(self)
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None = None) -> None:
        if self._abort_timer:
            self._abort_timer.cancel()
        super().connection_lost(exc)

    def _force_close(self, exc: Exception | None) -> None:
        """Unlike the library: what was written, a DISCONNECT say, still leaves."""
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
        self.front.lost(exc)

    def internal_error(self, exc_info: Any = None, error_logger: Any = None) -> None:
        import sys

        error = (exc_info or sys.exc_info())[1]
        self.front.broken(error)
        super().internal_error(exc_info, error_logger)

    def _reset_keepalive_timer(self) -> None:
        """Unlike the library, which sets a new timer for each piece of data: the old one looks when it is due."""
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
        if (
            not (self._auth_in_progress or self._auth_complete)
            and self._transport
            and (sock := self._transport.get_extra_info("socket"))
        ):
            # Again each time: the kernel forgets it whenever we send something.
            presence.acknowledge(sock)
        self._inpbuf += data
        self._recv_data()
        # A packet is being worked on, and what follows it waits here; the client has to wait as well.
        if len(self._inpbuf) > _UNREAD_MAX:
            self._stop_reading()

    def _finish_recv_packet(self, pkttype: int, seq: int, _task: Any = None, is_async: bool = False) -> None:
        if is_async:
            self._turn_ends = time.monotonic() + _TURN
            super()._finish_recv_packet(pkttype, seq, _task, is_async)
            self._read_on()
            return
        super()._finish_recv_packet(pkttype, seq, _task, is_async)
        # One read may hold thousands of small packets: other connections get their turn between them.
        if self._inpbuf:
            self.turn_over()

    def turn_over(self) -> bool:
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
        if pkttype == constants.MSG_IGNORE and self._quiet:
            return
        waiting = len(self._deferred_packets)
        super().send_packet(pkttype, *args, handler=handler)
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
        """Let each channel send what waits for the connection; another one begins every time."""
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

    # -- key exchange --------------------------------------------------------------------------------

    def _get_extra_kex_algs(self) -> list[bytes]:
        return [*super()._get_extra_kex_algs(), _KEXGUESS2]

    def _process_kexinit(self, pkttype: int, pktid: int, packet: SSHPacket) -> Any:
        if self._session_id and not self._auth_complete:
            # A stranger could have us compute signatures for as long as it may take to log in.
            raise DisconnectError(constants.DISC_PROTOCOL_ERROR, "Another key exchange before the login")
        if self._session_id and not self._kexinit_sent:
            self._client_rekeys()
        # Read here as well: what is wrong in it must be found before the library's coroutine runs.
        copy = SSHPacket(packet.get_full_payload())
        copy.get_bytes(17)
        self._client_kex, _, to_us, to_client = (copy.get_namelist() for _ in range(4))
        for _ in range(6):
            copy.get_string()
        self._client_guessed = copy.get_boolean()
        copy.get_uint32()
        copy.check_end()
        # A client with which we have nothing in common has found out as well, and is about to leave.
        self._choose_alg("key exchange", self._kex_algs, self._client_kex)
        self._choose_alg("encryption", self._enc_algs, to_us)
        self._choose_alg("encryption", self._enc_algs, to_client)
        return super()._process_kexinit(pkttype, pktid, packet)

    def _client_rekeys(self) -> None:
        now = self._loop.time()
        if self._rekeyings is None:
            self._rekeyings = Rekeyings(self._limits.rekeys, now)
        sock = self._transport.get_extra_info("socket") if self._transport else None
        if not self._rekeyings.begins(now, presence.traffic(sock) if sock else 0):
            self.front.limit_reached(SSHCode.LIMIT_REKEYS, "The client exchanges keys too often")
            raise DisconnectError(constants.DISC_BY_APPLICATION, "Too many key exchanges")

    def choose_server_host_key(self, peer_host_key_algs: Sequence[bytes]) -> bool:
        for name in peer_host_key_algs:
            if name in self._keys:
                self._signer = _Signer(self._keys[name], name.decode("ascii"))
                break
        else:
            return False
        # The library has chosen the key exchange just before it calls this.
        if self._client_guessed and self._kex:
            ours = self._kex_algs if _KEXGUESS2 not in self._client_kex else [self._kex.algorithm]
            keys = list(self._keys) if _KEXGUESS2 not in self._client_kex else [name]
            self._ignore_first_kex = (self._client_kex[0], peer_host_key_algs[0]) != (ours[0], keys[0])
        return True

    def get_server_host_key(self) -> SSHKeyPair | None:
        # All that the key exchange wants is the public half and a signature.
        return cast("SSHKeyPair | None", self._signer)

    def _send_version(self) -> None:
        super()._send_version()
        # Without waiting for the client's version: that saves it a round trip (RFC 4253 section 4.2).
        self._send_kexinit()
        self._kexinit_sent = True

    def _send_kexinit(self) -> None:
        if self._kexinit_sent:
            return
        super()._send_kexinit()
        if self._auth_complete and self._rekey_timer is None:
            self._rekey_timer = self._loop.call_later(self._limits.rekey.total_seconds(), self._rekey_too_slow)

    def _rekey_too_slow(self) -> None:
        self.front.limit_reached(SSHCode.LIMIT_REKEY, "The client does not finish the key exchange")
        self.end("The key exchange took too long", constants.DISC_KEY_EXCHANGE_FAILED)

    def send_newkeys(self, k: bytes, h: bytes) -> None:
        super().send_newkeys(k, h)
        # All that was wanted for the key exchange alone goes.
        self._client_kexinit = self._server_kexinit = b""
        self._client_kex = ()
        self._extensions_to_send.clear()
        # The predictable start of a CBC packet is what an IGNORE packet hides (RFC 4253 section 9.3.1).
        self._quiet = not self._enc_alg_sc.endswith(b"-cbc")
        if self._rekey_timer:
            self._rekey_timer.cancel()
            self._rekey_timer = None
        if self.ready:
            self._flush_channels()

    # -- authentication --------------------------------------------------------------------------------

    def _process_userauth_request(self, _pkttype: int, _pktid: int, packet: SSHPacket) -> None:
        username = packet.get_string()
        service = packet.get_string()
        method = packet.get_string()
        if service != b"ssh-connection":
            raise DisconnectError(constants.DISC_SERVICE_NOT_AVAILABLE, "Unexpected service in auth request")
        if self._auth_complete:
            # RFC 4252 section 5.1: silently ignored, as long as the client cannot know better.
            if self._auth_final:
                raise DisconnectError(constants.DISC_PROTOCOL_ERROR, "Unexpected userauth request")
            return
        if not self._auth_in_progress:
            raise DisconnectError(constants.DISC_PROTOCOL_ERROR, "The authentication service was not requested")
        self._auth = None
        request = AuthRequest(username, method, packet.get_remaining_payload(), packet.get_consumed_payload())
        self.front.auth_requested(request)

    # -- global requests (RFC 4254 section 4) -------------------------------------------------------------

    def _process_global_request(self, _pkttype: int, _pktid: int, packet: SSHPacket) -> None:
        name = packet.get_string()
        want_reply = packet.get_boolean()
        self.front.forwarding.global_requested(name, want_reply, packet.get_remaining_payload())

    def answer_to(self, name: bytes, payload: bytes) -> bytes | None:
        """The answer to a global request that is not about forwarding; None is a failure."""
        if name == b"keepalive@openssh.com":
            return b""
        if name == b"no-more-sessions@openssh.com":
            self._no_more_sessions = True
            return b""
        if name == b"hostkeys-prove-00@openssh.com":
            return self._prove(payload)
        return None

    def answer_request(self, answer: bytes | None) -> None:
        """Answer the oldest global request that wants an answer; None is a failure."""
        if not self._transport:
            return
        if answer is None:
            self.send_packet(constants.MSG_REQUEST_FAILURE)
        else:
            self.send_packet(constants.MSG_REQUEST_SUCCESS, answer)

    def _prove(self, payload: bytes) -> bytes | None:
        """Signatures by the host keys asked for (OpenSSH's PROTOCOL, section 2.5); None if one is not ours."""
        keys = {key.blob: key for key in self._keys.values()}
        packet = SSHPacket(payload)
        proofs: list[bytes] = []
        asked: set[bytes] = set()
        while packet:
            blob = packet.get_string()
            if blob not in keys or blob in asked:
                return None
            asked.add(blob)
            key = keys[blob]
            # An RSA key proves itself with the algorithm of the key exchange, if that used it.
            used = self._signer.algorithm if self._signer and self._signer.key is key else key.algorithms[0]
            # Made once: signatures take time, and a client can ask without end.
            if (key, used) not in self._proofs:
                signed = String("hostkeys-prove-00@openssh.com") + String(self.session_id) + String(blob)
                self._proofs[key, used] = String(key.sign(signed, used))
            proofs.append(self._proofs[key, used])
        return b"".join(proofs) if proofs else None

    def _process_ping(self, _pkttype: int, _pktid: int, packet: SSHPacket) -> None:
        data = packet.get_string()
        packet.check_end()
        self.send_packet(_MSG_PONG, String(data))

    # -- channels -------------------------------------------------------------------------------------------

    def _process_channel_open(self, _pkttype: int, _pktid: int, packet: SSHPacket) -> None:
        kind = packet.get_string()
        number = packet.get_uint32()
        window = packet.get_uint32()
        packet_size = packet.get_uint32()
        if packet_size < PACKET_MIN:
            self.front.channel_refused(kind, "the maximum packet size is too small")
            self.refuse_channel(number, constants.OPEN_RESOURCE_SHORTAGE, "The maximum packet size is too small")
        elif kind != b"session":
            self.front.forwarding.channel_requested(kind, packet.get_remaining_payload(), number, window, packet_size)
        elif self._no_more_sessions:
            self.front.channel_refused(kind, "the client promised to open no more sessions")
            self.refuse_channel(number, constants.OPEN_ADMINISTRATIVELY_PROHIBITED, "No more sessions were announced")
        elif self._sessions >= self._limits.sessions:
            self.front.limit_reached(SSHCode.LIMIT_SESSIONS, "Too many sessions are open")
            self.front.channel_refused(kind, "too many open sessions")
            self.refuse_channel(number, constants.OPEN_RESOURCE_SHORTAGE, "Too many sessions.")
        else:
            channel = AdapterChannel(self, self._loop, self._own_window, number, window, packet_size)
            channel.front = self.front.session_opened(channel)

    @property
    def _sessions(self) -> int:
        return sum(not channel.is_forward for channel in self._channels.values() if isinstance(channel, AdapterChannel))

    @property
    def _own_window(self) -> int:
        # A few windows are large, for speed; all of them together stay bounded.
        count = len(self._channels)
        return 1024 * (2048 if count < 4 else 256 if count < 16 else 64)

    def forward_channel(self, number: int | None = None, window: int = 0, packet_size: int = 0) -> AdapterChannel:
        """
        A channel for a forward that the client has asked for, or without *number* one to ask the client for.

        Raises:
            asyncssh.ChannelOpenError: the connection is closed.
        """
        return AdapterChannel(self, self._loop, self._own_window, number, window, packet_size, is_forward=True)

    def refuse_channel(self, number: int, code: int, reason: str) -> None:
        """Answer the open request of the client's channel *number* with a failure (RFC 4254 section 5.1)."""
        self.send_channel_open_failure(number, code, reason, "")

    _packet_handlers = {  # noqa: RUF012  the library's own attribute
        **SSHServerConnection._packet_handlers,
        constants.MSG_KEXINIT: _process_kexinit,
        constants.MSG_USERAUTH_REQUEST: _process_userauth_request,
        constants.MSG_GLOBAL_REQUEST: _process_global_request,
        constants.MSG_CHANNEL_OPEN: _process_channel_open,
        _MSG_PING: _process_ping,
    }


def _not_now() -> bool:
    """Instead of the handler of the next packet, while that has to wait."""
    return False


__all__ = ["AdapterConnection", "AuthRequest", "ConnectionLost", "Offer", "prepare"]
