"""Remarks about the directory and about remembered keys, for ``config check``."""

from __future__ import annotations

from collections.abc import Iterator

from containerssh.config.address import is_local
from containerssh.config.auth import AuthConfig
from containerssh.config.findings import Finding, Severity
from containerssh.config.model import seconds
from containerssh.config.urls import parts_of

_LONG_MEMORY = seconds(7 * 24 * 3600)


def directory_advice(auth: AuthConfig) -> Iterator[Finding]:
    """Of the directory."""
    if not auth.uses_ldap:
        return
    for number, url in auth.ldap.plaintext_urls:
        if not is_local(parts_of(url).hostname or ""):
            text = "passwords can be read in transit, and the directory can be impersonated"
            yield _remark("warning", f"auth.ldap.urls.{number}", text, "use ldaps://, or set startTLS")
    if not auth.ldap.required_groups and not auth.authz.method:
        text = "everybody whom userFilter finds may log in"
        yield _remark("info", "auth.ldap.requiredGroups", text, "name a group, or set auth.authz")


def names_advice(auth: AuthConfig) -> Iterator[Finding]:
    """Of logins under other names than that of who logs in."""
    lax = {
        "auth.gssapi.kerberos.enforceUsername": auth.gssapi.method == "kerberos"
        and not auth.gssapi.kerberos.enforce_username,
        "auth.ldap.enforceUsername": auth.uses_ldap and not auth.ldap.enforce_username,
    }
    for path, is_so in lax.items():
        if is_so and auth.uses_users_file:
            text = (
                "methods and codes of the users file are asked of both names, the one that is given and the proven one"
            )
            yield _remark("info", path, text, "leave it true, if users log in under their own names only")


def memory_advice(auth: AuthConfig) -> Iterator[Finding]:
    """Of keys that stand in for questions."""
    if not auth.remember.period:
        return
    if auth.remember.period > _LONG_MEMORY:
        text = "whoever was locked out elsewhere gets in with their key for so long"
        yield _remark("warning", "auth.remember.period", text, "choose hours, or revoke with containerssh remembered")
    fitting = [chain for chain in auth.authentication_methods if _asks_after_a_key(chain)]
    if not fitting and not auth.takes_any_key and not auth.uses_users_file:
        text = "nothing is ever remembered: no list has publickey before keyboard-interactive"
        suggestion = "set auth.publicKey.method: remember, or auth.authenticationMethods"
        yield _remark("warning", "auth.remember.period", text, suggestion)


def _asks_after_a_key(chain: str) -> bool:
    return "keyboard-interactive" in chain.partition("publickey")[2]


def _remark(severity: Severity, path: str, message: str, suggestion: str) -> Finding:
    return Finding(severity, path, message, suggestion=suggestion)
