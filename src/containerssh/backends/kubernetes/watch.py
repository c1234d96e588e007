"""Watching objects (API concepts, "Efficient detection of changes"), across interruptions and without duplicates."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from containerssh.backends.kubernetes.errors import APIError, broken, status_error

LINE_LIMIT = 16 << 20
"""Bytes of an event; the API stores objects of up to 1.5 MiB."""

Change = Literal["ADDED", "MODIFIED", "DELETED"]


@dataclass(frozen=True)
class WatchEvent:
    """What happened to an object. A deletion during an interruption has the object's metadata only."""

    type: Change
    object: dict[str, Any]


@dataclass(frozen=True)
class Bookmark:
    """All events up to a resourceVersion have been sent."""

    version: str


class Lines:
    """Splits a stream into lines of bounded length."""

    def __init__(self, limit: int = LINE_LIMIT) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """
        The lines that end in *data*, without their ends, and without empty ones.

        Raises:
            ProtocolError: a line is longer than the limit.
        """
        *whole, rest = data.split(b"\n")
        for part in whole:
            self._add(part)
            line = b"".join(self._parts).strip()
            self._parts, self._size = [], 0
            if line:
                yield line
        self._add(rest)

    def _add(self, part: bytes) -> None:
        if part:
            self._parts.append(part)
            self._size += len(part)
        if self._size > self._limit:
            raise broken(f"the API server sent an event of more than {self._limit >> 20} MiB")


def parse_event(line: bytes, doing: str) -> WatchEvent | Bookmark:
    """
    Parse a line of a watch.

    Raises:
        APIError: it reports that the watch failed; status 410: the version is too old to continue from.
        ProtocolError: it is not an event.
    """
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        raise broken("the API server sent an event that is not JSON") from None
    kind = found.get("type") if isinstance(found, dict) else None
    content = found.get("object") if isinstance(found, dict) else None
    if not isinstance(content, dict):
        raise broken("the API server sent an event without its object")
    if kind == "ERROR":
        raise status_error(doing, content)
    if kind == "BOOKMARK":
        return Bookmark(version_of(content))
    if kind not in ("ADDED", "MODIFIED", "DELETED"):
        raise broken("the API server sent an event of an unknown type")
    identity(content)
    return WatchEvent(cast(Change, kind), content)


class Known:
    """The objects that a watch has reported, so that after an interruption no event is missing or repeated."""

    def __init__(self) -> None:
        self._objects: dict[str, dict[str, Any]] = {}
        self.version = ""
        """The resourceVersion to continue from; empty if a new list is needed."""

    def keys(self) -> frozenset[str]:
        """The uids of the known objects; call it before a list is requested, and pass the result to :meth:`replace`."""
        return frozenset(self._objects)

    def expect(self, found: Mapping[str, Any]) -> None:
        """Add an object that the watch may not have reported yet, so that its deletion is reported."""
        self._objects.setdefault(identity(found), {**_kept(found["metadata"]), "resourceVersion": ""})

    def replace(
        self, items: list[dict[str, Any]], version: str, before: frozenset[str] | None = None
    ) -> Iterator[WatchEvent]:
        """The changes up to this list; *before* are the :meth:`keys` from before its request, None for the current."""
        self.version = version
        gone = dict.fromkeys(self.keys() if before is None else before)
        for item in items:
            gone.pop(identity(item), None)
            yield from self._tell("MODIFIED" if identity(item) in self._objects else "ADDED", item)
        for key in gone:
            if (metadata := self._objects.pop(key, None)) is not None:
                yield WatchEvent("DELETED", {"metadata": metadata})

    def take(self, event: WatchEvent | Bookmark) -> Iterator[WatchEvent]:
        """Process *event*; the events that were not reported before."""
        if isinstance(event, Bookmark):
            self.version = event.version or self.version
            return
        self.version = version_of(event.object) or self.version
        if event.type == "DELETED":
            if self._objects.pop(identity(event.object), None) is not None:
                yield event
        else:
            yield from self._tell("MODIFIED" if identity(event.object) in self._objects else "ADDED", event.object)

    def _tell(self, change: Change, found: dict[str, Any]) -> Iterator[WatchEvent]:
        key = identity(found)
        before = self._objects.get(key)
        metadata = cast(dict[str, Any], found["metadata"])
        self._objects[key] = _kept(metadata)
        if before is None or before.get("resourceVersion") != metadata.get("resourceVersion"):
            yield WatchEvent(change, found)


class Passing(Known):
    """The same for objects that do not change, such as Events: only the version is remembered."""

    def take(self, event: WatchEvent | Bookmark) -> Iterator[WatchEvent]:
        if isinstance(event, WatchEvent):
            self.version = version_of(event.object) or self.version
            yield event
        else:
            yield from super().take(event)


def _kept(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metadata.items() if name != "managedFields"}


def identity(found: Mapping[str, Any]) -> str:
    """
    The object's uid.

    Raises:
        ProtocolError: it has none.
    """
    metadata = found.get("metadata")
    uid = metadata.get("uid") if isinstance(metadata, dict) else None
    if not isinstance(uid, str) or not uid:
        raise broken("the API server sent an object without its uid")
    return uid


def version_of(found: Mapping[str, Any]) -> str:
    """The resourceVersion of an object or a list; empty when there is none."""
    metadata = found.get("metadata")
    version = metadata.get("resourceVersion") if isinstance(metadata, dict) else None
    return version if isinstance(version, str) and len(version) <= 256 else ""


def is_expired(error: APIError) -> bool:
    """Whether the version is too old to continue from."""
    return error.status == 410 or error.reason in ("Expired", "Gone")
