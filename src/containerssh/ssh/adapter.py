"""asyncssh's connection, adapted: authentication, global requests and the opening of channels. The flow of data is in
:mod:`containerssh.ssh.flow`, key exchanges in :mod:`containerssh.ssh.key_exchange`.

What differs from the library, and why:

* Authentication and global requests are handled by the front: the library would answer before a handler was asked, and
  would mix up the user names of successive attempts.
* Sessions and forwards are opened and refused by the front.

:mod:`containerssh.ssh.selfcheck` refuses a library that lacks what is overridden here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from asyncssh import constants
from asyncssh.misc import ConnectionLost, DisconnectError
from asyncssh.packet import Boolean, NameList, SSHPacket, String, UInt32

from containerssh.core.codes import SSHCode
from containerssh.keys.certificate import plain_name
from containerssh.ssh.channel_adapter import PACKET_MIN, AdapterChannel
from containerssh.ssh.host_keys import HostKey
from containerssh.ssh.key_exchange import KexConnection, Offer, prepare
from containerssh.ssh.packets import MSG_PING

if TYPE_CHECKING:
    from containerssh.ssh.connection import Connection
    from containerssh.ssh.gssapi import Exchange
    from containerssh.ssh.options import ServerOptions

logger = logging.getLogger(__name__)

_MSG_USERAUTH_PK_OK = 60
_MSG_USERAUTH_INFO_REQUEST = 60
_MSG_USERAUTH_INFO_RESPONSE = 61
_MSG_PONG = 193
_HOST_BOUND = b"publickey-hostbound-v00@openssh.com"
BY_KEY_EXCHANGE = b"gssapi-keyex"
_OTHER_NAMES = {_HOST_BOUND: b"publickey", BY_KEY_EXCHANGE: b"gssapi-with-mic"}


@dataclass(frozen=True)
class AuthRequest:
    """A USERAUTH_REQUEST (RFC 4252 section 5); *payload* is what follows the method's name."""

    username: bytes
    method: bytes
    payload: bytes
    head: bytes
    """Everything before *payload*; signatures cover it."""

    @property
    def offered_as(self) -> bytes:
        """The name under which the method is offered, which may differ from the requested one."""
        return _OTHER_NAMES.get(self.method, self.method)

    @property
    def names_host_key(self) -> bool:
        """Whether the server's host key follows the client's key (OpenSSH's PROTOCOL, section 3.1)."""
        return self.method == _HOST_BOUND


class _Answers:
    """Receives INFO_RESPONSE messages (RFC 4256 section 3.4), in place of the library's authentication object."""

    def __init__(self, connection: AdapterConnection) -> None:
        self._connection = connection

    def process_packet(self, pkttype: int, _pktid: int, packet: SSHPacket) -> bool:
        if pkttype != _MSG_USERAUTH_INFO_RESPONSE:
            return False
        count = packet.get_uint32()
        # Each answer takes at least four bytes, so the packet's size limits a wrong count.
        answers = [packet.get_string() for _ in range(count)]
        packet.check_end()
        self._connection.front.auth_answers(answers)
        return True

    def log_received_packet(self, *_: object) -> None:
        """The library's debug log of packets is not used."""

    def cancel(self) -> None:
        """Called by the library at the end of a connection; the front ends its own attempt."""


class _Tokens(_Answers):
    """Receives the messages of a GSSAPI exchange (RFC 4462 section 3) in the same way."""

    def __init__(self, connection: AdapterConnection, exchange: Exchange) -> None:
        super().__init__(connection)
        self._exchange = exchange

    def process_packet(self, pkttype: int, _pktid: int, packet: SSHPacket) -> bool:
        return self._exchange.received(pkttype, packet)


class AdapterConnection(KexConnection):
    """
    A TCP connection. It passes the client's requests to :attr:`front`, which answers with the methods of the first
    part.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        offer: Offer,
        options: ServerOptions,
        front: Connection,
    ) -> None:
        super().__init__(loop, offer, options, front)
        self._gss = None
        self._sig_algs = offer.signatures
        self._extensions_to_send[b"ping@openssh.com"] = b"0"
        self._extensions_to_send[b"publickey-hostbound@openssh.com"] = b"0"

        self._no_more_sessions = False
        self._proofs: dict[tuple[HostKey, str], bytes] = {}

    # -- what the front calls -------------------------------------------------------------------

    @property
    def session_id(self) -> bytes:
        """The hash of the first key exchange, which signatures of this connection cover."""
        return self._session_id

    @property
    def host_key(self) -> bytes | None:
        """
        The host key or certificate presented to the client; None where the key exchange needs none. No client
        is presented another one before it logs in.
        """
        return self._signer.public_data if self._signer else None

    @property
    def client_version(self) -> str:
        """The client's identification string; empty until it arrives."""
        return str(self.get_extra_info("client_version", ""))

    def auth_failed(self, methods: Sequence[str], *, partial: bool = False) -> None:
        """
        Answer USERAUTH_FAILURE; with *partial*, the method succeeded but more are required. *methods* can continue.
        """
        self._auth = None
        names = NameList([name.encode() for name in methods])
        self.send_packet(constants.MSG_USERAUTH_FAILURE, names, Boolean(partial))

    def auth_key_acceptable(self, algorithm: bytes, blob: bytes) -> None:
        """Answer that the queried key is acceptable (USERAUTH_PK_OK)."""
        self.send_packet(_MSG_USERAUTH_PK_OK, String(algorithm), String(blob))

    def auth_ask(self, instruction: str, questions: Sequence[tuple[str, bool]]) -> None:
        """Send prompts; the answers arrive through ``front.auth_answers``."""
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

    def auth_gssapi(self, exchange: Exchange) -> None:
        """Route GSSAPI messages to *exchange* until the request is answered or replaced."""
        self._auth = cast(Any, _Tokens(self, exchange))

    def auth_message(self, kind: int, field: bytes) -> None:
        """Send a message of a GSSAPI authentication."""
        self.send_packet(kind, String(field))

    def auth_succeeded(self) -> None:
        """Answer USERAUTH_SUCCESS; the client may open channels from now on."""
        self._auth = self.ticket_context = None
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

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.front.connected(self)
        super().connection_made(transport)

    # -- authentication --------------------------------------------------------------------------------

    def _process_service_request(self, pkttype: int, pktid: int, packet: SSHPacket) -> None:
        if self._auth_in_progress and packet.get_remaining_payload() == String("ssh-userauth"):
            # Paramiko asks for it again before each attempt, which OpenSSH's server allows.
            self.send_packet(constants.MSG_SERVICE_ACCEPT, String("ssh-userauth"))
            return
        super()._process_service_request(pkttype, pktid, packet)

    def _process_userauth_request(self, _pkttype: int, _pktid: int, packet: SSHPacket) -> None:
        username = packet.get_string()
        service = packet.get_string()
        method = packet.get_string()
        if service != b"ssh-connection":
            raise DisconnectError(constants.DISC_SERVICE_NOT_AVAILABLE, "Unexpected service in auth request")
        if self._auth_complete:
            # RFC 4252 section 5.1: silently ignored until the client has received USERAUTH_SUCCESS.
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
        """The reply to a global request that does not concern forwarding; None means failure."""
        if name == b"keepalive@openssh.com":
            return b""
        if name == b"no-more-sessions@openssh.com":
            self._no_more_sessions = True
            return b""
        if name == b"hostkeys-prove-00@openssh.com":
            return self._prove(payload)
        return None

    def answer_request(self, answer: bytes | None) -> None:
        """Answer the oldest global request that wants a reply; None means failure."""
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
            # For an RSA key, the signature algorithm of the key exchange is used if that was RSA.
            signer = self._signer
            used = plain_name(signer.algorithm) if signer and signer.key is key else key.algorithms[0]
            # Cached: signatures are expensive, and a client may repeat the request.
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
        # A few channels get large windows, for throughput; their total is bounded.
        count = len(self._channels)
        return 1024 * (2048 if count < 4 else 256 if count < 16 else 64)

    def forward_channel(self, number: int | None = None, window: int = 0, packet_size: int = 0) -> AdapterChannel:
        """
        Create a channel for a forward requested by the client or, without *number*, one to be opened towards the
        client.

        Raises:
            asyncssh.ChannelOpenError: the connection is closed.
        """
        return AdapterChannel(self, self._loop, self._own_window, number, window, packet_size, is_forward=True)

    def refuse_channel(self, number: int, code: int, reason: str) -> None:
        """Answer the open request of the client's channel *number* with a failure (RFC 4254 section 5.1)."""
        self.send_channel_open_failure(number, code, reason, "")

    _packet_handlers = {  # noqa: RUF012  the library's own attribute
        **KexConnection._packet_handlers,
        constants.MSG_SERVICE_REQUEST: _process_service_request,
        constants.MSG_USERAUTH_REQUEST: _process_userauth_request,
        constants.MSG_GLOBAL_REQUEST: _process_global_request,
        constants.MSG_CHANNEL_OPEN: _process_channel_open,
        MSG_PING: _process_ping,
    }


__all__ = ["AdapterConnection", "AuthRequest", "ConnectionLost", "Offer", "prepare"]
