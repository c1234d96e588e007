"""Logins to a persistent pod."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Any

from containerssh.backends.kubernetes.client import PODS
from containerssh.backends.kubernetes.errors import APIError
from containerssh.backends.kubernetes.launch import PodError, persist, refused
from containerssh.backends.kubernetes.pod import AGENT_VOLUME, Idle, pod_body, variables
from containerssh.backends.kubernetes.start import Inside, Start, current_pod
from containerssh.core.codes import KubernetesCode
from containerssh.core.messages import log_labels
from containerssh.core.tasks import time_limit

_PAUSE = 0.5


class PersistentStart(Start):
    """A login to the configured pod, which is not removed."""

    @asynccontextmanager
    async def run(self, within: timedelta) -> AsyncIterator[Inside]:
        """
        The scope in which programs can run in the pod, which has the login's files. The login's programs end with it.

        Raises:
            BackendError: the pod is missing and not to be created, or not ready within *within*.
        """
        async with AsyncExitStack() as undo:
            async with time_limit(within, partial(self._late, within)):
                inside = await self._enter(undo)
            await self.write_files(inside)
            yield inside

    async def _enter(self, undo: AsyncExitStack) -> Inside:
        name = str(self.config.pod.metadata.get("name") or "")
        if not name:
            raise PodError("persistent mode needs the pod's name in metadata.name")
        undo.enter_context(log_labels(podName=name))
        # Followed before it is looked up, so that no change is missed.
        followed = await undo.enter_async_context(self.followers.follow(self.namespace, name))
        pod = await self._settled(name)
        self._console = self._console_of(pod)
        self._installed = _has_agent(pod, self._console)
        followed.follow_only(pod)
        # The pod's spec is not this login's, so the variables are passed to programs.
        env = variables(self.config.pod, self.login, through_agent=True)
        return await self.inside(undo, followed, env.all_given())

    async def _settled(self, name: str) -> dict[str, Any]:
        """The pod. If configured, a missing one is created, after the end of one that is being deleted."""
        while True:
            try:
                pod = await persist(partial(current_pod, self.client, self.namespace, name), on_error=self._remember)
            except APIError as exc:
                raise refused(exc) from exc
            leaving = pod is not None and pod["metadata"].get("deletionTimestamp")
            if pod is not None and not leaving:
                return pod
            if not self.config.pod.create_missing_pods:
                text = f"there is no pod {name}" if pod is None else f"the pod {name} is being deleted"
                user = "There is no pod for this login." if pod is None else "The pod is being deleted."
                raise PodError(text, user_message=user, code=KubernetesCode.POD_NOT_FOUND)
            if leaving:
                await asyncio.sleep(_PAUSE)
                continue
            try:
                return await persist(partial(self._create, name), on_error=self._remember)
            except APIError as exc:
                # Another login has created it, or a reply was lost.
                if exc.reason != "AlreadyExists":
                    raise refused(exc) from exc

    async def _create(self, name: str) -> dict[str, Any]:
        config = self.config.pod
        through_agent = config.agent_in_use in ("auto", "injected")
        idle: Idle = "shell"
        if not config.idles_by_default or config.agent_in_use == "image":
            idle = "configured"
        elif config.agent_image:
            idle = "agent"
        body = pod_body(
            config, self.login, name=name, owner=None, described={}, idle=idle, volume=through_agent, deadline=None
        )
        return await self.client.create(PODS, self.namespace, body)

    def _console_of(self, pod: dict[str, Any]) -> str:
        """The name of the configured container; if the pod has none of that name, of the one at its position."""
        names = [str(container["name"]) for container in pod["spec"]["containers"]]
        wanted, number = str(self.config.pod.console["name"]), self.config.pod.console_container_number
        if wanted in names:
            return wanted
        if number >= len(names):
            raise PodError(f"the pod has no container number {number}")
        return names[number]


def _has_agent(pod: dict[str, Any], console: str) -> bool:
    """Whether an init container has installed the agent in the container *console*."""
    installs = any(init.get("name") == AGENT_VOLUME for init in pod["spec"].get("initContainers") or ())
    mounted = (
        mount.get("name") == AGENT_VOLUME
        for container in pod["spec"]["containers"]
        if container["name"] == console
        for mount in container.get("volumeMounts") or ()
    )
    return installs and any(mounted)
