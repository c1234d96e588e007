"""Private SSH keys in the configuration: whether they can be used at all."""

from __future__ import annotations

from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_ssh_private_key

from containerssh.config.pem import read_pem

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


def _load(pem: bytes) -> Any:
    load = load_ssh_private_key if b"BEGIN OPENSSH" in pem else load_pem_private_key
    try:
        return load(pem, password=None)
    except TypeError as exc:
        raise ValueError("the key is encrypted; host keys have no passphrase") from exc
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise ValueError(f"this is no usable private key: {exc}") from exc
