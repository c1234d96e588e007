"""Certificates and keys that a setting holds either as PEM text or as the name of a file (``config.md`` section 4)."""

from __future__ import annotations

from pathlib import Path

from containerssh.core.errors import reason_of

LARGEST = 1 << 20
"""Bytes that a certificate or key file may have; the system's bundle of authorities has a quarter of that."""


def is_pem(value: str) -> bool:
    """Whether *value* is PEM text; else it names a file."""
    return value.strip().startswith("-----")


def read_pem(value: str) -> str:
    """
    The PEM text of a setting.

    Raises:
        ValueError: the file cannot be read, or is not text; the message names it.
    """
    if is_pem(value):
        return value.strip() + "\n"
    return read_text(value.strip(), "PEM text")


def read_text(name: str, what: str = "text") -> str:
    """
    The text of a file that should hold *what*.

    Raises:
        ValueError: it cannot be read, or is not text; the message names it.
    """
    try:
        with Path(name).open("rb") as file:
            content = file.read(LARGEST + 1)
    except (OSError, ValueError) as exc:
        raise ValueError(f"cannot read {name!r}: {reason_of(exc)}") from exc
    if len(content) > LARGEST:
        raise ValueError(f"{name!r} is too large for a certificate or key")
    try:
        return content.decode("ascii")
    except UnicodeDecodeError as exc:
        raise ValueError(f"{name!r} is not {what}") from exc
