"""GSSAPI key exchange with Kerberos (RFC 4462 section 2, RFC 8732): the server authenticates by the client's ticket."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from hashlib import sha256
from typing import Any, cast

from asyncssh import constants
from asyncssh.crypto import ECDH, Curve25519DH
from asyncssh.kex_dh import _KexECDH
from asyncssh.misc import DisconnectError, ProtocolError
from asyncssh.packet import Boolean, SSHPacket, String, UInt32

from containerssh.core.errors import AuthFailed, AuthUnavailable

_INIT, _COMPLETE, _ERROR = 30, 32, 34
_FAILURE = 13 << 16
"""GSS_S_FAILURE (RFC 2744 section 3.9.1)."""
# Base64 of the MD5 of the mechanism's OID, 1.2.840.113554.1.2.2 in DER (RFC 4462 section 2).
_MECHANISM = b"toWM5Slw5Ew8Mqkay+al2g=="
_CURVES: Mapping[bytes, tuple[Any, ...]] = {
    b"gss-curve25519-sha256-" + _MECHANISM: (Curve25519DH,),
    b"gss-nistp256-sha256-" + _MECHANISM: (ECDH, b"nistp256"),
}
NAMES: Sequence[bytes] = tuple(_CURVES)
"""The key exchange methods; finite-field groups are excluded, as elsewhere."""


class TicketExchange(_KexECDH):
    """The server's side of one key exchange."""

    def __init__(self, name: bytes, connection: Any) -> None:
        super().__init__(name, connection, sha256, *_CURVES[name])
        self._begun = False

    def _process_ticket(self, _pkttype: int, _pktid: int, packet: SSHPacket) -> Coroutine[Any, Any, None]:
        token = packet.get_string()
        self._parse_client_key(packet)
        packet.check_end()
        if self._begun:
            raise ProtocolError("A second ticket in one key exchange")
        self._begun = True
        return self._exchange(token)

    async def _exchange(self, token: bytes) -> None:
        connection = cast(Any, self._conn)
        secret = self._compute_server_shared()
        # No host key, which is optional: OpenSSH's client in Debian 12 aborts if it receives one.
        digest = self._compute_hash(b"", secret)
        try:
            exchanged = await connection.front.exchange_keys(token, digest)
        except (AuthFailed, AuthUnavailable) as exc:
            text = "The ticket was not accepted" if isinstance(exc, AuthFailed) else "Tickets cannot be judged now"
            if connection.left:
                return
            self.send_packet(_ERROR, UInt32(_FAILURE), UInt32(0), String(text), String("en"))
            raise DisconnectError(constants.DISC_KEY_EXCHANGE_FAILED, text) from exc
        if connection.left:
            return
        answer = Boolean(True) + String(exchanged.token) if exchanged.token else Boolean(False)
        self.send_packet(_COMPLETE, self._format_server_key(), String(exchanged.code), answer)
        connection.keys_exchanged(exchanged.context)
        connection.send_newkeys(secret, digest)

    _packet_handlers: Mapping[int, Callable[..., Any]] = {_INIT: _process_ticket}
