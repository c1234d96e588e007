"""ID tokens: only a token of this provider, for this client, of this login and of this time proves anything."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import math
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from joserfc import jwk, jws

from containerssh.auth.oauth2.idtoken import CLOCK_SKEW, Expected, verified_claims
from containerssh.core.errors import AuthUnavailable

ISSUER, CLIENT, NONCE, ACCESS = "https://id.example.org/", "containerssh", "nonce-of-this-login", "access"
NOW = float(int(time.time()))
EXPECTED = Expected(ISSUER, CLIENT, NONCE, ACCESS)
RSA = jwk.RSAKey.generate_key(2048, {"kid": "rsa"})
EC = jwk.ECKey.generate_key("P-256", {"kid": "ec"})
ED = jwk.OKPKey.generate_key("Ed25519", {"kid": "ed"})
KEYS: list[dict[str, Any]] = [key.as_dict(private=False) for key in (RSA, EC, ED)]


def claims(**more: object) -> dict[str, object]:
    good = {"iss": ISSUER, "aud": CLIENT, "sub": "alice", "nonce": NONCE, "iat": NOW, "exp": NOW + 60}
    return {name: value for name, value in {**good, **more}.items() if value is not None}


def signed(content: dict[str, object], key: Any = RSA, algorithm: str = "RS256", **header: object) -> str:
    return jws.serialize_compact(
        {"alg": algorithm, "kid": key.kid, **header}, json.dumps(content), key, [algorithm], None
    )


def refused(token: str, expected: Expected = EXPECTED, keys: list[dict[str, Any]] = KEYS) -> str:
    with pytest.raises(AuthUnavailable) as caught:
        verified_claims(token, keys, expected, now=NOW)
    return caught.value.explanation


@pytest.mark.parametrize(
    ("key", "algorithm"), [(RSA, "RS256"), (RSA, "PS384"), (RSA, "RS512"), (EC, "ES256"), (ED, "Ed25519")]
)
def test_a_good_token_names_its_subject(key: Any, algorithm: str) -> None:
    assert verified_claims(signed(claims(), key, algorithm), KEYS, EXPECTED, now=NOW)["sub"] == "alice"


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"iss": "https://id.example.org"}, "issuer"),
        ({"iss": None}, "issuer"),
        ({"aud": "somebody-else"}, "another client"),
        ({"aud": []}, "another client"),
        ({"aud": [CLIENT, "somebody-else"]}, "another client"),
        ({"azp": "somebody-else"}, "another client"),
        ({"nonce": "of-another-login"}, "nonce"),
        ({"nonce": None}, "nonce"),
        ({"nonce": "\ud800"}, "nonce"),
        ({"exp": NOW - CLOCK_SKEW}, "expired"),
        ({"exp": None}, "exp"),
        ({"exp": "tomorrow"}, "exp"),
        ({"exp": True}, "exp"),
        ({"exp": math.nan}, "exp"),
        ({"exp": math.inf}, "exp"),
        ({"exp": 10**400}, "exp"),
        ({"iat": NOW + CLOCK_SKEW + 1}, "future"),
        ({"iat": None}, "iat"),
        ({"iat": math.nan}, "iat"),
        ({"nbf": NOW + CLOCK_SKEW + 1}, "future"),
        ({"sub": ""}, "subject"),
        ({"sub": 5}, "subject"),
        ({"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"}, "another access token"),
    ],
)
def test_a_wrong_claim_is_refused(wrong: dict[str, object], reason: str) -> None:
    assert reason in refused(signed(claims(**wrong)))


def test_clocks_may_differ_a_little() -> None:
    late = claims(exp=NOW - CLOCK_SKEW + 1, iat=NOW + CLOCK_SKEW - 1)
    assert verified_claims(signed(late), KEYS, EXPECTED, now=NOW)


def test_the_device_flow_has_no_nonce() -> None:
    assert verified_claims(signed(claims(nonce=None)), KEYS, Expected(ISSUER, CLIENT, None, ACCESS), now=NOW)


def test_the_access_token_that_it_belongs_to_is_taken() -> None:
    half = hashlib.sha256(ACCESS.encode()).digest()[:16]
    content = claims(at_hash=base64.urlsafe_b64encode(half).decode().rstrip("="))
    assert verified_claims(signed(content), KEYS, EXPECTED, now=NOW)


def part(content: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")


@pytest.mark.parametrize("algorithm", ["none", "None", "HS256", "", None, 7, ["RS256"]])
def test_unsigned_tokens_and_shared_secrets_are_refused(algorithm: object) -> None:
    assert "not accepted" in refused(f"{part({'alg': algorithm})}.{part(claims())}.")


def test_a_signature_made_with_the_public_key_as_a_secret_is_refused() -> None:
    content = f"{part({'alg': 'HS256', 'kid': 'rsa'})}.{part(claims())}"
    mac = hmac.digest(RSA.as_pem(private=False), content.encode(), "sha256")
    assert "not accepted" in refused(f"{content}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}")


def test_a_key_that_the_token_brings_along_is_not_used() -> None:
    foreign = jwk.RSAKey.generate_key(2048, {"kid": "rsa"})
    token = signed(claims(), foreign, jwk=foreign.as_dict(private=False))
    assert "none of the provider's keys" in refused(token)


def test_a_changed_token_is_refused() -> None:
    header, _, signature = signed(claims()).split(".")
    assert "none of the provider's keys" in refused(f"{header}.{part(claims(sub='mallory'))}.{signature}")


def test_a_key_for_something_else_is_not_used() -> None:
    token = signed(claims())
    assert refused(token, keys=[{**KEYS[0], "use": "enc"}])
    assert refused(token, keys=[{**KEYS[0], "alg": "PS256"}])
    assert refused(token, keys=[{**KEYS[0], "kid": "another"}])
    assert refused(token, keys=[{"kty": "RSA", "kid": "rsa", "n": 5, "e": []}])


@pytest.mark.parametrize("curve", ["brainpoolP256r1", "Ed448", "", "P-256"])
def test_a_key_on_another_curve_stands_in_no_other_keys_way(curve: str) -> None:
    """Providers publish keys for other algorithms too, and a token need not name its own."""
    strange = {"kty": "EC", "crv": curve, "x": "AAAA"}
    token = jws.serialize_compact({"alg": "ES256"}, json.dumps(claims()), EC, ["ES256"], None)
    assert verified_claims(token, [strange, *KEYS], EXPECTED, now=NOW)["sub"] == "alice"


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["kty", "crv", "x", "y", "n", "e", "d", "k", "use", "kid", "alg"]),
        st.sampled_from(
            ["RSA", "EC", "OKP", "oct", "P-256", "P-521", "Ed25519", "X25519", "", "AQAB", "AAAA", "\xe9", 5]
        )
        | st.text(max_size=8),
    ),
    st.sampled_from(["RS256", "PS512", "ES256", "ES512", "EdDSA"]),
)
def test_keys_of_any_shape_open_nothing_and_break_nothing(key: dict[str, Any], algorithm: str) -> None:
    refused(f"{part({'alg': algorithm})}.{part(claims())}.{'A' * 86}", keys=[key])


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    st.one_of(
        st.text(max_size=60),
        st.builds(
            lambda header, payload, signature: f"{part(header)}.{part(payload)}.{signature}",
            st.fixed_dictionaries(
                {"alg": st.sampled_from(["RS256", "ES256", "EdDSA", "none", 1, None])},
                optional={"kid": st.one_of(st.text(max_size=3), st.none(), st.integers()), "crit": st.just(["x"])},
            ),
            st.recursive(
                st.none() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=2), max_leaves=4
            ),
            st.text(alphabet="AZaz09-_=.", max_size=40),
        ),
    )
)
def test_noise_is_refused_and_breaks_nothing(token: str) -> None:
    refused(token)
