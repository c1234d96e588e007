"""Names of users where a directory would read more than a name out of them, and names of entries compared."""

from __future__ import annotations

import re
from collections.abc import Mapping

import ldap.dn
from ldap.filter import escape_filter_chars

# Characters that mean something in DOMAIN\name and name@domain, or that Active Directory forbids in names.
_NO_ACCOUNT = re.compile(r'[\0-\x20"/\\\[\]:;|=,+*?<>@\x7f]')


class UnusableNameError(ValueError):
    """Nobody can have this name."""


def in_filter(template: str, values: Mapping[str, str]) -> str:
    """*template*, each ``{name}`` in it replaced by that value, which stands for nothing but itself (RFC 4515)."""
    return _replaced(template, {name: escape_filter_chars(value) for name, value in values.items()})


def to_bind(template: str, username: str) -> str:
    """
    The name under which a user binds.

    Raises:
        UnusableNameError: it would be more than a name.
    """
    if "=" in template:
        return _replaced(template, {"username": _in_dn(username)})
    if _NO_ACCOUNT.search(username):
        raise UnusableNameError("the user name holds characters that no account's can have")
    return _replaced(template, {"username": username})


def normal_dn(dn: str) -> object:
    """
    Something that is equal for two spellings of one entry's name: types and values in any case, any blanks between.

    Raises:
        ValueError: it is not a name of an entry.
    """
    try:
        parts = ldap.dn.str2dn(dn)
    except (ldap.DECODING_ERROR, UnicodeError) as exc:
        raise ValueError(f"{dn[:200]!r} is not a name of an entry") from exc
    return tuple(
        frozenset((kind.casefold(), " ".join(value.split()).casefold()) for kind, value, _ in rdn) for rdn in parts
    )


def _in_dn(value: str) -> str:
    """*value* as a value in the name of an entry (RFC 4514): all but plain characters by their bytes."""
    plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."
    return "".join(char if char in plain else "".join(f"\\{byte:02x}" for byte in char.encode()) for char in value)


def _replaced(template: str, values: Mapping[str, str]) -> str:
    # In one pass: what a value brings must not be replaced again.
    return re.sub(r"\{([^{}]*)\}", lambda match: values[match[1]], template)
