"""The Lease by which others see that this server lives, and who else's has run out (coordination.k8s.io)."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from containerssh.backends.kubernetes.client import LEASES, KubernetesClient
from containerssh.backends.kubernetes.errors import APIError
from containerssh.core.codes import KubernetesCode
from containerssh.core.messages import Event

logger = logging.getLogger(__name__)

LABEL_GATEWAY = "containerssh_gateway"
"""What all Leases of such servers have."""

_LONGEST = 600.0


@dataclass(frozen=True)
class Rhythm:
    """Seconds."""

    renew: float = 10.0
    lasts: float = 40.0
    look: float = 15.0
    """Between two looks for Leases that have run out."""
    look_at_pods: float = 300.0
    """Between two looks at all pods, for those whose Lease is not even there."""

    @staticmethod
    def of(lasts: float) -> Rhythm:
        """That of Leases which last so long; at least a few seconds."""
        return Rhythm(renew=lasts / 4, lasts=lasts, look=lasts * 3 / 8)


def lease_name(instance: str) -> str:
    """The Lease of an instance."""
    return f"containerssh-{instance}"


class Lease:
    """Ours, in one namespace."""

    def __init__(self, client: KubernetesClient, namespace: str, instance: str, rhythm: Rhythm) -> None:
        self._client = client
        self._namespace = namespace
        self._instance = instance
        self._rhythm = rhythm
        self.uid = ""
        """Empty: there is none."""
        self.name = lease_name(instance)
        self.refused = ""
        """Why there can be none, in the API's words."""

    async def renew(self) -> None:
        """
        Say that we live. Where the rights for that are missing, that is told once, and there is no Lease.

        Raises:
            APIError: the API is away, or does not know us for the moment.
        """
        try:
            if not self.uid:
                await self._create()
            try:
                await self._renew()
            except APIError as exc:
                if exc.status != 404:
                    raise
                self._tell_of_removal()
                await self._create()
                await self._renew()
        except APIError as exc:
            if exc.passing or exc.status == 401:
                raise
            await self._give_up(exc)
        else:
            if self.refused:
                self.refused = ""
                logger.debug(Event(KubernetesCode.LEASE, "A Lease can be had now", lease=self.name))

    async def _renew(self) -> None:
        change = {"spec": {"renewTime": _now()}}
        lease = await self._client.patch(LEASES, self._namespace, self.name, change)
        uid = str(lease["metadata"]["uid"])
        if uid != self.uid:
            # Another one of our name: it is ours from now on, and ours to release.
            self.uid = uid
            self._tell_of_removal()

    def _tell_of_removal(self) -> None:
        text = "This server's Lease was removed: another one took it for dead, and may have removed its pods"
        logger.warning(Event(KubernetesCode.LEASE_FAILED, text, lease=self.name))

    async def _give_up(self, refusal: APIError) -> None:
        """One that is there and cannot be renewed would have our pods taken for a dead server's."""
        if not self.refused:
            text = f"Other servers cannot remove what this one might leave in {self._namespace}"
            logger.warning(Event(KubernetesCode.LEASE_FAILED, f"{text} ({refusal.explanation})"))
        self.refused = refusal.explanation
        with suppress(APIError):
            await self.release()

    async def release(self) -> None:
        """We have nothing left there. Raises APIError."""
        if self.uid:
            uid, self.uid = self.uid, ""
            try:
                await self._client.delete(LEASES, self._namespace, self.name, uid=uid)
            except APIError as exc:
                if exc.status not in (404, 409):
                    raise

    async def _create(self) -> None:
        now = _now()
        body = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": self.name, "labels": {LABEL_GATEWAY: "true"}},
            "spec": {
                "holderIdentity": self._instance,
                "leaseDurationSeconds": round(self._rhythm.lasts),
                "acquireTime": now,
                "renewTime": now,
            },
        }
        try:
            lease = await self._client.create(LEASES, self._namespace, body)
        except APIError as exc:
            if exc.reason != "AlreadyExists":
                raise
            # The answer to an earlier try was lost.
            lease = await self._client.get(LEASES, self._namespace, self.name)
        self.uid = str(lease["metadata"]["uid"])
        text = f"This server is known in {self._namespace} by a Lease"
        logger.debug(Event(KubernetesCode.LEASE, text, lease=self.name))


class Observed:
    """
    Which Leases have run out. Clocks of different machines may differ, so no time in a Lease is compared with ours: one
    has run out when it has not been renewed for as long as it lasts, by our own clock that nobody sets.
    """

    def __init__(self, lasts: float) -> None:
        self._lasts = lasts
        self._since: dict[str, tuple[str, float]] = {}
        self._missing: dict[str, float] = {}

    def see(self, leases: Sequence[Mapping[str, Any]], now: float, *, took: float = 0.0) -> list[str]:
        """
        The names of those of *leases*, which are all that there are, that have run out. They were asked for *now*, by a
        monotonic clock; a renewal may be as young as the answer, which *took* so many seconds.
        """
        found = {str(lease["metadata"].get("name")): lease for lease in leases}
        self._since = {name: self._changed(name, lease, now + took) for name, lease in found.items()}
        return [name for name, lease in found.items() if now - self._since[name][1] > self._duration(lease)]

    def forget(self) -> None:
        """
        Begin anew: where our own Lease could not be renewed, others may not have been able to renew theirs either.
        """
        self._since.clear()
        self._missing.clear()

    def missing(self, names: Iterator[str], now: float, *, took: float = 0.0) -> list[str]:
        """Those of *names*, all that pods name, that have not been there for as long as a Lease lasts."""
        absent = {name for name in names if name not in self._since}
        self._missing = {name: self._missing.get(name, now + took) for name in absent}
        return [name for name, since in self._missing.items() if now - since > self._lasts]

    def waits(self, now: float) -> bool:
        """Whether there is one that pods name and that is not there, but may still come."""
        return any(now - since <= self._lasts for since in self._missing.values())

    def _changed(self, name: str, lease: Mapping[str, Any], now: float) -> tuple[str, float]:
        renewed = last_renewal(lease)
        before = self._since.get(name)
        return before if before is not None and before[0] == renewed else (renewed, now)

    def _duration(self, lease: Mapping[str, Any]) -> float:
        told = _spec(lease).get("leaseDurationSeconds")
        # What somebody has written there must not make us quicker than we are ourselves.
        return min(max(float(told), self._lasts), _LONGEST) if isinstance(told, int) else self._lasts


def last_renewal(lease: Mapping[str, Any]) -> str:
    """What is another text after each renewal, and for another Lease of the same name."""
    return f"{lease['metadata'].get('uid')} {_spec(lease).get('renewTime')}"


def _spec(lease: Mapping[str, Any]) -> Mapping[str, Any]:
    spec = lease.get("spec")
    return spec if isinstance(spec, Mapping) else {}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
