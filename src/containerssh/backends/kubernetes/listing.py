"""Lists of objects, page by page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from containerssh.backends.kubernetes.errors import APIError, broken
from containerssh.backends.kubernetes.exchange import Exchange, parse
from containerssh.backends.kubernetes.kinds import Kind, way_to
from containerssh.backends.kubernetes.watch import identity, is_expired, version_of

_PAGE = 250
_PAGE_LIMIT = 64 << 20
_LIST_LIMIT = 256 << 20
"""Bytes of all pages of a list whose objects are kept whole."""
_PAGES = 1000
_LIST_TRIES = 3

Objects = list[dict[str, Any]]
Keep = Callable[[dict[str, Any]], dict[str, Any]]


def selectors(label: str, field: str) -> dict[str, str]:
    """What a list or a watch is asked for."""
    return {name: value for name, value in (("labelSelector", label), ("fieldSelector", field)) if value}


async def list_objects(
    exchange: Exchange, kind: Kind, namespace: str, query: Mapping[str, str], keep: Keep | None = None
) -> tuple[Objects, str]:
    """
    All objects that fit *query*, and the resourceVersion that they were in; *keep* says what of each is worth keeping.

    Raises:
        APIError: the API refused, or is away.
        ProtocolError: its answer is no list, or has no end.
    """
    for number in range(_LIST_TRIES):
        try:
            return await _pages(exchange, kind, namespace, {"limit": str(_PAGE), **query}, keep)
        except APIError as exc:
            # So much was changed between two pages that the rest of the list is not there any more.
            if not is_expired(exc) or number + 1 == _LIST_TRIES:
                raise
    raise AssertionError("the last try returns or raises")


async def current_version(exchange: Exchange, kind: Kind, namespace: str, query: Mapping[str, str]) -> str:
    """The resourceVersion of a list, of which one object is sent at most. Raises what :func:`list_objects` does."""
    way = way_to(kind, namespace, query={"limit": "1", **query})
    return version_of(parse(await exchange.ask(f"looking for {kind.plural}", "GET", way)))


async def _pages(
    exchange: Exchange, kind: Kind, namespace: str, query: dict[str, str], keep: Keep | None
) -> tuple[Objects, str]:
    doing = f"listing {kind.plural}"
    items: Objects = []
    size = 0
    for _ in range(_PAGES):
        data = await exchange.ask(doing, "GET", way_to(kind, namespace, query=query), limit=_PAGE_LIMIT)
        size += len(data)
        if keep is None and size > _LIST_LIMIT:
            raise broken(f"{doing}: the API server's list is longer than {_LIST_LIMIT >> 20} MiB")
        page = parse(data)
        found = page.get("items")
        if not isinstance(found, list | None) or not all(isinstance(item, dict) for item in found or ()):
            raise broken(f"{doing}: the API server's answer is not a list")
        for item in found or ():
            identity(item)
            items.append(item if keep is None else keep(item))
        metadata = page.get("metadata")
        rest = metadata.get("continue") if isinstance(metadata, dict) else None
        if not rest:
            return items, version_of(page)
        query["continue"] = str(rest)
    raise broken(f"{doing}: the API server's list has no end")
