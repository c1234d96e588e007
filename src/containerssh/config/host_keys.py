"""Private SSH keys in the configuration: whether they can be used at all."""

from __future__ import annotations

import base64
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_ssh_private_key,
)

from containerssh.config.pem import read_pem, read_text
from containerssh.keys.certificate import Certificate, is_certificate, parse_certificate

_KINDS = (rsa.RSAPrivateKey, ed25519.Ed25519PrivateKey, ec.EllipticCurvePrivateKey)
SHORTEST_RSA = 2048


def check_private_key(value: str) -> None:
    """
    Look at a private key, which is PEM text or the name of a file.

    Raises:
        ValueError: it cannot be read, is encrypted, or is of a kind that no client should accept.
    """
    text = read_pem(value)
    key = _load(text.encode())
    if not isinstance(key, _KINDS):
        raise ValueError("unsupported host key algorithm; use Ed25519, ECDSA or RSA")
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size < SHORTEST_RSA:
        raise ValueError(f"an RSA key of {key.key_size} bits is too short; clients want {SHORTEST_RSA} at least")


def public_half(value: str) -> bytes:
    """
    The wire encoding of the public half of a private key, which is PEM text or the name of a file.

    Raises:
        ValueError: it cannot be read, or is encrypted.
    """
    key = _load(read_pem(value).encode())
    text = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return base64.b64decode(text.split()[1])


def read_host_certificate(value: str) -> tuple[bytes, Certificate]:
    """
    A host's certificate, which is its text or the name of a file: its wire encoding, and what it says.

    Raises:
        ValueError: it cannot be read, or is none, or a user's.
    """
    text = value if is_certificate(value.strip().partition(" ")[0]) else read_text(value.strip())
    blob, certificate = parse_certificate(text)
    if certificate.kind != "host":
        raise ValueError("this is a user's certificate; ssh-keygen makes a host's with -h")
    return blob, certificate


def _load(pem: bytes) -> Any:
    load = load_ssh_private_key if b"BEGIN OPENSSH" in pem else load_pem_private_key
    try:
        return load(pem, password=None)
    except TypeError as exc:
        raise ValueError("the key is encrypted; a host key must not have a passphrase") from exc
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise ValueError(f"this is not a usable private key: {exc}") from exc
