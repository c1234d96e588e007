"""Verification of signatures (RFC 4253 section 6.6, RFC 8332, RFC 5656, RFC 8709, OpenSSH's PROTOCOL.u2f)."""

from __future__ import annotations

import hashlib

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from containerssh.keys.public import check_public_key, is_security_key
from containerssh.keys.wire import Malformed, Reader

TOUCHED = 0x01
"""Flag of a security key's signature: the user touched it (user presence)."""
VERIFIED = 0x04
"""Flag: the user was verified by a PIN or a fingerprint (user verification)."""

_RSA: dict[bytes, hashes.HashAlgorithm] = {b"rsa-sha2-256": hashes.SHA256(), b"rsa-sha2-512": hashes.SHA512()}
_CURVES: dict[bytes, tuple[ec.EllipticCurve, hashes.HashAlgorithm]] = {
    b"nistp256": (ec.SECP256R1(), hashes.SHA256()),
    b"nistp384": (ec.SECP384R1(), hashes.SHA384()),
    b"nistp521": (ec.SECP521R1(), hashes.SHA512()),
}


def verify(blob: bytes, message: bytes, signature: bytes) -> None:
    """
    Verify that *signature* is a signature of *message* by the key with the wire encoding *blob*. SHA-1 signatures are
    refused. The flags of security keys are not checked.

    Raises:
        Malformed: the signature is invalid, or :func:`check_public_key` does not accept the key.
    """
    kind = check_public_key(blob)
    fields, signed = Reader(blob), Reader(signature)
    fields.string()
    algorithm, proof = signed.string(), signed.string()
    if algorithm not in (_RSA if kind == "ssh-rsa" else {kind.encode()}):
        raise Malformed(f"signatures with {algorithm[:60].decode('ascii', 'replace')!r} by a key {kind} do not count")
    try:
        if kind == "ssh-rsa":
            exponent, modulus = fields.natural(), fields.natural()
            rsa.RSAPublicNumbers(exponent, modulus).public_key().verify(
                proof, message, padding.PKCS1v15(), _RSA[algorithm]
            )
        else:
            curve = b"" if "ed25519" in kind else fields.string()
            point = fields.string()
            if is_security_key(kind):
                said = signed.byte().to_bytes(1, "big") + signed.uint32().to_bytes(4, "big")
                message = hashlib.sha256(fields.string()).digest() + said + hashlib.sha256(message).digest()
            if curve:
                _verify_ecdsa(curve, point, proof, message)
            else:
                ed25519.Ed25519PublicKey.from_public_bytes(point).verify(proof, message)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError) as exc:
        raise exc if isinstance(exc, Malformed) else Malformed("the signature is wrong") from None
    signed.end()


def flags_of(signature: bytes) -> int:
    """
    The flags of a security key's signature, which must have been verified.

    Raises:
        Malformed: the signature has no flags.
    """
    fields = Reader(signature)
    fields.string(), fields.string()
    return fields.byte()


def _verify_ecdsa(curve: bytes, point: bytes, proof: bytes, message: bytes) -> None:
    group, digest = _CURVES[curve]
    numbers = Reader(proof)
    encoded = encode_dss_signature(numbers.natural(), numbers.natural())
    numbers.end()
    ec.EllipticCurvePublicKey.from_encoded_point(group, point).verify(encoded, message, ec.ECDSA(digest))
