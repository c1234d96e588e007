"""What the gateway and its helper process have to agree on."""

from __future__ import annotations

TOKEN = 64 * 1024
"""The largest token of a client, in bytes; tickets of Active Directory reach 48 KiB."""

CHILDREN = 64
"""Attempts at the same time."""

CALL_SECONDS = 20.0
"""After how long a call of the libraries is given up; asking a KDC that is away takes that long."""
