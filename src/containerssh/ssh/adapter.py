"""asyncssh's connection, bent to our needs: what clients ask for. How bytes flow is :mod:`containerssh.ssh.flow`'s.

What is changed, and why:

* Authentication and global requests are ours: the library would answer before a handler was asked, and would mix the
  names of attempts.
* A limit on the time and the number of key exchanges; no rereading of host keys at each login.
* A host key signs with the algorithm agreed in its own connection; the library keeps it in an object shared by all.
* A guessed first packet of a key exchange is judged as RFC 4253 section 7 says, or as the ``kexguess2`` extension says.

:mod:`containerssh.ssh.selfcheck` refuses a library that lacks what is overridden here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from asyncssh import constants
from asyncssh.connection import SSHServerConnection, SSHServerConnectionOptions
from asyncssh.misc import ConnectionLost, DisconnectError
from asyncssh.packet import Boolean, NameList, SSHPacket, String, UInt32
from asyncssh.public_key import SSHKeyPair

from containerssh.core.codes import SSHCode
from containerssh.ssh import presence
from containerssh.ssh.channel_adapter import PACKET_MIN, AdapterChannel
from containerssh.ssh.flow import FlowConnection
from containerssh.ssh.host_keys import HostKey
from containerssh.ssh.limits import Rekeyings

if TYPE_CHECKING:
    from containerssh.ssh.connection import Connection
    from containerssh.ssh.gssapi import Exchange
    from containerssh.ssh.options import ServerOptions

logger = logging.getLogger(__name__)

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


class _Tokens(_Answers):
    """The same for the messages of a GSSAPI exchange (RFC 4462 section 3)."""

    def __init__(self, connection: AdapterConnection, exchange: Exchange) -> None:
        super().__init__(connection)
        self._exchange = exchange

    def process_packet(self, pkttype: int, _pktid: int, packet: SSHPacket) -> bool:
        return self._exchange.received(pkttype, packet)


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


class AdapterConnection(FlowConnection):
    """A TCP connection; :attr:`front` is told what the client asks, and answers with the methods of the first part."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        offer: Offer,
        options: ServerOptions,
        front: Connection,
    ) -> None:
        super().__init__(loop, offer.library, options, front)
        self._offer = offer
        self._gss = None
        self._keys = offer.keys
        self._signer: _Signer | None = None
        self._server_host_key_algs = offer.algorithms
        self._sig_algs = offer.signatures
        self._extensions_to_send[b"ping@openssh.com"] = b"0"

        self._rekeyings: Rekeyings | None = None
        self._client_kex: Sequence[bytes] = ()
        self._client_guessed = False
        self._no_more_sessions = False
        self._proofs: dict[tuple[HostKey, str], bytes] = {}

    # -- what the front calls -------------------------------------------------------------------

    @property
    def session_id(self) -> bytes:
        """The hash of the first key exchange, which signatures of this connection cover."""
        return self._session_id

    @property
    def client_version(self) -> str:
        """The client's identification string; empty before it came."""
        return str(self.get_extra_info("client_version", ""))

    def auth_failed(self, methods: Sequence[str], *, partial: bool = False) -> None:
        """The last request failed, or was right and is not enough (*partial*); *methods* can continue."""
        self._auth = None
        names = NameList([name.encode() for name in methods])
        self.send_packet(constants.MSG_USERAUTH_FAILURE, names, Boolean(partial))

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

    def auth_gssapi(self, exchange: Exchange) -> None:
        """Messages of a GSSAPI authentication are for *exchange*, until the request is answered or another comes."""
        self._auth = cast(Any, _Tokens(self, exchange))

    def auth_message(self, kind: int, field: bytes) -> None:
        """Send a message of a GSSAPI authentication."""
        self.send_packet(kind, String(field))

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

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.front.connected(self)
        super().connection_made(transport)

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
        constants.MSG_SERVICE_REQUEST: _process_service_request,
        constants.MSG_USERAUTH_REQUEST: _process_userauth_request,
        constants.MSG_GLOBAL_REQUEST: _process_global_request,
        constants.MSG_CHANNEL_OPEN: _process_channel_open,
        _MSG_PING: _process_ping,
    }


__all__ = ["AdapterConnection", "AuthRequest", "ConnectionLost", "Offer", "prepare"]
