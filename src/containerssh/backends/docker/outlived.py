"""Detection of containers that outlived their logins (``docs/operation.md``, "What a crash leaves")."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime

from containerssh.backends.docker.launch import LABEL_INSTANCE, LABEL_LAUNCH
from containerssh.backends.expiry import LABEL_EXPIRES, LABEL_LIFETIME
from containerssh.core.instance import Instance


class Outlived:
    """
    Distinguishes abandoned containers from those that a living login may still have, even if clocks are wrong or
    change.

    * Containers of this instance: it knows which containers it holds, independently of any clock.
    * Containers of another instance in the state folder: if it lives, it cleans up itself; if it is dead, its
      containers are removed regardless of their age.
    * Containers of an instance that is not in the state folder (on another machine, or forgotten long ago): only if
      they have expired by the server's clock, and this process has seen them for longer than their login may last by a
      monotonic clock.
    """

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._first_seen: dict[str, float] = {}

    def among(
        self, found: Mapping[str, Mapping[str, str]], held: Collection[str], now: datetime, monotonic: float
    ) -> Iterator[str]:
        """
        The containers of *found* (id to labels) that are abandoned. *found* must list all containers of the engine,
        queried since the last call; *held* are the launch ids that this instance holds; *monotonic* is in seconds.
        """
        self._first_seen = {container: self._first_seen.get(container, monotonic) for container in found}
        for container, labels in found.items():
            expires = _moment(labels.get(LABEL_EXPIRES, ""))
            owner = labels.get(LABEL_INSTANCE, "")
            if expires is None or expires >= now:
                continue
            if owner == self._instance.id:
                if labels.get(LABEL_LAUNCH) not in held:
                    yield container
            elif not self._instance.knows(owner):
                lifetime = _seconds(labels.get(LABEL_LIFETIME, ""))
                if lifetime is not None and monotonic - self._first_seen[container] > lifetime:
                    yield container


def _moment(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _seconds(text: str) -> float | None:
    return float(text) if text.isascii() and text.isdecimal() and len(text) <= 12 else None
