"""Limits that the gateway and its LDAP helper process share."""

from __future__ import annotations

CHILDREN = 32
"""The maximum of simultaneous attempts."""

ENTRY_BYTES = 96 * 1024
"""The maximum size in bytes of an entry's attributes and group names together."""

PASSWORD_BYTES = 1024
"""The maximum length of a password in bytes; longer ones are refused without a check."""

NAME_CHARACTERS = 256
"""The maximum length of a user name; longer ones are refused without a check."""
