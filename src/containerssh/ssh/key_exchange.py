"""The key exchange of asyncssh's connection, adapted.

What differs from the library, and why:

* The time and the number of key exchanges are limited; host keys are not reloaded at each login.
* A host key signs with the algorithm negotiated in its own connection; the library stores it in an object shared by all
  connections.
* A guessed first packet of a key exchange is handled according to RFC 4253 section 7, or the ``kexguess2`` extension.
* Speed: clients of the same kind send the same lists, so the result of a negotiation is computed once, by the library,
  and cached.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

from asyncssh import constants
from asyncssh.connection import SSHServerConnection, SSHServerConnectionOptions
from asyncssh.kex import get_kex
from asyncssh.misc import DisconnectError, ProtocolError
from asyncssh.packet import SSHPacket, String
from asyncssh.public_key import SSHKeyPair

from containerssh.core.codes import SSHCode
from containerssh.ssh import presence
from containerssh.ssh.flow import FlowConnection
from containerssh.ssh.host_keys import HostKey
from containerssh.ssh.limits import Rekeyings
from containerssh.ssh.ticket_exchange import NAMES, TicketExchange

if TYPE_CHECKING:
    from containerssh.ssh.connection import Connection
    from containerssh.ssh.options import ServerOptions

_KEXGUESS2 = b"kexguess2@matt.ucc.asn.au"
_COOKIE = 16
# OpenSSH's lists take 1.5 KiB.
_REMEMBERED_BYTES = 4096
_REMEMBERED = 64


@dataclass(eq=False)
class _Signer:
    """A host key and the signature algorithm of one connection."""

    key: HostKey
    algorithm: str

    @property
    def public_data(self) -> bytes:
        return self.key.public_data(self.algorithm)

    def sign(self, data: bytes) -> bytes:
        return self.key.sign(data, self.algorithm)


@dataclass(frozen=True)
class _Agreement:
    """The result of a negotiation (RFC 4253 section 7.1)."""

    kex: bytes
    host_key: tuple[HostKey, str]
    ciphers: tuple[bytes, bytes]
    """Client to server, server to client; the next two likewise."""
    macs: tuple[bytes, bytes]
    compression: tuple[bytes, bytes]
    wrong_guess: bool
    """Whether the client's first key exchange packet is to be ignored."""
    extensions: bool
    """Whether the client accepts EXT_INFO (RFC 8308)."""
    strict: bool
    """Whether the client supports OpenSSH's strict key exchange."""


@dataclass
class _Remembered:
    """Results of earlier connections of a server that later ones reuse."""

    lists: bytes = b""
    """The server's own KEXINIT after the cookie."""
    agreements: dict[bytes, _Agreement] = field(default_factory=dict)
    """Negotiation results by the client's lists."""

    def add(self, lists: bytes, agreement: _Agreement) -> None:
        if len(lists) <= _REMEMBERED_BYTES:
            while len(self.agreements) >= _REMEMBERED:
                del self.agreements[next(iter(self.agreements))]
            self.agreements[lists] = agreement


@dataclass(frozen=True, eq=False)
class Offer:
    """The algorithms and host keys that a server offers to every client; created by :func:`prepare`."""

    library: SSHServerConnectionOptions
    keys: Mapping[bytes, HostKey]
    """Host keys by signature algorithm, those with a certificate first."""
    signatures: Sequence[bytes]
    """The signature algorithms accepted from clients."""
    announced: bytes
    """The host keys in the encoding of HOSTKEYS-00 (OpenSSH's PROTOCOL, section 2.5)."""
    certified: Mapping[bytes, HostKey]
    """Host keys by certificate algorithm, whether or not the certificate is currently valid."""
    remembered: _Remembered = field(default_factory=_Remembered)

    def at(self, now: float) -> Offer:
        """The same offer with only the certificates that are valid at *now*, in seconds since the epoch."""
        hold = {name: key for name, key in self.certified.items() if key.valid[0] <= now < key.valid[1]}
        offered = [name for name in self.keys if name in self.certified]
        if list(hold) == offered:
            return self
        plain = {name: key for name, key in self.keys.items() if name not in self.certified}
        return replace(self, keys=hold | plain, remembered=_Remembered())


async def prepare(
    options: ServerOptions,
    keys: Sequence[HostKey],
    kex: Sequence[str],
    ciphers: Sequence[str],
    macs: Sequence[str],
    signatures: Sequence[str],
) -> Offer:
    """Create the offer of a server with these options."""
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
    offer = Offer(
        library,
        {name.encode(): key for key in keys for name in key.algorithms},
        [name.encode() for name in signatures],
        b"".join(String(key.blob) for key in keys),
        {name.encode(): key for key in keys for name in key.certificate_algorithms},
    )
    return offer.at(time.time())


class KexConnection(FlowConnection):
    """The key exchanges of a TCP connection."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        offer: Offer,
        options: ServerOptions,
        front: Connection,
    ) -> None:
        super().__init__(loop, offer.library, options, front)
        self._offer = offer
        self._keys = offer.keys
        self._signer: _Signer | None = None
        self._server_host_key_algs = list(offer.keys)
        self._rekeyings: Rekeyings | None = None
        self._client_kex: Sequence[bytes] = ()
        self._client_guessed = False
        self._by_tickets = options.exchange_by_tickets
        self.ticket_context: object | None = None
        """The security context of the first key exchange, if it was a GSSAPI one, for authentication."""

    def _get_extra_kex_algs(self) -> list[bytes]:
        return [*super()._get_extra_kex_algs(), *(NAMES if self._by_tickets else ()), _KEXGUESS2]

    def _process_kexinit(self, pkttype: int, pktid: int, packet: SSHPacket) -> Any:
        if self._session_id and not self._auth_complete:
            # An unauthenticated client could make the server compute signatures during the whole login grace time.
            raise DisconnectError(constants.DISC_PROTOCOL_ERROR, "Another key exchange before the login")
        if self._session_id and not self._kexinit_sent:
            self._client_rekeys()
        lists = packet.get_full_payload()[1 + _COOKIE :]
        agreement = None if self._session_id else self._offer.remembered.agreements.get(lists)
        if agreement is not None:
            self._agree(agreement, packet)
            return
        # Parsed here as well, so that errors are found before the library acts on it.
        copy = SSHPacket(lists)
        self._client_kex, _, to_us, to_client = (copy.get_namelist() for _ in range(4))
        for _ in range(6):
            copy.get_string()
        self._client_guessed = copy.get_boolean()
        copy.get_uint32()
        copy.check_end()
        # A client without common algorithms detects this as well and disconnects.
        self._choose_alg("key exchange", self._kex_algs, self._client_kex)
        self._choose_alg("encryption", self._enc_algs, to_us)
        self._choose_alg("encryption", self._enc_algs, to_client)
        first = not self._session_id
        _run_through(super()._process_kexinit(pkttype, pktid, packet))
        if self._by_tickets and self._exchanges_by_ticket():
            return
        if first:
            self._remember(lists)

    def _exchanges_by_ticket(self) -> bool:
        """
        Whether the client prefers a GSSAPI key exchange to the method that the library, which does not know these
        methods, has chosen; if so, the GSSAPI exchange is begun.
        """
        name = next((name for name in self._client_kex if name in (*NAMES, *self._kex_algs)), b"")
        if name not in NAMES:
            return False
        if self._signer is None:
            raise DisconnectError(constants.DISC_KEY_EXCHANGE_FAILED, "Unable to find compatible server host key")
        self._kex = TicketExchange(name, self)
        if _KEXGUESS2 in self._client_kex:
            self._ignore_first_kex = self._client_guessed and self._client_kex[0] != name
        return True

    @property
    def left(self) -> bool:
        """Whether the connection has ended or is being closed."""
        return self._transport is None

    def keys_exchanged(self, context: object) -> None:
        """A GSSAPI key exchange is complete; keep its security *context*."""
        if not self._session_id:
            self.ticket_context = context

    def _remember(self, lists: bytes) -> None:
        assert self._kex is not None
        assert self._signer is not None
        agreement = _Agreement(
            self._kex.algorithm,
            (self._signer.key, self._signer.algorithm),
            (self._enc_alg_cs, self._enc_alg_sc),
            (self._mac_alg_cs, self._mac_alg_sc),
            (self._cmp_alg_cs, self._cmp_alg_sc),
            self._ignore_first_kex,
            self._can_send_ext_info,
            self._strict_kex,
        )
        self._offer.remembered.add(lists, agreement)

    def _agree(self, agreement: _Agreement, packet: SSHPacket) -> None:
        """Apply the cached result of a negotiation with the same lists, for a connection's first key exchange."""
        if self._kex:
            raise ProtocolError("Key exchange already in progress")
        if agreement.strict and self._recv_seq != 0:
            raise ProtocolError("Strict key exchange violation: KEXINIT was not the first packet")
        self._client_kexinit = packet.get_full_payload()
        # Already sent together with the version.
        self._kexinit_sent = False
        self._can_send_ext_info = agreement.extensions
        self._strict_kex = agreement.strict
        self._signer = _Signer(*agreement.host_key)
        self._enc_alg_cs, self._enc_alg_sc = agreement.ciphers
        self._mac_alg_cs, self._mac_alg_sc = agreement.macs
        self._cmp_alg_cs, self._cmp_alg_sc = agreement.compression
        self._kex = get_kex(self, agreement.kex)
        self._ignore_first_kex = agreement.wrong_guess

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
        # The key exchange needs only the public key and a signature.
        return cast("SSHKeyPair | None", self._signer)

    def _send_version(self) -> None:
        super()._send_version()
        # Without waiting for the client's version: that saves it a round trip (RFC 4253 section 4.2).
        self._send_kexinit()
        self._kexinit_sent = True

    def _send_kexinit(self) -> None:
        if self._kexinit_sent:
            return
        if lists := self._offer.remembered.lists:
            self._kex_complete = False
            self._rekey_bytes_sent = 0
            self._rekey_time = time.monotonic() + self._rekey_seconds
            kexinit = os.urandom(_COOKIE) + lists
            self._server_kexinit = bytes((constants.MSG_KEXINIT,)) + kexinit
            self.send_packet(constants.MSG_KEXINIT, kexinit)
        else:
            super()._send_kexinit()
            self._offer.remembered.lists = self._server_kexinit[1 + _COOKIE :]
        if self._auth_complete and self._rekey_timer is None:
            self._rekey_timer = self._loop.call_later(self._limits.rekey.total_seconds(), self._rekey_too_slow)

    def _rekey_too_slow(self) -> None:
        self.front.limit_reached(SSHCode.LIMIT_REKEY, "The client does not finish the key exchange")
        self.end("The key exchange took too long", constants.DISC_KEY_EXCHANGE_FAILED)

    def send_newkeys(self, k: bytes, h: bytes) -> None:
        super().send_newkeys(k, h)
        # Free what only the key exchange needed.
        self._client_kexinit = self._server_kexinit = b""
        self._client_kex = ()
        self._extensions_to_send.clear()
        # An IGNORE packet protects the predictable IV of CBC (RFC 4253 section 9.3.1).
        self._quiet = not self._enc_alg_sc.endswith(b"-cbc")
        if self._rekey_timer:
            self._rekey_timer.cancel()
            self._rekey_timer = None
        if self.ready:
            self._flush_channels()

    _packet_handlers = {  # noqa: RUF012  the library's own attribute
        **SSHServerConnection._packet_handlers,
        constants.MSG_KEXINIT: _process_kexinit,
    }


def _run_through(work: Coroutine[Any, Any, None]) -> None:
    """
    Run a coroutine that never suspends, without a task: the library's key exchange methods of a server never wait.
    """
    try:
        work.send(None)
    except StopIteration:
        return
    work.close()
    raise RuntimeError("the key exchange waits for something")
