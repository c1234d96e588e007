"""A client that is as cheap as can be: it logs in with a key and leaves, again and again, from several processes.

It asks what OpenSSH's client asks: which methods there are, whether the key would do, and then with a signature. But it
does not look at the server's own signature, has one secret for all key exchanges, knows one algorithm of each kind, and
works on one connection at a time.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import struct
import time
from dataclasses import dataclass, field
from hashlib import sha256
from multiprocessing.synchronize import Barrier
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_private_key

VERSION = b"SSH-2.0-knocking"
_LIMIT = 20.0
_KEXINIT, _NEWKEYS, _SERVICE_REQUEST, _SERVICE_ACCEPT = 20, 21, 5, 6
_ECDH_INIT, _ECDH_REPLY = 30, 31
_REQUEST, _FAILURE, _SUCCESS, _BANNER, _PK_OK = 50, 51, 52, 53, 60
_ALGORITHMS = (
    b"curve25519-sha256,ext-info-c",
    b"ssh-ed25519",
    *[b"aes128-gcm@openssh.com"] * 2,
    *[b"hmac-sha2-256"] * 2,
    *[b"none"] * 2,
    *[b""] * 2,
)


@dataclass(frozen=True)
class Knocks:
    """What the clients achieved."""

    logins: int
    seconds: float
    own_cpu_seconds: float
    """Processor time of the clients."""

    @property
    def per_second(self) -> float:
        return self.logins / self.seconds


def knock(port: int, user: str, key: Path, *, clients: int, seconds: float, accepted: bool = True) -> Knocks:
    """
    Log in to 127.0.0.1 with *key* from *clients* processes, as often as they can in *seconds*.

    Raises:
        ConnectionError: the server decided otherwise than *accepted* says, or a connection broke.
    """
    context = multiprocessing.get_context("spawn")
    started = context.Barrier(clients + 1)
    results: multiprocessing.SimpleQueue[tuple[int, float]] = context.SimpleQueue()
    arguments = (port, user, key, seconds, accepted, started, results)
    processes = [context.Process(target=_work, args=arguments) for _ in range(clients)]
    for process in processes:
        process.start()
    started.wait()
    began = time.perf_counter()
    counts, spent = zip(*(results.get() for _ in processes), strict=True)
    took = time.perf_counter() - began
    for process in processes:
        process.join()
    if -1 in counts:
        raise ConnectionError("a login ended otherwise than it should")
    return Knocks(sum(counts), took, sum(spent))


def _work(
    port: int,
    user: str,
    key: Path,
    seconds: float,
    accepted: bool,
    started: Barrier,
    results: multiprocessing.SimpleQueue[tuple[int, float]],
) -> None:
    count = -1
    loaded = load_ssh_private_key(key.read_bytes(), None)
    assert isinstance(loaded, Ed25519PrivateKey)
    caller = _Caller(user.encode(), loaded)
    started.wait()
    before = time.process_time()
    try:
        until = time.monotonic() + seconds
        done = 0
        while time.monotonic() < until:
            with socket.create_connection(("127.0.0.1", port), _LIMIT) as sock:
                if _Connection(sock, caller).login() is not accepted:
                    return
            done += 1
        count = done
    finally:
        results.put((count, time.process_time() - before))


class _Caller:
    """What is the same in all of its connections, made once."""

    def __init__(self, user: bytes, key: Ed25519PrivateKey) -> None:
        self.key = key
        self.secret = X25519PrivateKey.generate()
        self.point = self.secret.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.algorithms = bytes([_KEXINIT]) + os.urandom(16) + b"".join(map(_text, _ALGORITHMS)) + bytes(5)
        self.head = bytes([_REQUEST]) + _text(user) + _text(b"ssh-connection")
        blob = _text(b"ssh-ed25519") + _text(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))
        self.question = _text(b"ssh-ed25519") + _text(blob)


@dataclass
class _Connection:
    """One connection to a server (RFC 4253, with AES-GCM as RFC 5647 and OpenSSH have it)."""

    sock: socket.socket
    caller: _Caller
    received: bytearray = field(default_factory=bytearray)
    sending: tuple[AESGCM, bytes, int] | None = None
    receiving: tuple[AESGCM, bytes, int] | None = None

    def login(self) -> bool:
        """Whether the server accepts the key."""
        head, question = self.caller.head, self.caller.question
        session_id = self._exchange_keys()
        self._send(bytes([_SERVICE_REQUEST]) + _text(b"ssh-userauth"))
        self._await(_SERVICE_ACCEPT)
        self._send(head + _text(b"none"))
        self._await(_FAILURE)
        self._send(head + _text(b"publickey") + b"\0" + question)
        if self._await(_PK_OK, _FAILURE)[0] == _FAILURE:
            return False
        signed = head + _text(b"publickey") + b"\1" + question
        signature = self.caller.key.sign(_text(session_id) + signed)
        self._send(signed + _text(_text(b"ssh-ed25519") + _text(signature)))
        return self._await(_SUCCESS, _FAILURE)[0] == _SUCCESS

    def _exchange_keys(self) -> bytes:
        """Begin encryption; the session id."""
        own, point = self.caller.algorithms, self.caller.point
        self.sock.sendall(VERSION + b"\r\n" + _framed(own, 8, 5))
        while b"\n" not in self.received:
            self._receive()
        version, _, rest = bytes(self.received).partition(b"\r\n")
        self.received[:] = rest
        theirs = self._read()
        self._send(bytes([_ECDH_INIT]) + _text(point))
        reply = self._await(_ECDH_REPLY)
        host_key, rest = _split(reply[1:])
        their_point, _ = _split(rest)
        shared = _integer(self.caller.secret.exchange(X25519PublicKey.from_public_bytes(their_point)))
        exchanged = b"".join(map(_text, (VERSION, version, own, theirs, host_key, point, their_point))) + shared
        session_id = sha256(exchanged).digest()
        self._await(_NEWKEYS)
        self._send(bytes([_NEWKEYS]))

        def derived(letter: bytes, length: int) -> bytes:
            return sha256(shared + session_id + letter + session_id).digest()[:length]

        self.sending = self._counting(derived(b"C", 16), derived(b"A", 12))
        self.receiving = self._counting(derived(b"D", 16), derived(b"B", 12))
        return session_id

    def _counting(self, key: bytes, nonce: bytes) -> tuple[AESGCM, bytes, int]:
        return AESGCM(key), nonce[:4], int.from_bytes(nonce[4:], "big")

    def _send(self, payload: bytes) -> None:
        if self.sending is None:
            self.sock.sendall(_framed(payload, 8, 5))
            return
        cipher, fixed, count = self.sending
        self.sending = cipher, fixed, (count + 1) % 2**64
        packet = _framed(payload, 16, 1)
        self.sock.sendall(packet[:4] + cipher.encrypt(fixed + count.to_bytes(8, "big"), packet[4:], packet[:4]))

    def _await(self, *kinds: int) -> bytes:
        """The payload of the next packet of one of *kinds*; others are passed over."""
        while True:
            payload = self._read()
            if payload[0] in kinds:
                return payload
            if payload[0] == 1:
                raise ConnectionError(f"the server disconnects: {payload!r}")

    def _read(self) -> bytes:
        tag = 16 if self.receiving else 0
        while len(self.received) < 4 or len(self.received) < self._length() + 4 + tag:
            self._receive()
        end = self._length() + 4 + tag
        head, body = bytes(self.received[:4]), bytes(self.received[4:end])
        del self.received[:end]
        if self.receiving is not None:
            cipher, fixed, count = self.receiving
            self.receiving = cipher, fixed, (count + 1) % 2**64
            body = cipher.decrypt(fixed + count.to_bytes(8, "big"), body, head)
        return body[1 : len(body) - body[0]]

    def _length(self) -> int:
        return int(struct.unpack_from(">I", self.received)[0])

    def _receive(self) -> None:
        data = self.sock.recv(65536)
        if not data:
            raise ConnectionError("the server closed the connection")
        self.received += data


def _framed(payload: bytes, block: int, uncounted: int) -> bytes:
    """A packet (RFC 4253 section 6); *uncounted* bytes of its head count for the block size."""
    padding = block - (len(payload) + uncounted) % block
    padding += block if padding < 4 else 0
    return struct.pack(">IB", 1 + len(payload) + padding, padding) + payload + bytes(padding)


def _text(value: bytes) -> bytes:
    return struct.pack(">I", len(value)) + value


def _integer(value: bytes) -> bytes:
    value = value.lstrip(b"\0")
    return _text(b"\0" + value if value[0] & 0x80 else value)


def _split(data: bytes) -> tuple[bytes, bytes]:
    length = struct.unpack_from(">I", data)[0]
    return data[4 : 4 + length], data[4 + length :]
