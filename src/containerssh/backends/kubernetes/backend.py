"""The kubernetes backend: a pod for each login, one for each session, or a persistent one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from functools import partial

from containerssh.backends.kubernetes.client import KubernetesClient
from containerssh.backends.kubernetes.credentials import Credentials
from containerssh.backends.kubernetes.direct import DirectWays
from containerssh.backends.kubernetes.errors import APIError
from containerssh.backends.kubernetes.following import Followers
from containerssh.backends.kubernetes.launch import OwnPod
from containerssh.backends.kubernetes.lease import Rhythm
from containerssh.backends.kubernetes.persistent import PersistentStart
from containerssh.backends.kubernetes.plain import connection
from containerssh.backends.kubernetes.presence import Presence, remove_dead
from containerssh.backends.kubernetes.removal import Removal
from containerssh.backends.kubernetes.start import Start
from containerssh.backends.session_mode import SessionModeConnection
from containerssh.config.kubernetes import KubernetesConfig
from containerssh.config.kubernetes_connection import KubernetesConnectionConfig
from containerssh.core.codes import KubernetesCode
from containerssh.core.errors import ContainerSSHError
from containerssh.core.handlers import ConnectionHandler, Notices
from containerssh.core.instance import Instance
from containerssh.core.messages import Event
from containerssh.core.metadata import Login
from containerssh.core.tasks import finish

logger = logging.getLogger(__name__)

_CLUSTERS = 64
_NAMESPACES = 256
_REMOVE_AGAIN = timedelta(seconds=30)
_LAST_TRY = timedelta(seconds=10)


class Cluster:
    """A cluster that logins use: its client, its watches, and this server's presence in its namespaces."""

    def __init__(self, client: KubernetesClient) -> None:
        self.client = client
        self.followers = Followers(client)
        self.removal = Removal(client)
        self.presences: dict[str, Presence] = {}
        self.shell_less: set[str] = set()
        self.cramped: set[str] = set()
        self.users = 0


class KubernetesBackend:
    """Starts pods in clusters; there is one for the whole server."""

    name = "kubernetes"

    def __init__(self, instance: Instance, rhythm: Rhythm | None = None) -> None:
        """*rhythm* overrides the configured timing of Leases."""
        self._instance = instance
        self._rhythm = rhythm
        self._clusters: dict[tuple[KubernetesConnectionConfig, timedelta], Cluster] = {}
        self._left: dict[OwnPod, Cluster] = {}
        self._direct = DirectWays()
        self._held: set[str] = set()
        self._janitor: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self.outlived: set[str] = set()
        """The dead instances of which the last :meth:`reap` could not remove all pods."""

    @asynccontextmanager
    async def login(self, login: Login, config: KubernetesConfig, notices: Notices) -> AsyncIterator[ConnectionHandler]:
        """
        A login's scope, inside which its pod is ready. At the end the pod is removed, unless it is persistent.

        Raises:
            ConfigError: the connection's settings cannot be used.
            BackendError: there is no pod; the text contains the cluster's message.
        """
        namespace = str(config.pod.metadata["namespace"])
        persistent = config.pod.mode == "persistent"
        async with self._used(config) as cluster:
            lease = "" if persistent else await self._lease(cluster, config)
            kind = PersistentStart if persistent else Start
            start = kind(
                cluster.client.for_login(),
                cluster.followers,
                self._instance,
                config,
                login,
                notices,
                partial(self._remember, cluster),
                lease,
                self._held,
                cluster.shell_less,
                cluster.cramped,
                self._direct,
            )
            presence = cluster.presences.get(namespace)
            if presence is not None:
                presence.users += 1
            try:
                if config.pod.mode == "session":
                    yield SessionModeConnection(partial(_session_pod, start))
                else:
                    async with (
                        start.run(config.timeouts.pod_start) as inside,
                        connection(inside, config) as handler,
                    ):
                        yield handler
            finally:
                if presence is not None:
                    presence.users -= 1
                    presence.last_used = asyncio.get_running_loop().time()

    async def probe(self, config: KubernetesConfig) -> str:
        """
        Describe the cluster that answers.

        Raises:
            ConfigError, BackendError: none answers.
        """
        async with self._used(config) as cluster:
            version = await cluster.client.version()
            return f"Kubernetes {version.get('gitVersion', '?')}"

    async def check(self, config: KubernetesConfig) -> None:
        """Raises ConfigError: what the configuration names (files, a context) cannot be used."""
        await Credentials(config.connection).access()

    async def reap(self, config: KubernetesConfig | None, dead: Collection[str]) -> int:
        """
        Remove the pods of *dead* instances of this machine; return their number. From now on this server keeps a Lease
        in the namespace of *config*. Without the right to list pods in all namespaces, only that one is searched, and
        those that logins have used.

        Raises:
            ConfigError: the connection's settings cannot be used.
            BackendError: the API does not answer.
        """
        for cluster in self._clusters.values():
            for presence in cluster.presences.values():
                presence.stays = False
        if config is not None:
            async with self._used(config) as cluster:
                self._presence(cluster, config, stays=True)
        await self._tidy_presences()
        outlived: set[str] = set()
        removed = 0
        for cluster in list(self._clusters.values()) if dead else ():
            count, left = await self._remove_dead(cluster, dead)
            removed += count
            outlived |= left
        self.outlived = outlived
        return removed

    async def _remove_dead(self, cluster: Cluster, dead: Collection[str]) -> tuple[int, set[str]]:
        client, removal = cluster.client, cluster.removal
        try:
            # Logins of dead instances may have used any namespace.
            return await remove_dead(client, removal, "", dead, list(cluster.presences))
        except APIError as exc:
            if exc.status != 403:
                raise
        ends = [await remove_dead(client, removal, namespace, dead) for namespace in list(cluster.presences)]
        return sum(count for count, _ in ends), set().union(*(left for _, left in ends))

    async def close(self) -> None:
        """Try once more to remove what is left, then close everything. Call it after the last login."""
        if self._janitor is not None:
            self._janitor.cancel()
            await asyncio.wait([self._janitor])
        if self._left:
            await finish(self._remove_left, within=_LAST_TRY)
        release = not self._left
        for pod in self._left:
            pod.give_up()
        await self._direct.close()
        clusters = list(self._clusters.values())
        self._clusters.clear()
        await asyncio.gather(*(self._close(cluster, release=release) for cluster in clusters), *self._closing)

    @asynccontextmanager
    async def _used(self, config: KubernetesConfig) -> AsyncIterator[Cluster]:
        key = (config.connection, config.timeouts.http)
        cluster = self._clusters.get(key)
        if cluster is None:
            cluster = self._clusters[key] = Cluster(KubernetesClient(*key))
        cluster.users += 1
        try:
            yield cluster
        finally:
            cluster.users -= 1
            if len(self._clusters) > _CLUSTERS:
                self._forget_one()

    def _forget_one(self) -> None:
        for key, cluster in self._clusters.items():
            if not cluster.users and not any(presence.stays for presence in cluster.presences.values()):
                del self._clusters[key]
                task = asyncio.create_task(self._close(cluster, release=True))
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)
                return

    async def _close(self, cluster: Cluster, *, release: bool) -> None:
        left = (presence.close(release=release and self._is_last(presence)) for presence in cluster.presences.values())
        await asyncio.gather(*left)
        await cluster.followers.close()
        await cluster.client.close()

    async def _lease(self, cluster: Cluster, config: KubernetesConfig) -> str:
        presence = self._presence(cluster, config)
        return "" if presence is None else await presence.lease()

    def _presence(self, cluster: Cluster, config: KubernetesConfig, *, stays: bool = False) -> Presence | None:
        namespace = str(config.pod.metadata["namespace"])
        presence = cluster.presences.get(namespace)
        if presence is None and (stays or len(cluster.presences) < _NAMESPACES):
            rhythm = self._rhythm or Rhythm.of(config.timeouts.lease.total_seconds())
            presence = cluster.presences[namespace] = Presence(
                cluster.client, namespace, self._instance.id, self._held, rhythm, stays=stays
            )
        if presence is not None:
            presence.stays = presence.stays or stays
            presence.last_used = asyncio.get_running_loop().time()
        return presence

    async def _tidy_presences(self) -> None:
        for cluster in list(self._clusters.values()):
            for namespace, presence in list(cluster.presences.items()):
                if presence.is_idle:
                    del cluster.presences[namespace]
                    await presence.close(release=self._is_last(presence))

    def _is_last(self, presence: Presence) -> bool:
        """Whether nobody else renews its Lease, with another configuration of the connection to the same cluster."""
        others = (other for cluster in self._clusters.values() for other in cluster.presences.values())
        return not any(other is not presence and other.has_the_lease_of(presence) for other in others)

    def _remember(self, cluster: Cluster, pod: OwnPod) -> None:
        text = "The pod could not be removed; that is tried again in the background"
        logger.error(Event(KubernetesCode.POD_REMOVE_FAILED, text, podName=pod.name))
        cluster.users += 1
        self._left[pod] = cluster
        if self._janitor is None or self._janitor.done():
            self._janitor = asyncio.create_task(self._tidy())

    async def _tidy(self) -> None:
        limit = _REMOVE_AGAIN.total_seconds()
        while self._left:
            await asyncio.sleep(limit)
            with suppress(TimeoutError):
                async with asyncio.timeout(limit):
                    await self._remove_left()

    async def _remove_left(self) -> None:
        await asyncio.gather(*(self._remove_one(pod) for pod in list(self._left)))

    async def _remove_one(self, pod: OwnPod) -> None:
        try:
            await pod.remove()
        except APIError as exc:
            if exc.passing or exc.status == 401:
                logger.debug(exc.event())
                return
            # The cluster refuses. The presence, which looks for left-over pods now and then, takes over.
            logger.warning(exc.event())
        except ContainerSSHError as exc:
            # The credentials cannot be read, or the reply is malformed, at the moment.
            logger.debug(exc.event())
            return
        self._held.discard(pod.launch)
        self._left.pop(pod).users -= 1


@asynccontextmanager
async def _session_pod(start: Start) -> AsyncIterator[ConnectionHandler]:
    """A pod for one session."""
    config = start.config
    async with start.again().run(config.timeouts.command_start) as inside, connection(inside, config) as handler:
        yield handler
