"""Keys and certificates that are kept in memory only, for connections between peers that know each other's."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

_SKEW = timedelta(hours=1)
_LIFE = timedelta(days=3650)


@dataclass(frozen=True)
class Identity:
    """A key and its self-signed certificate."""

    certificate: bytes
    """DER."""
    key: bytes = field(repr=False)
    """PKCS #8, DER."""
    pem: bytes = field(repr=False)
    """Both."""

    @classmethod
    def new(cls) -> Identity:
        """Create a new identity; takes a fifth of a millisecond."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "containerssh")])
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _SKEW)
            .not_valid_after(now + _LIFE)
            .sign(key, SHA256())
        )
        form, secret = PrivateFormat.PKCS8, NoEncryption()
        pem = key.private_bytes(Encoding.PEM, form, secret) + certificate.public_bytes(Encoding.PEM)
        return cls(certificate.public_bytes(Encoding.DER), key.private_bytes(Encoding.DER, form, secret), pem)


def server_context(own: Identity, peer: Identity) -> ssl.SSLContext:
    """A context for a server with the identity *own* that accepts only *peer*: TLS 1.3, without session resumption."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    # All ciphers of TLS 1.3 are secure; the agent prefers the one that is fastest on its machine.
    context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    # The ssl module reads keys from files only; this file is in memory.
    descriptor = os.memfd_create("identity")
    try:
        os.write(descriptor, own.pem)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=peer.certificate)
    return context
