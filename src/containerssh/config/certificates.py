"""The parts of ``auth.publicKey`` about certificates, security keys and revoked keys."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from pydantic import Field

from containerssh.config.model import ConfigModel, Problem
from containerssh.core.errors import reason_of
from containerssh.keys.certificate import parse_authorities
from containerssh.keys.public import KEY_TYPES
from containerssh.keys.revoked import LARGEST, Revoked
from containerssh.keys.wire import Malformed

ANYBODY = "*"
"""In `authorizedPrincipals`: names that are not listed."""

_FILE = re.compile(r"/(?:[^%\0]|%[u%])*")


class CertificatesConfig(ConfigModel):
    """User certificates signed by your certificate authorities."""

    trusted_user_ca_keys: tuple[str, ...] = Field((), alias="trustedUserCAKeys")
    """Public keys of the authorities: keys (`ssh-ed25519 AAAA...`), or names of files with one key per line, which are
    read again when they change."""

    authorized_principals: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """By user name, the principals of which a certificate must name one. `*` stands for names that are not listed, and
    `%u` in a principal for the user's name. Without an entry it is the user's name."""

    authorized_principals_file: str = ""
    """The same in files, one per user, as OpenSSH's `AuthorizedPrincipalsFile`: `%u` stands for the user's name. A user
    without a file has no principals."""

    allow_no_touch: bool = False
    """A security key need not be touched if its certificate says `no-touch-required`."""

    def problems(self) -> Iterator[Problem]:
        for number, source in enumerate(self.trusted_user_ca_keys):
            try:
                parse_authorities(source if is_key_text(source) else _read(source, "a file of public keys"))
            except ValueError as exc:
                where = "" if is_key_text(source) else f"{source!r}: "
                yield Problem(f"trustedUserCAKeys.{number}", f"{where}{exc}")
        if self.authorized_principals and self.authorized_principals_file:
            yield Problem("authorizedPrincipalsFile", "authorizedPrincipals is set as well; one of them can hold")
        path = self.authorized_principals_file
        if path and not _FILE.fullmatch(path):
            yield Problem("authorizedPrincipalsFile", "must be an absolute path; %u is the user's name, %% a percent")
        for name, principals in self.authorized_principals.items():
            if not all(principals):
                yield Problem(f"authorizedPrincipals.{name}", "a principal must not be empty")


class SecurityKeysConfig(ConfigModel):
    """Security keys (FIDO): the key types `sk-...`."""

    touch_required: bool = False
    """Security keys must be touched at each login, even if an authorized key or a certificate says `no-touch-required`.
    If off, they must be touched unless one of these says so."""

    verify_required: bool = False
    """Security keys must have verified a PIN or a fingerprint at each login."""


def is_key_text(source: str) -> bool:
    """Whether *source* is a public key; else it names a file."""
    return source.strip().partition(" ")[0] in KEY_TYPES


def revoked_problems(path: str) -> Iterator[Problem]:
    """What is wrong with a list of revoked keys."""
    try:
        with Path(path).open("rb") as file:
            Revoked.parse(file.read(LARGEST + 1))
    except OSError as exc:
        yield Problem("revokedKeys", f"cannot read {path!r}: {reason_of(exc)}")
    except ValueError as exc:
        yield Problem("revokedKeys", f"{path!r} is not a list of revoked keys: {exc}")


def _read(name: str, what: str) -> str:
    try:
        with Path(name).open("rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as exc:
        raise Malformed(f"cannot read it: {reason_of(exc)}") from None
    if len(content) > LARGEST:
        raise Malformed(f"it is too large for {what}")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise Malformed(f"it is not {what}") from None
