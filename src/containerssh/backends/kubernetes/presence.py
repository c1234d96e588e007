"""Being there, in one namespace of one cluster: our Lease, and a look now and then for what dead servers left."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

from containerssh.backends.kubernetes.client import LEASES, PODS, KubernetesClient
from containerssh.backends.kubernetes.errors import APIError
from containerssh.backends.kubernetes.lease import LABEL_GATEWAY, Lease, Observed, Rhythm, lease_name
from containerssh.backends.kubernetes.pod import LABEL_INSTANCE, LABEL_LAUNCH, LABEL_LEASE
from containerssh.core.codes import GeneralCode, KubernetesCode
from containerssh.core.errors import ContainerSSHError, describe
from containerssh.core.flag import Flag
from containerssh.core.messages import Event
from containerssh.core.tasks import finish

logger = logging.getLogger(__name__)

_IDLE = 300.0
"""Seconds after the last login in a namespace until our Lease there is given up, unless it is the configured one."""
_BEGIN = 3.0
_END = timedelta(seconds=5)


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
        self._tried = Flag()
        self._looked_at_pods = 0.0
        self._told: set[str] = set()
        self.stays = stays
        self.users = 0
        self.last_used = asyncio.get_running_loop().time()
        self._task = asyncio.create_task(self._live())

    async def lease(self) -> str:
        """The name of our Lease; empty if there is none. Waits a moment for the first one."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_BEGIN):
                await self._tried.wait()
        return self._lease.name if self._lease.held else ""

    @property
    def is_idle(self) -> bool:
        """Whether nobody has needed it for long."""
        idle = asyncio.get_running_loop().time() - self.last_used > _IDLE
        return idle and not self.users and not self.stays

    async def close(self, *, release: bool) -> None:
        """Live no more; with *release* our Lease goes at once, else it runs out, and others remove what we left."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if release:
            await finish(self._lease.release, within=_END)

    async def _live(self) -> None:
        loop = asyncio.get_running_loop()
        next_look = loop.time() + self._rhythm.look
        while True:
            try:
                await self._lease.renew()
                if loop.time() >= next_look:
                    next_look = loop.time() + self._rhythm.look * random.uniform(0.8, 1.2)  # noqa: S311  spreads looks
                    await self.look()
            except ContainerSSHError as exc:
                self._observed.forget()
                logger.debug(Event(KubernetesCode.LEASE_FAILED, f"The Lease or others' could not be seen to: {exc}"))
            except Exception as exc:
                text = f"Looking after {self._namespace} failed because of a fault in the server ({describe(exc)})"
                logger.exception(Event(GeneralCode.UNKNOWN_ERROR, text))
            self._tried.set()
            await asyncio.sleep(self._rhythm.renew * random.uniform(0.8, 1.0))  # noqa: S311  spreads requests

    async def look(self) -> None:
        """
        Remove the pods of servers whose Lease has run out, and pods that have reached their longest time.

        Raises:
            APIError: the API is away, or refuses.
        """
        now = asyncio.get_running_loop().time()
        try:
            leases, _ = await self._client.list(LEASES, self._namespace, label_selector=LABEL_GATEWAY)
        except APIError as exc:
            if exc.status == 403:
                return  # Told already: we have no Lease either.
            raise
        over = self._observed.see(leases, now)
        if not over and now - self._looked_at_pods < self._rhythm.look_at_pods:
            return
        self._looked_at_pods = now
        pods, _ = await self._client.list(PODS, self._namespace, label_selector=LABEL_INSTANCE)
        over += self._observed.missing((_label(pod, LABEL_LEASE) for pod in pods if _label(pod, LABEL_LEASE)), now)
        await self._clear(pods, [name for name in over if name != self._lease.name], leases)

    async def _clear(
        self, pods: Sequence[Mapping[str, Any]], over: Collection[str], leases: Sequence[Mapping[str, Any]]
    ) -> None:
        for pod in pods:
            if pod["metadata"].get("deletionTimestamp") or _label(pod, LABEL_LAUNCH) in self._held:
                continue
            if _label(pod, LABEL_LEASE) in over:
                await remove(self._client, pod, "a server had left whose Lease has run out")
            elif _label(pod, LABEL_INSTANCE) == self._instance:
                await remove(self._client, pod, "this server had lost sight of")
            elif pod.get("status", {}).get("reason") == "DeadlineExceeded":
                await remove(self._client, pod, "had outlived the longest time of its login")
        for lease in leases:
            if lease["metadata"]["name"] in over:
                # All its pods are on their way out; the next look finds what was made meanwhile.
                with suppress(APIError):
                    uid = str(lease["metadata"]["uid"])
                    await self._client.delete(LEASES, self._namespace, str(lease["metadata"]["name"]), uid=uid)


async def remove_dead(
    client: KubernetesClient, namespace: str, dead: Collection[str], known: Collection[str] = ()
) -> int:
    """
    Remove the pods of *dead* instances of this machine, and their Leases; how many there were. An empty *namespace*
    means all of them; Leases are looked for where there were pods, and in the *known* ones.

    Raises:
        APIError: the API is away, or refuses.
    """
    selector = f"{LABEL_INSTANCE} in ({','.join(sorted(dead))})"
    pods, _ = await client.list(PODS, namespace, label_selector=selector)
    left = [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]
    for pod in left:
        await remove(client, pod, "an ended server process had left")
    for space in {namespace, *known, *(str(pod["metadata"]["namespace"]) for pod in pods)} - {""}:
        for instance in dead:
            with suppress(APIError):
                await client.delete(LEASES, space, lease_name(instance))
    return len(left)


async def remove(client: KubernetesClient, pod: Mapping[str, Any], why: str) -> None:
    """Remove a pod that nobody needs. Raises APIError."""
    metadata = pod["metadata"]
    name = str(metadata["name"])
    try:
        await client.delete(PODS, str(metadata["namespace"]), name, uid=str(metadata["uid"]))
    except APIError as exc:
        if exc.status not in (404, 409):
            raise
    logger.info(Event(KubernetesCode.ORPHAN_REMOVED, f"Removed a pod that {why}", podName=name))


def _label(pod: Mapping[str, Any], name: str) -> str:
    return str((pod["metadata"].get("labels") or {}).get(name, ""))
