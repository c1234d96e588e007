"""Limits that the gateway and its Kerberos helper process share."""

from __future__ import annotations

TOKEN = 64 * 1024
"""The maximum size of a client's token in bytes; Active Directory tickets reach 48 KiB."""

CHILDREN = 64
"""The maximum of simultaneous attempts."""

CALL_SECONDS = 20.0
"""The time limit of a library call in seconds; an unreachable KDC takes that long to detect."""
