"""Image references: validation and parsing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from containerssh.core.codes import DockerCode
from containerssh.core.errors import BackendError

_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_DOMAIN = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]{{1,5}})?"
_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(
    rf"(?:(?P<domain>{_DOMAIN})/)?(?P<path>{_COMPONENT}(?:/{_COMPONENT})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?"
    r"(?:@(?P<digest>[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}))?"
)
_IDENTIFIER = re.compile(r"(?:sha256:)?[0-9a-f]{64}")
_LENGTH_LIMIT = 512


@dataclass(frozen=True)
class ImageReference:
    """An image reference as configured and in its normalised form (by the rules of the ``docker`` command)."""

    text: str
    """As configured; safe in a URL path."""
    repository: str
    """With the registry, as in ``docker.io/library/busybox``; empty for an image id."""
    tag: str
    """The tag, or the digest where there is one."""


@lru_cache(128)
def parse_reference(text: str) -> ImageReference:
    """
    Parse an image reference.

    Raises:
        BackendError: the reference is invalid.
    """
    if _IDENTIFIER.fullmatch(text):
        return ImageReference(text, "", "")
    match = _REFERENCE.fullmatch(text) if len(text) <= _LENGTH_LIMIT else None
    if match is None:
        raise BackendError(
            DockerCode.CONFIG_ERROR,
            f"{text[:_LENGTH_LIMIT]!r} is not the name of an image",
            user_message="The image for this container has no valid name.",
        )
    domain, path = match["domain"], match["path"]
    if domain and not ("." in domain or ":" in domain or domain == "localhost" or domain.lower() != domain):
        domain, path = None, f"{domain}/{path}"
    if domain in (None, "index.docker.io"):
        domain = "docker.io"
    if domain == "docker.io" and "/" not in path:
        path = f"library/{path}"
    return ImageReference(text, f"{domain}/{path}", match["digest"] or match["tag"] or "latest")
