"""Validation of ID tokens: signature, audience, times, nonce (OpenID Connect Core 1.0 section 3.1.3.7)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from joserfc import jwk, jws
from joserfc.errors import JoseError

from containerssh.core.codes import OAuth2Code
from containerssh.core.errors import AuthUnavailable

CLOCK_SKEW = 60.0
"""The permitted difference between the provider's clock and the server's, in seconds."""

_KINDS = {
    **{
        f"{family}{bits}": kind
        for family, kind in (("RS", "RSA"), ("PS", "RSA"), ("ES", "EC"))
        for bits in (256, 384, 512)
    },
    "EdDSA": "OKP",
    "Ed25519": "OKP",
}
"""The accepted algorithms and their key types: none with a shared secret, and not ``none``."""

_LATEST = 1e15
_KEYS_TRIED = 8
_MOST_KEYS = 100
# The hash functions for at_hash, by the token's algorithm; undefined for EdDSA (Core section 3.1.3.6).
_HASHES = {"256": hashlib.sha256, "384": hashlib.sha384, "512": hashlib.sha512}


@dataclass(frozen=True)
class Header:
    """A token's header, which names the algorithm and key; it is untrusted."""

    algorithm: str
    key_id: str | None

    @classmethod
    def of(cls, token: str) -> Header:
        """
        Parse the header of *token*. Raises AuthUnavailable if it is not a signed token, or uses an unaccepted
        algorithm.
        """
        try:
            first, _, _ = token.split(".")
            fields = json.loads(base64.urlsafe_b64decode(first + "=" * (-len(first) % 4)))
        except (ValueError, RecursionError):
            raise invalid("it is not a signed JSON Web Token") from None
        if not isinstance(fields, dict):
            raise invalid("it is not a signed JSON Web Token")
        algorithm, key_id = fields.get("alg"), fields.get("kid")
        if not isinstance(algorithm, str) or algorithm not in _KINDS:
            raise invalid(f"the algorithm {str(algorithm)[:20]!r} is not accepted")
        return cls(algorithm, key_id if isinstance(key_id, str) else None)


@dataclass(frozen=True)
class Expected:
    """The expected claims of an ID token."""

    issuer: str
    audience: str
    nonce: str | None
    """None if no nonce was sent (device flow)."""
    access_token: str


def candidates(keys: Sequence[Mapping[str, object]], header: Header) -> list[Mapping[str, object]]:
    """The provider's *keys* (RFC 7517) that may have signed the token."""
    found = [
        key
        for key in keys[:_MOST_KEYS]
        if key.get("kty") == _KINDS[header.algorithm]
        and key.get("use", "sig") == "sig"
        and key.get("alg", header.algorithm) == header.algorithm
        and (header.key_id is None or key.get("kid", header.key_id) == header.key_id)
    ]
    return found[:_KEYS_TRIED]


def verified_claims(
    token: str, keys: Sequence[Mapping[str, object]], expected: Expected, *, now: float
) -> Mapping[str, object]:
    """
    Verify the signature of *token* by one of *keys*, and its claims; return them. *now* is in seconds since the epoch.

    Raises:
        AuthUnavailable: the token is invalid.
    """
    header = Header.of(token)
    for key in candidates(keys, header):
        payload = _payload(token, key, header.algorithm)
        if payload is not None:
            claims = _claims(payload)
            _check(claims, expected, now)
            _check_access_token(claims, header.algorithm, expected.access_token)
            return claims
    raise invalid("its signature is by none of the provider's keys")


def _payload(token: str, key: Mapping[str, object], algorithm: str) -> bytes | None:
    registry = jws.JWSRegistry(algorithms=[algorithm], strict_check_header=False)
    try:
        with warnings.catch_warnings():
            # The library warns about deprecated algorithms and short keys; but it is the provider that has chosen them.
            warnings.simplefilter("ignore")
            imported = jwk.import_key({name: value for name, value in key.items() if isinstance(value, str)})
            return jws.deserialize_compact(token, imported, [algorithm], registry).payload
    except (JoseError, ValueError, TypeError, KeyError):
        # A KeyError means an unknown curve, possibly of a key for another algorithm.
        return None


def _claims(payload: bytes) -> Mapping[str, object]:
    try:
        claims = json.loads(payload)
    except (ValueError, RecursionError):
        claims = None
    if not isinstance(claims, dict):
        raise invalid("its content is not a JSON object")
    return claims


def _check(claims: Mapping[str, object], expected: Expected, now: float) -> None:
    if claims.get("iss") != expected.issuer:
        raise invalid("it is of another issuer")
    audience = claims.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    if expected.audience not in audiences:
        raise invalid("it is meant for another client")
    authorized = claims.get("azp")
    if (len(audiences) > 1 or authorized is not None) and authorized != expected.audience:
        raise invalid("it was issued to another client")
    if _time(claims, "exp") <= now - CLOCK_SKEW:
        raise invalid("it has expired")
    for name in ("iat", "nbf"):
        if (name in claims or name == "iat") and _time(claims, name) > now + CLOCK_SKEW:
            raise invalid("it was issued in the future; compare the clocks")
    if expected.nonce is not None:
        nonce = claims.get("nonce")
        if not isinstance(nonce, str) or not hmac.compare_digest(
            nonce.encode(errors="replace"), expected.nonce.encode()
        ):
            raise invalid("its nonce is not the one of this login")
    if not isinstance(claims.get("sub"), str) or not claims["sub"]:
        raise invalid("it names no subject")


def _check_access_token(claims: Mapping[str, object], algorithm: str, access_token: str) -> None:
    """Check ``at_hash``, which binds the access token to the ID token (Core section 3.1.3.8); it is optional."""
    digest = _HASHES.get(algorithm[-3:])
    stated = claims.get("at_hash")
    if stated is None or digest is None:
        return
    half = digest(access_token.encode()).digest()
    half = half[: len(half) // 2]
    if stated != base64.urlsafe_b64encode(half).decode().rstrip("="):
        raise invalid("it belongs to another access token")


def _time(claims: Mapping[str, object], name: str) -> float:
    value = claims.get(name)
    # Python's JSON parser accepts Infinity, NaN and integers beyond the range of float.
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _LATEST:
        raise invalid(f"{name} is missing, or not a time")
    return float(value)


def invalid(problem: str) -> AuthUnavailable:
    """The error for an invalid ID token."""
    return AuthUnavailable(OAuth2Code.OIDC_ID_TOKEN_INVALID, f"the ID token cannot be used: {problem}")
