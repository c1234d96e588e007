"""Kinds of objects, and where a server has them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from containerssh.backends.kubernetes.credentials import Access
from containerssh.backends.kubernetes.errors import APIError

_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")

Target = Callable[[Access], str]
"""The path, with its query, of what is asked for at the server that an access belongs to."""


@dataclass(frozen=True)
class Kind:
    """A kind of object; the core group's name is empty."""

    group: str
    version: str
    plural: str
    namespaced: bool = True


def way_to(
    kind: Kind, namespace: str, *steps: str, query: Mapping[str, str] | Sequence[tuple[str, str]] = ()
) -> Target:
    """The way to what *steps* name, at whichever server is asked."""
    path = f"/namespaces/{named(namespace)}" if kind.namespaced and namespace else ""
    path = "/".join((f"{path}/{kind.plural}", *filter(None, steps)))
    asked = f"?{urlencode(query)}" if query else ""
    return lambda access: f"{access.path(kind.group, kind.version)}{path}{asked}"


def singular(kind: Kind) -> str:
    """In words."""
    return f"the {kind.plural.removesuffix('s')}"


def named(name: str) -> str:
    """
    A name that is one step of a path: an empty one would stand for all objects.

    Raises:
        APIError: it is none.
    """
    if not _NAME.fullmatch(name):
        raise APIError(
            f"using the name {name!r}", status=422, reason="Invalid", message="it is not a name for an object"
        )
    return name
