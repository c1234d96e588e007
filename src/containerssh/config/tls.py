"""TLS settings as Python's ``ssl`` module can keep them; what it cannot keep is refused, never ignored."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Iterable, Mapping

from containerssh.config.pem import read_pem

CURVES: Mapping[str, str] = {
    "x25519": "X25519",
    "secp256r1": "prime256v1",
    "secp384r1": "secp384r1",
    "secp521r1": "secp521r1",
}
"""The curves, each with OpenSSL's name for it."""

CURVE_SPELLINGS: Mapping[str, str] = {**{name: name for name in CURVES}, "X25519": "x25519", "prime256v1": "secp256r1"}

TLS13_SUITES = ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256")

TLS12_SUITES: Mapping[str, str] = {
    f"TLS_ECDHE_{key}_WITH_{iana}": f"ECDHE-{key}-{openssl}"
    for key in ("ECDSA", "RSA")
    for iana, openssl in (
        ("AES_128_GCM_SHA256", "AES128-GCM-SHA256"),
        ("AES_256_GCM_SHA384", "AES256-GCM-SHA384"),
        ("CHACHA20_POLY1305", "CHACHA20-POLY1305"),
    )
}
"""The suites of TLS 1.2, each with OpenSSL's name for it."""

SUITE_SPELLINGS: Mapping[str, str] = {
    **{name: name for name in TLS13_SUITES},
    **{name: name for name in TLS12_SUITES},
    **{openssl: name for name, openssl in TLS12_SUITES.items()},
    **{name.replace("_WITH", ""): name for name in TLS12_SUITES},
    **{f"{name}_SHA256": name for name in TLS12_SUITES if name.endswith("POLY1305")},
}
"""IANA's, OpenSSL's and GnuTLS' names."""

VERSIONS: Mapping[str, ssl.TLSVersion] = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


def check_curves(curves: Iterable[str]) -> None:
    """Raises ValueError: the choice of *curves* cannot be kept."""
    wanted = set(curves)
    if not wanted:
        raise ValueError("at least one curve is needed")
    if wanted != set(CURVES) and len(wanted) > 1 and not hasattr(ssl.SSLContext, "set_groups"):
        raise ValueError(
            "this version of Python can offer all four curves or a single one; name one, or leave the key out"
        )


def check_suites(suites: Iterable[str]) -> None:
    """Raises ValueError: the choice of cipher *suites* cannot be kept."""
    wanted = set(suites)
    if not wanted:
        raise ValueError("at least one cipher suite is needed")
    of_13 = wanted & set(TLS13_SUITES)
    if of_13 and of_13 != set(TLS13_SUITES):
        raise ValueError(
            "the suites of TLS 1.3 cannot be chosen one by one; name all three of them, or only suites of TLS 1.2"
        )


def apply(context: ssl.SSLContext, version: str, curves: Iterable[str], suites: Iterable[str]) -> None:
    """Put checked settings into *context*: the least TLS version, the curves, the cipher suites."""
    curves, of_12 = list(curves), [TLS12_SUITES[name] for name in suites if name in TLS12_SUITES]
    context.minimum_version = VERSIONS[version]
    if of_12:
        context.set_ciphers(":".join(of_12))
    else:
        context.minimum_version = ssl.TLSVersion.TLSv1_3
    if set_groups := getattr(context, "set_groups", None):
        set_groups(":".join(CURVES[name] for name in curves))
    elif len(curves) == 1:
        context.set_ecdh_curve(CURVES[curves[0]])


def trust(context: ssl.SSLContext, authorities: str) -> None:
    """
    Let *context* trust these authorities (PEM text or a file), and no others.

    Raises:
        ValueError: there is no usable certificate in it.
    """
    text = read_pem(authorities)
    try:
        context.load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError) as exc:
        raise ValueError(f"not a usable CA certificate: {exc}") from exc
    if not context.cert_store_stats()["x509"]:
        raise ValueError("it contains no CA certificate")


def identify(context: ssl.SSLContext, certificate: str, key: str) -> None:
    """
    Let *context* show this certificate; it and its key are PEM text or files.

    Raises:
        ValueError: they cannot be read, the key is encrypted, or the two do not belong together.
    """
    text = f"{read_pem(key)}\n{read_pem(certificate)}"
    # The ssl module takes file names only; this one never reaches a disk.
    handle = os.memfd_create("key-pair", os.MFD_CLOEXEC)
    try:
        with os.fdopen(handle, "w", encoding="ascii", closefd=False) as file:
            file.write(text)
        context.load_cert_chain(f"/proc/self/fd/{handle}", password=_encrypted())
    except (ssl.SSLError, OSError) as exc:
        raise ValueError(f"certificate and key are not a usable pair: {exc}") from exc
    finally:
        os.close(handle)


def _encrypted() -> Callable[[], str]:
    # Without a callback OpenSSL would ask on the terminal.
    def ask() -> str:
        raise ValueError("the key is encrypted")

    return ask
