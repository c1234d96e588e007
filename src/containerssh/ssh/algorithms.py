"""The algorithms that are offered, and the names that the configuration may use (``config.md`` section ssh).

The defaults contain nothing weak. Algorithms that upstream accepts and that are weak today (CBC, RC4, SHA-1,
finite-field groups) are offered only if the configuration names them.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from enum import StrEnum

from asyncssh.encryption import get_encryption_algs
from asyncssh.kex import get_kex_algs
from asyncssh.mac import get_mac_algs

from containerssh.config.ssh import CIPHERS, KEX, MACS, OTHER_CIPHERS, OTHER_KEX, OTHER_MACS
from containerssh.core.codes import CoreCode
from containerssh.core.errors import ConfigError


class Kind(StrEnum):
    """The kinds of algorithm lists, by their key in the configuration's ``ssh`` section."""

    CIPHERS = "ciphers"
    KEX = "kex"
    MACS = "macs"


DEFAULTS: dict[Kind, tuple[str, ...]] = {Kind.CIPHERS: CIPHERS, Kind.KEX: KEX, Kind.MACS: MACS}

_ON_REQUEST: dict[Kind, tuple[str, ...]] = {
    Kind.CIPHERS: OTHER_CIPHERS,
    Kind.KEX: OTHER_KEX,
    Kind.MACS: OTHER_MACS,
}

HOST_KEY_ALGORITHMS = {
    "ssh-ed25519": ("ssh-ed25519",),
    "ecdsa-sha2-nistp256": ("ecdsa-sha2-nistp256",),
    "ecdsa-sha2-nistp384": ("ecdsa-sha2-nistp384",),
    "ecdsa-sha2-nistp521": ("ecdsa-sha2-nistp521",),
    "ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256"),
}
"""Key types and the signature algorithms offered for them; SHA-1 signatures are never made."""

CLIENT_SIGNATURES = (
    "ssh-ed25519",
    "sk-ssh-ed25519@openssh.com",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "rsa-sha2-512",
    "rsa-sha2-256",
)
"""Signature algorithms accepted from clients, sent as ``server-sig-algs`` (RFC 8308 section 3.1)."""


def accepted(kind: Kind) -> tuple[str, ...]:
    """Every name that the configuration may use for *kind*, strong algorithms first."""
    return DEFAULTS[kind] + _ON_REQUEST[kind]


def check(names: Sequence[str] | None, kind: Kind) -> list[str]:
    """
    The names to offer; None selects the defaults.

    Raises:
        ConfigError: a name is unknown or unsupported by the installed libraries, or the list is empty.
    """
    if names is None:
        return [name for name in DEFAULTS[kind] if name in _available(kind)]
    if not names:
        raise _error(f"ssh.{kind} is empty: no client could connect. Leave it out to get the defaults.")
    result: list[str] = []
    for name in names:
        if name not in accepted(kind):
            near = difflib.get_close_matches(name, accepted(kind), n=1)
            hint = f" Did you mean {near[0]}?" if near else f" Known: {', '.join(accepted(kind))}."
            raise _error(f"ssh.{kind}: {name!r} is not an algorithm that can be offered.{hint}")
        if name not in _available(kind):
            raise _error(f"ssh.{kind}: {name!r} is not available with the installed cryptography library.")
        if name not in result:
            result.append(name)
    return result


def _available(kind: Kind) -> frozenset[str]:
    known = {Kind.CIPHERS: get_encryption_algs, Kind.KEX: get_kex_algs, Kind.MACS: get_mac_algs}[kind]()
    return frozenset(name.decode("ascii") for name in known)


def _error(text: str) -> ConfigError:
    return ConfigError(CoreCode.CONFIG_ERROR, text)
