"""What a certificate lets its holder do (OpenSSH's PROTOCOL.certkeys): who it is, from where, until when, and how."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace

from containerssh.auth.authorized_keys import AuthorizedKey
from containerssh.auth.chains import both
from containerssh.core.codes import AuthCode
from containerssh.core.errors import AuthFailed
from containerssh.core.handlers import PublicKey
from containerssh.core.metadata import AuthAttempt, Restrictions
from containerssh.keys.certificate import Certificate, is_certificate, read_certificate
from containerssh.keys.wire import Malformed


def certificate_of(key: PublicKey) -> Certificate | None:
    """
    The certificate that *key* is; None for a plain key.

    Raises:
        AuthFailed: it cannot be used.
    """
    if not is_certificate(key.algorithm):
        return None
    try:
        return read_certificate(key.blob)
    except Malformed as exc:
        raise AuthFailed(AuthCode.FAILED, f"the certificate cannot be used: {exc}") from exc


def check_conditions(certificate: Certificate, attempt: AuthAttempt) -> None:
    """
    Look whether *certificate* holds for this client now, whoever is to trust it.

    Raises:
        AuthFailed: it is a host's, or its validity or ``source-address`` says no.
    """
    if certificate.kind != "user":
        raise AuthFailed(AuthCode.FAILED, "the certificate is a host's")
    if reason := certificate.invalid(time.time()):
        raise AuthFailed(AuthCode.FAILED, reason)
    if not certificate.allows_source(attempt.remote_address.host):
        raise AuthFailed(AuthCode.FAILED, "the certificate may not be used from this address")


def critical(certificate: Certificate) -> Restrictions:
    """What its critical options take away, and nothing else."""
    return Restrictions(
        force_command=certificate.force_command,
        touch_required=False,
        verify_required=certificate.verify_required,
    )


def authorize(
    attempt: AuthAttempt, certificate: Certificate, entries: Iterable[AuthorizedKey]
) -> tuple[AuthorizedKey, Restrictions]:
    """
    The first of *entries* that stands for the certificate's authority and fits, and what it and the certificate take
    away together. What a certificate does not permit by an extension is forbidden.

    Raises:
        AuthFailed: none fits.
    """
    check_conditions(certificate, attempt)
    refusal = AuthFailed(AuthCode.FAILED, "the certificate's authority is not trusted")
    for entry in entries:
        if not entry.is_authority or entry.key.blob != certificate.authority:
            continue
        wanted = entry.principals if entry.principals is not None else (attempt.username,)
        # A certificate without principals is nobody's: OpenSSH has it so where authorities are trusted for all.
        if set(wanted).isdisjoint(certificate.principals):
            refusal = AuthFailed(AuthCode.FAILED, "the certificate names none of the principals")
            continue
        if reason := entry.refusal(attempt.remote_address.host):
            refusal = AuthFailed(AuthCode.FAILED, reason)
            continue
        return entry, both(entry.restrictions, _permitted(certificate))
    raise refusal


def _permitted(certificate: Certificate) -> Restrictions:
    permits = certificate.extensions
    return replace(
        critical(certificate),
        pty="permit-pty" in permits,
        port_forwarding="permit-port-forwarding" in permits,
        agent_forwarding="permit-agent-forwarding" in permits,
        x11_forwarding="permit-X11-forwarding" in permits,
        user_rc="permit-user-rc" in permits,
        touch_required="no-touch-required" not in permits,
    )
