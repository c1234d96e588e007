"""Fields of SSH and SFTP messages (RFC 4251 section 5)."""

from __future__ import annotations


def strings(*fields: bytes) -> bytes:
    """Each of *fields* as a ``string``."""
    return b"".join(len(field).to_bytes(4, "big") + field for field in fields)
