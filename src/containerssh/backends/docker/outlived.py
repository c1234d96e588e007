"""Which containers have outlived the longest time of their logins (``docs/operation.md``, "What a crash leaves")."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime

from containerssh.backends.container import LABEL_EXPIRES, LABEL_LIFETIME
from containerssh.backends.docker.launch import LABEL_INSTANCE, LABEL_LAUNCH
from containerssh.core.instance import Instance


class Outlived:
    """
    Tells containers that nobody has any more from those that a living login may still have, though clocks may be wrong
    and may be set at any time.

    * Ours: we know which containers we hold, so no clock can deceive us about the others.
    * Of another instance that the state folder knows: it lives, and looks after its own; or it is dead, and then its
      containers go without regard to their time.
    * Of an instance that the state folder does not know, on another machine or long forgotten: only if its time is over
      by our clock, and if we have also seen it for longer than its login may last, by a clock that nobody sets.
    """

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._first_seen: dict[str, float] = {}

    def among(
        self, found: Mapping[str, Mapping[str, str]], held: Collection[str], now: datetime, monotonic: float
    ) -> Iterator[str]:
        """
        Those of *found* (ids, each with its labels) that have. *found* is all that the engine has, asked for since the
        last call; *held* are the launches of the containers that this instance holds, *monotonic* is in seconds.
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
