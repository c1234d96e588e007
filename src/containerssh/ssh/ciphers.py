"""AES-GCM and ChaCha20-Poly1305, which most clients use, with fewer copies.

asyncssh copies a packet five times on its way through a cipher, and creates three cipher objects for each ChaCha20
packet. Here a packet is encrypted or decrypted with one copy, and small cipher objects are reused. The wire format is
the same: AES-GCM as in RFC 5647, ChaCha20-Poly1305 as in OpenSSH's PROTOCOL.chacha20poly1305.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque

from asyncssh.crypto import GCMCipher
from asyncssh.crypto.chacha import ChachaCipher
from asyncssh.encryption import ChachaEncryption, Encryption, GCMEncryption
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.poly1305 import Poly1305

TAG = 16
"""Bytes of the authentication tag behind each packet."""
_POLY1305_KEY = bytes(32)
_COUNTER_0 = bytes(8)
_COUNTER_1 = b"\1" + bytes(7)
_KEPT_OBJECTS = 16


class PacketCipher(Encryption):
    """
    The cipher of one direction of a connection, from one NEWKEYS to the next.

    The library's own three methods remain for packets that the library handles itself.
    """

    def __init__(self) -> None:
        self._opened: bytes | None = None

    @abstractmethod
    def seal(self, seq: int, header: bytes, packet: bytes) -> tuple[bytes, ...]:
        """Encrypt *packet* (padding length, payload, padding) into the pieces to send; *header* is its length field."""

    @abstractmethod
    def length(self, seq: int, header: bytes) -> int:
        """The packet length in the four bytes *header*; not yet authenticated."""

    @abstractmethod
    def open(self, seq: int, header: bytes, rest: memoryview) -> bytes | None:
        """
        Decrypt the packet whose encrypted length is *header*; *rest* ends with the tag. None if authentication fails.
        """

    def give_back(self, packet: bytes) -> None:
        """Make the next call of :meth:`decrypt_packet` return *packet*, which is already decrypted."""
        self._opened = packet

    def encrypt_packet(self, seq: int, header: bytes, packet: bytes) -> tuple[bytes, bytes]:
        return b"".join(self.seal(seq, header, packet)), b""

    def decrypt_header(self, seq: int, first_block: bytes, header_len: int) -> tuple[bytes, bytes]:
        return first_block, self.length(seq, first_block[:header_len]).to_bytes(4, "big")

    def decrypt_packet(self, seq: int, first: bytes, rest: bytes, header_len: int, mac: bytes) -> bytes | None:
        if self._opened is not None:
            opened, self._opened = self._opened, None
            return opened
        return self.open(seq, first[:header_len], memoryview(first[header_len:] + rest + mac))


class AesGcm(PacketCipher):
    """AES-GCM; the nonce counts packets since the key exchange."""

    def __init__(self, key: bytes, iv: bytes) -> None:
        super().__init__()
        self._key = key
        self._object: AESGCM | None = None
        self._fixed = iv[:4]
        self._count = int.from_bytes(iv[4:], "big")

    def _make(self) -> AESGCM:
        """Create the cipher object. Only recently used directions keep theirs, since each takes 2.5 KiB."""
        made = self._object = AESGCM(self._key)
        _kept.append(self)
        if len(_kept) > _KEPT_OBJECTS:
            _kept.popleft()._object = None
        return made

    def seal(self, seq: int, header: bytes, packet: bytes) -> tuple[bytes, ...]:
        count = self._count
        self._count = (count + 1) & 0xFFFFFFFFFFFFFFFF
        return header, (self._object or self._make()).encrypt(self._fixed + count.to_bytes(8, "big"), packet, header)

    def length(self, seq: int, header: bytes) -> int:
        return int.from_bytes(header, "big")

    def open(self, seq: int, header: bytes, rest: memoryview) -> bytes | None:
        count = self._count
        self._count = (count + 1) & 0xFFFFFFFFFFFFFFFF
        try:
            return (self._object or self._make()).decrypt(self._fixed + count.to_bytes(8, "big"), rest, header)
        except InvalidTag:
            return None


_kept: deque[AesGcm] = deque()


class ChaChaPoly(PacketCipher):
    """ChaCha20-Poly1305; the nonce is the packet's sequence number."""

    def __init__(self, key: bytes, length_key: bytes) -> None:
        super().__init__()
        start = bytes(16)
        self._stream = Cipher(ChaCha20(key, start), mode=None).encryptor()
        self._lengths = Cipher(ChaCha20(length_key, start), mode=None).encryptor()

    def _tag_key(self, nonce: bytes) -> bytes:
        self._stream.reset_nonce(_COUNTER_0 + nonce)
        return self._stream.update(_POLY1305_KEY)

    def _crypt_length(self, nonce: bytes, header: bytes) -> bytes:
        self._lengths.reset_nonce(_COUNTER_0 + nonce)
        return self._lengths.update(header)

    def seal(self, seq: int, header: bytes, packet: bytes) -> tuple[bytes, ...]:
        nonce = seq.to_bytes(8, "big")
        tag = Poly1305(self._tag_key(nonce))
        header = self._crypt_length(nonce, header)
        self._stream.reset_nonce(_COUNTER_1 + nonce)
        packet = self._stream.update(packet)
        tag.update(header)
        tag.update(packet)
        return header, packet, tag.finalize()

    def length(self, seq: int, header: bytes) -> int:
        return int.from_bytes(self._crypt_length(seq.to_bytes(8, "big"), header), "big")

    def open(self, seq: int, header: bytes, rest: memoryview) -> bytes | None:
        nonce = seq.to_bytes(8, "big")
        packet = rest[:-TAG]
        tag = Poly1305(self._tag_key(nonce))
        tag.update(header)
        tag.update(packet)
        try:
            tag.verify(bytes(rest[-TAG:]))
        except InvalidSignature:
            return None
        self._stream.reset_nonce(_COUNTER_1 + nonce)
        return self._stream.update(packet)


def keep_state(encryption: Encryption | None) -> Encryption | None:
    """
    A :class:`PacketCipher` that continues from the state of the library's object; other ciphers are returned unchanged.
    """
    cipher = getattr(encryption, "_cipher", None)
    if isinstance(encryption, GCMEncryption) and isinstance(cipher, GCMCipher):
        return AesGcm(cipher._key, cipher._iv)
    if isinstance(encryption, ChachaEncryption) and isinstance(cipher, ChachaCipher):
        return ChaChaPoly(cipher._key, cipher._adkey)
    return encryption
