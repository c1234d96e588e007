"""Being there, in one namespace of one cluster: our Lease, and a look now and then for what dead servers left."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any

from containerssh.backends.kubernetes.client import LEASES, PODS, KubernetesClient
from containerssh.backends.kubernetes.errors import APIError
from containerssh.backends.kubernetes.lease import LABEL_GATEWAY, Lease, Observed, Rhythm, last_renewal, lease_name
from containerssh.backends.kubernetes.pod import LABEL_INSTANCE, LABEL_LAUNCH, LABEL_LEASE
from containerssh.backends.kubernetes.removal import Removal, Unneeded
from containerssh.core.codes import GeneralCode, KubernetesCode
from containerssh.core.errors import ContainerSSHError, describe
from containerssh.core.flag import Flag
from containerssh.core.messages import Event
from containerssh.core.tasks import finish, time_limit

logger = logging.getLogger(__name__)

_IDLE = 300.0
"""Seconds after the last login in a namespace until our Lease there is given up, unless it is the configured one."""
_BEGIN = 3.0
_END = timedelta(seconds=5)
_RARELY = 6
"""Where we may have no Lease, and no pod names one, that is asked so many times less often."""
_QUICKLY = 4
"""While a Lease that could not be renewed has not run out, that is tried so many times more often."""
_MOST_DOUBLINGS = 3


class Presence:
    """In one namespace; it lives until it is closed."""

    def __init__(
        self,
        client: KubernetesClient,
        namespace: str,
        instance: str,
        held: Collection[str],
        rhythm: Rhythm,
        *,
        stays: bool,
    ) -> None:
        """*held* are the launches of pods that somebody here still sees to; *stays*: even when nobody uses it."""
        self._client = client
        self._namespace = namespace
        self._instance = instance
        self._held = held
        self._rhythm = rhythm
        self._lease = Lease(client, namespace, instance, rhythm)
        self._observed = Observed(rhythm.lasts)
        self._removal = Removal(client, again=rhythm.look, longest=rhythm.look_at_pods)
        self._tried = Flag()
        self._named = False
        """Whether pods may name our Lease: others remove them if it is not renewed."""
        self._next_look_at_pods = 0.0
        self._stuck: frozenset[str] = frozenset()
        """Leases that have run out and some of whose pods could not be removed."""
        self._blind = False
        self.stays = stays
        self.users = 0
        self.last_used = asyncio.get_running_loop().time()
        # Two: however long a look takes, our Lease is renewed in time.
        self._tasks = [asyncio.create_task(self._keep_lease()), asyncio.create_task(self._look_now_and_then())]

    async def lease(self) -> str:
        """
        The name of our Lease, for a pod's label; empty where there can be none. Waits a moment for the first one: after
        that it is on its way, and whoever finds its name before it waits as long for it as a Lease lasts.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(_BEGIN):
                await self._tried.wait()
        if self._lease.refused:
            return ""
        self._named = True
        return self._lease.name

    @property
    def is_idle(self) -> bool:
        """Whether nobody has needed it for long."""
        idle = asyncio.get_running_loop().time() - self.last_used > _IDLE
        return idle and not self.users and not self.stays

    def has_the_lease_of(self, other: Presence) -> bool:
        """Whether both renew the same one, by different connections to one cluster."""
        return self._lease.uid == other._lease.uid != ""

    async def close(self, *, release: bool) -> None:
        """Live no more; with *release* our Lease goes at once, else it runs out, and others remove what we left."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if release:
            await finish(self._lease.release, within=_END)

    async def _keep_lease(self) -> None:
        clock = asyncio.get_running_loop().time
        renewed = clock()
        failures = 0
        while True:
            began = clock()
            # A first request that gets no answer leaves time for others; an API that is slow gets more and more of it.
            within = timedelta(seconds=self._rhythm.renew * 2**failures)
            if await self._try(partial(self._renew, within)):
                renewed, failures = began, 0
            else:
                failures = min(failures + 1, _MOST_DOUBLINGS)
            self._tried.set()
            pause = self._rhythm.renew
            if failures and clock() - renewed < self._rhythm.lasts:
                pause /= _QUICKLY
            elif self._lease.refused and not self._named:
                pause *= _RARELY
            await asyncio.sleep(pause * random.uniform(0.8, 1.0))  # noqa: S311  spreads requests

    async def _renew(self, within: timedelta) -> None:
        def late() -> APIError:
            return APIError("renewing the lease", status=0, message=f"no answer within {within.total_seconds():g} s")

        async with time_limit(within, late):
            await self._lease.renew()

    async def _look_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(self._rhythm.look * random.uniform(0.8, 1.2))  # noqa: S311  spreads looks
            await self._try(self.look)

    async def _try(self, what: Callable[[], Awaitable[None]]) -> bool:
        """Whether it succeeded; what is wrong is logged."""
        try:
            await what()
        except ContainerSSHError as exc:
            # Others may not have been able to renew their Leases either.
            self._observed.forget()
            logger.debug(Event(KubernetesCode.LEASE_FAILED, f"The Lease or others' could not be seen to: {exc}"))
        except Exception as exc:
            text = f"Looking after {self._namespace} failed because of a fault in the server ({describe(exc)})"
            logger.exception(Event(GeneralCode.UNKNOWN_ERROR, text))
        else:
            return True
        return False

    async def look(self) -> None:
        """
        Remove the pods of servers whose Lease has run out, those that we have lost sight of, and those that have
        reached their longest time. What cannot be removed is tried again by a later look.

        Raises:
            APIError: the API is away, or refuses to be looked at.
        """
        clock = asyncio.get_running_loop().time
        now = clock()
        # A pod whose login ends during this look is that login's.
        held = frozenset(self._held)
        leases = await self._leases()
        seen = {str(lease["metadata"].get("name")): lease for lease in leases or ()}
        over = [] if leases is None else self._observed.see(leases, now, took=clock() - now)
        if self._stuck.issuperset(over) and now < self._next_look_at_pods:
            return
        pods, _ = await self._client.list(PODS, self._namespace, label_selector=LABEL_INSTANCE, keep=_essence)
        named = (name for pod in pods if (name := _label(pod, LABEL_LEASE)))
        missing = [] if leases is None else self._observed.missing(named, now, took=clock() - now)
        # A Lease that is not there yet may be gone for good when it would have run out.
        pause = self._rhythm.lasts if self._observed.waits(now) else self._rhythm.look_at_pods
        self._next_look_at_pods = now + min(pause, self._rhythm.look_at_pods)
        gone = {*over, *missing} - {self._lease.name}
        by_lease: dict[str, list[Unneeded]] = {}
        for one in self._unneeded(pods, gone, held):
            name = _label(one.pod, LABEL_LEASE)
            by_lease.setdefault(name if name in gone else "", []).append(one)
        await self._removal.remove(by_lease.pop("", []))
        self._stuck = frozenset(
            [name for name in sorted(gone) if not await self._remove_dead(name, seen.get(name), by_lease.get(name, []))]
        )

    async def _remove_dead(self, name: str, seen: Mapping[str, Any] | None, unneeded: Sequence[Unneeded]) -> bool:
        """
        Remove what a server has left, and its Lease *name* which was last *seen* like that, unless it has come back
        meanwhile. Whether nothing is left that could not be removed.

        Raises:
            APIError: the API is away.
        """
        lease, back = seen, False

        async def is_back() -> bool:
            """Or it has released its Lease, or another server removes what there was."""
            nonlocal lease, back
            lease = await self._again(name, seen)
            back = not _same(lease, seen)
            return back

        if await is_back():
            return True
        left = await self._removal.remove(unneeded, unless=is_back)
        if back:
            return True
        if left:
            return False
        if lease is not None:
            # The next look finds what was made meanwhile; a holder that has renewed it since keeps it.
            metadata = lease["metadata"]
            with suppress(APIError):
                await self._client.delete(
                    LEASES,
                    self._namespace,
                    name,
                    uid=str(metadata["uid"]),
                    version=str(metadata["resourceVersion"]) if metadata.get("resourceVersion") else None,
                )
        return True

    async def _again(self, name: str, seen: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        """The Lease as it is now; as it was *seen* where we may only list them. Raises APIError."""
        try:
            return await self._client.get(LEASES, self._namespace, name)
        except APIError as exc:
            if exc.status == 404:
                return None
            if exc.status == 403:
                return seen
            raise

    async def _leases(self) -> list[dict[str, Any]] | None:
        """All servers'; None: we may not list them."""
        try:
            found, _ = await self._client.list(LEASES, self._namespace, label_selector=LABEL_GATEWAY)
        except APIError as exc:
            if exc.status != 403:
                raise
            # Without the right to have one, that is said already.
            if not self._blind and not self._lease.refused:
                text = f"Pods of other servers are not removed when these have ended: {exc}"
                logger.warning(Event(KubernetesCode.LEASE_FAILED, text, namespace=self._namespace))
            self._blind = True
            return None
        self._blind = False
        return found

    def _unneeded(
        self, pods: Sequence[Mapping[str, Any]], gone: Collection[str], held: Collection[str]
    ) -> Iterator[Unneeded]:
        for pod in pods:
            launch = _label(pod, LABEL_LAUNCH)
            if pod["metadata"].get("deletionTimestamp") or launch in held or launch in self._held:
                continue
            if _label(pod, LABEL_LEASE) in gone:
                yield Unneeded(pod, "a server had left whose Lease has run out")
            elif _label(pod, LABEL_INSTANCE) == self._instance:
                yield Unneeded(pod, "this server had lost sight of")
            elif pod["status"].get("reason") == "DeadlineExceeded":
                yield Unneeded(pod, "had outlived the longest time of its login")


async def remove_dead(
    client: KubernetesClient, removal: Removal, namespace: str, dead: Collection[str], known: Collection[str] = ()
) -> tuple[int, set[str]]:
    """
    Remove the pods of *dead* instances of this machine, and their Leases: how many pods there were, and the instances
    some of whose pods are still there. An empty *namespace* means all of them; Leases are looked for where there were
    pods, and in the *known* ones.

    Raises:
        APIError: the API is away, or refuses to be looked at.
    """
    selector = f"{LABEL_INSTANCE} in ({','.join(sorted(dead))})"
    pods, _ = await client.list(PODS, namespace, label_selector=selector, keep=_essence)
    there = [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]
    left = await removal.remove([Unneeded(pod, "an ended server process had left") for pod in there])
    with_pods = {_label(pod, LABEL_INSTANCE) for pod in left}
    for space in {namespace, *known, *(str(pod["metadata"].get("namespace")) for pod in pods)} - {""}:
        for instance in set(dead) - with_pods:
            with suppress(APIError):
                await client.delete(LEASES, space, lease_name(instance))
    return len(there) - len(left), with_pods


def _same(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> bool:
    """Whether a Lease has not been renewed between the two looks at it, or was there in neither."""
    if one is None or other is None:
        return one is other
    return last_renewal(one) == last_renewal(other)


def _essence(pod: dict[str, Any]) -> dict[str, Any]:
    """What is looked at here: of very many pods at once."""
    status = pod.get("status")
    kept = ("name", "namespace", "uid", "labels", "deletionTimestamp")
    metadata = {name: pod["metadata"].get(name) for name in kept}
    return {"metadata": metadata, "status": {"reason": status.get("reason") if isinstance(status, dict) else None}}


def _label(pod: Mapping[str, Any], name: str) -> str:
    labels = pod["metadata"].get("labels")
    return str(labels.get(name, "")) if isinstance(labels, Mapping) else ""
