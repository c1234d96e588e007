"""Time-based one-time codes (RFC 6238): what they are computed from, and how the users file writes it."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

SHORTEST_SECRET = 16
"""Bytes (RFC 4226 section 4, R6)."""

_ALGORITHMS = {"SHA1": "sha1", "SHA256": "sha256", "SHA512": "sha512"}
_LONGEST_TEXT = 1024


@dataclass(frozen=True)
class TOTP:
    """What a code is computed from."""

    secret: bytes = field(repr=False)
    algorithm: str = "sha1"
    digits: int = 6
    period: int = 30
    """Seconds of a step."""

    def code(self, step: int) -> str:
        """The code of a step (RFC 4226 section 5.3)."""
        digest = hmac.digest(self.secret, step.to_bytes(8, "big"), self.algorithm)
        start = digest[-1] & 15
        number = int.from_bytes(digest[start : start + 4], "big") & 0x7FFFFFFF
        return str(number % 10**self.digits).zfill(self.digits)

    def steps(self, code: str, now: float, drift: int) -> list[int]:
        """
        The steps around *now* (seconds of the epoch) that *code* belongs to; the same time for every code. The client's
        clock may be *drift* steps ahead or behind (RFC 6238 section 5.2).
        """
        given = code.encode("utf-8", "replace")
        current = int(now) // self.period
        around = range(max(0, current - drift), current + drift + 1)
        return [step for step in around if hmac.compare_digest(self.code(step).encode(), given)]

    @property
    def name(self) -> bytes:
        """Stands for the secret where codes are remembered."""
        return hashlib.blake2b(self.secret, digest_size=16, person=b"containersshTOTP").digest()


def parse_totp(text: str) -> TOTP:
    """
    A secret in base32, or a key URI as authenticator apps read it (``otpauth://totp/...?secret=...``).

    Raises:
        ValueError: it is neither, or too weak; the text does not show it.
    """
    if len(text) > _LONGEST_TEXT:
        raise ValueError("it is too long")
    if not text.startswith("otpauth:"):
        return TOTP(_secret(text))
    try:
        parts = urlsplit(text)
        values = parse_qs(parts.query, keep_blank_values=True, max_num_fields=16)
    except ValueError:
        raise ValueError("it is not a key URI") from None
    if parts.netloc.lower() != "totp":
        raise ValueError("the key URI is not of the kind totp")
    if any(len(found) > 1 for found in values.values()):
        raise ValueError("the key URI says something twice")
    said = {key: found[0] for key, found in values.items()}
    algorithm = said.get("algorithm", "SHA1").upper()
    digits, period = said.get("digits", "6"), said.get("period", "30")
    if algorithm not in _ALGORITHMS:
        raise ValueError("the algorithm is none of SHA1, SHA256 and SHA512")
    if digits not in ("6", "7", "8"):
        raise ValueError("a code has 6, 7 or 8 digits")
    if period not in ("15", "30", "60"):
        raise ValueError("the period is none of 15, 30 and 60 seconds")
    return TOTP(_secret(said.get("secret", "")), _ALGORITHMS[algorithm], int(digits), int(period))


def _secret(text: str) -> bytes:
    plain = text.replace(" ", "").replace("-", "").rstrip("=").upper()
    try:
        secret = base64.b32decode(plain + "=" * (-len(plain) % 8))
    except (binascii.Error, ValueError):
        raise ValueError("the secret is not in base32") from None
    if len(secret) < SHORTEST_SECRET:
        raise ValueError(f"the secret has fewer than {8 * SHORTEST_SECRET} bits")
    return secret
