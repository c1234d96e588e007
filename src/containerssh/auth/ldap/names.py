"""Escaping of user names in filters and distinguished names, and comparison of distinguished names."""

from __future__ import annotations

import re
from collections.abc import Mapping

import ldap.dn
from ldap.filter import escape_filter_chars

# Characters with a meaning in DOMAIN\name and name@domain, or that Active Directory forbids in names.
_NO_ACCOUNT = re.compile(r'[\0-\x20"/\\\[\]:;|=,+*?<>@\x7f]')


class UnusableNameError(ValueError):
    """The name cannot be used."""


def in_filter(template: str, values: Mapping[str, str]) -> str:
    """*template* with each ``{name}`` replaced by the value, escaped for a filter (RFC 4515)."""
    return _replaced(template, {name: escape_filter_chars(value) for name, value in values.items()})


def to_bind(template: str, username: str) -> str:
    """
    The name for the user's bind.

    Raises:
        UnusableNameError: the user name contains special characters.
    """
    if "=" in template:
        return _replaced(template, {"username": _in_dn(username)})
    if _NO_ACCOUNT.search(username):
        raise UnusableNameError("the user name holds characters that no account's can have")
    return _replaced(template, {"username": username})


def normal_dn(dn: str) -> object:
    """
    A normalised form of a distinguished name: equal for spellings that differ only in case and spaces.

    Raises:
        ValueError: it is not a distinguished name.
    """
    try:
        parts = ldap.dn.str2dn(dn)
    except (ldap.DECODING_ERROR, UnicodeError) as exc:
        raise ValueError(f"{dn[:200]!r} is not a name of an entry") from exc
    return tuple(
        frozenset((kind.casefold(), " ".join(value.split()).casefold()) for kind, value, _ in rdn) for rdn in parts
    )


def _in_dn(value: str) -> str:
    """*value* escaped for a distinguished name (RFC 4514): all but plain characters as hex bytes."""
    plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."
    return "".join(char if char in plain else "".join(f"\\{byte:02x}" for byte in char.encode()) for char in value)


def _replaced(template: str, values: Mapping[str, str]) -> str:
    # In one pass, so that inserted values are not replaced again.
    return re.sub(r"\{([^{}]*)\}", lambda match: values[match[1]], template)
