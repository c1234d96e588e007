"""What the gateway and its helper process for LDAP have to agree on."""

from __future__ import annotations

CHILDREN = 32
"""Attempts at the same time."""

ENTRY_BYTES = 96 * 1024
"""The most that an entry's attributes and the names of its groups may have, together."""

PASSWORD_BYTES = 1024
"""Longer passwords are wrong without being looked at."""

NAME_CHARACTERS = 256
"""Longer names are nobody's."""
