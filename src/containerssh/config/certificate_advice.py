"""Remarks about certificates, of users and of the host, and about lists of revoked keys."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from containerssh.config.app import AppConfig
from containerssh.config.certificates import is_key_text
from containerssh.config.findings import Finding
from containerssh.config.host_keys import public_half, read_host_certificate
from containerssh.config.ssh import SSHConfig

_SOON = 14 * 24 * 3600.0


def certificate_advice(config: AppConfig) -> Iterator[Finding]:
    """Remarks about a well-formed configuration."""
    keys = config.auth.public_key
    where = "auth.publicKey.certificates"
    if keys.certificates.model_fields_set and not keys.certificates.trusted_user_ca_keys:
        yield Finding("warning", where, "has no effect without trustedUserCAKeys")
    file = keys.certificates.authorized_principals_file
    if file and "%u" not in file.replace("%%", ""):
        text = "whoever has one of these principals may log in under any name"
        yield Finding("warning", f"{where}.authorizedPrincipalsFile", text, suggestion="%u stands for the user's name")
    if keys.revoked_keys and not keys.is_configured:
        yield Finding("info", "auth.publicKey.revokedKeys", "has no effect: nobody judges public keys")
    yield from _of_the_host(config.ssh, time.time())


def listed_files(config: AppConfig) -> Iterator[tuple[str, Path, str]]:
    """Files that others must not write to: the key that names each, and what it is."""
    keys = config.auth.public_key
    for number, source in enumerate(keys.certificates.trusted_user_ca_keys):
        if not is_key_text(source):
            yield f"auth.publicKey.certificates.trustedUserCAKeys.{number}", Path(source), "the authorities' keys in"
    if keys.revoked_keys:
        yield "auth.publicKey.revokedKeys", Path(keys.revoked_keys), "the list of revoked keys"


def _of_the_host(ssh: SSHConfig, now: float) -> Iterator[Finding]:
    keys = _public_keys(ssh)
    for number, source in enumerate(ssh.host_certificates):
        where = f"ssh.hostCertificates.{number}"
        try:
            _, certificate = read_host_certificate(source)
        except ValueError:
            # An error, which is told elsewhere.
            continue
        if keys and certificate.key not in keys:
            yield Finding("warning", where, "is for none of the host keys; clients do not get it")
        if reason := certificate.invalid(now):
            yield Finding("warning", where, f"clients do not get it: {reason}")
        elif certificate.invalid(now + _SOON):
            days = int((certificate.valid_before - now) // (24 * 3600))
            yield Finding("warning", where, f"expires in {days} days")
        if not certificate.principals:
            text = "names no host: most clients refuse it, or take it for every host"
            yield Finding("warning", where, text, suggestion="name the host with ssh-keygen -n")


def _public_keys(ssh: SSHConfig) -> set[bytes]:
    """Of the host keys, as far as they can be found without making any; none if one of them is out of reach."""
    sources = [key.get_secret_value() for key in ssh.hostkeys]
    try:
        if not sources and ssh.host_key_directory:
            sources = [str(path) for path in Path(ssh.host_key_directory).glob("ssh_host_*_key")]
        return {public_half(source) for source in sources}
    except (OSError, ValueError):
        return set()
