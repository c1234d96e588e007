"""Public keys: wire encoding (RFC 4253 section 6.6, RFC 5656, RFC 8709, OpenSSH's PROTOCOL.u2f) and text format."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re

from containerssh.keys.wire import Malformed, Reader, string

KEY_TYPES = frozenset(
    {
        "ssh-ed25519",
        "ssh-rsa",
        "ecdsa-sha2-nistp256",
        "ecdsa-sha2-nistp384",
        "ecdsa-sha2-nistp521",
        "sk-ssh-ed25519@openssh.com",
        "sk-ecdsa-sha2-nistp256@openssh.com",
    }
)
LEAST_RSA_BITS = 2048
MOST_RSA_BITS = 16384
"""The maximum of OpenSSH; larger keys only cost time."""
MOST_EXPONENT_BITS = 32
"""The usual exponent is 65537; a long one makes verification as expensive as signing."""

_POINT_BYTES = {"nistp256": 32, "nistp384": 48, "nistp521": 66}
_BLANKS = re.compile(r"[ \t]+")


def is_security_key(kind: str) -> bool:
    """Whether this type is of FIDO security keys, or of certificates for them."""
    return kind.startswith("sk-")


def read_fields(kind: str, reader: Reader) -> bytes:
    """
    Read the fields of a key of this type that follow its name, without validating them; return their encoding.

    Raises:
        Malformed: *kind* is not in :data:`KEY_TYPES`, or the data is truncated.
    """
    if kind not in KEY_TYPES:
        raise Malformed(f"{kind[:60]!r} is not a known type of key")
    count = 1 if "ed25519" in kind else 2
    return b"".join(string(reader.string()) for _ in range(count + is_security_key(kind)))


def check_public_key(blob: bytes) -> str:
    """
    Validate a key's wire encoding; return its type.

    Raises:
        Malformed: the type is unknown (or a certificate), the key is invalid, or the size of an RSA key is out of
            range.
    """
    reader = Reader(blob)
    kind = reader.string().decode("ascii", "replace")
    fields = Reader(read_fields(kind, reader))
    reader.end()
    plain = kind.partition("@")[0].removeprefix("sk-")
    if plain == "ssh-ed25519":
        good = len(fields.string()) == 32
    elif plain == "ssh-rsa":
        good = read_rsa(fields) >= LEAST_RSA_BITS
    else:
        curve, point = fields.string().decode("ascii", "replace"), fields.string()
        size = _POINT_BYTES.get(curve)
        good = plain == f"ecdsa-sha2-{curve}" and size is not None and len(point) == 1 + 2 * size and point[0] == 4
    if good and is_security_key(kind):
        good = bool(fields.string())
    if not good:
        raise Malformed(f"the key is no {kind} key" + (f" of {LEAST_RSA_BITS} bits or more" if "rsa" in kind else ""))
    return kind


def read_rsa(fields: Reader) -> int:
    """
    Validate the numbers of an RSA key; return the size of its modulus in bits.

    Raises:
        Malformed: the numbers are not valid, or verifying a signature would take too long.
    """
    exponent, modulus = fields.string(), fields.string()
    # Check lengths first: an untrusted number may have 256 KiB.
    if len(exponent) > 1 + MOST_EXPONENT_BITS // 8 or len(modulus) > 1 + MOST_RSA_BITS // 8:
        raise Malformed("the numbers of the RSA key are too long")
    numbers = Reader(string(exponent) + string(modulus))
    public, product = numbers.natural(), numbers.natural()
    if public < 3 or public.bit_length() > MOST_EXPONENT_BITS or product.bit_length() > MOST_RSA_BITS:
        raise Malformed("the numbers of the RSA key are too small or too long")
    if not public & product & 1:
        raise Malformed("the numbers of the RSA key are even, which no key's are")
    return product.bit_length()


def decode_key(kind: str, encoded: str) -> bytes:
    """
    The wire encoding of the key written as *kind* and *encoded* (base64).

    Raises:
        Malformed: the key is invalid; the message contains only the type.
    """
    try:
        blob = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise Malformed("the key is not in base64") from None
    if not _is_whole(kind, blob):
        raise Malformed(f"the key is not of the type {kind} that stands in front of it, or it is cut off")
    check_public_key(blob)
    return blob


def _is_whole(kind: str, blob: bytes) -> bool:
    reader = Reader(blob)
    try:
        named = reader.string()
        read_fields(kind, reader)
        reader.end()
    except Malformed:
        return False
    return named == kind.encode()


def parse_public_key(line: str) -> bytes | None:
    """
    The wire encoding of the key in a line ``type base64 comment``; None for an empty line or a comment.

    Raises:
        Malformed: the line contains no valid key.
    """
    line = line.strip(" \t\r\n")
    if not line or line.startswith("#"):
        return None
    kind, *rest = _BLANKS.split(line, 2)
    if kind not in KEY_TYPES or not rest:
        raise Malformed("there is no public key in it (a type such as ssh-ed25519, then base64)")
    return decode_key(kind, rest[0])


def fingerprint(blob: bytes) -> str:
    """``SHA256:`` and unpadded base64, as OpenSSH shows it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
