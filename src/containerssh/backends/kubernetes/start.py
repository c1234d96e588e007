"""A pod for a login, or in session mode for one of its sessions, and what runs programs in it."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from typing import Any, Self

from containerssh.agent.link import AgentLink
from containerssh.backends.container import Execution
from containerssh.backends.host_addresses import HostAddresses
from containerssh.backends.kubernetes.client import PODS, KubernetesClient
from containerssh.backends.kubernetes.direct import DirectWays
from containerssh.backends.kubernetes.ending import PodEnding
from containerssh.backends.kubernetes.errors import APIError
from containerssh.backends.kubernetes.execs import Execs
from containerssh.backends.kubernetes.following import Followed, Followers
from containerssh.backends.kubernetes.injection import KeptOut, Place, injected_link
from containerssh.backends.kubernetes.launch import OwnPod, PodError
from containerssh.backends.kubernetes.node import addresses_of_node
from containerssh.backends.kubernetes.pod import (
    LABEL_INSTANCE,
    Idle,
    Owner,
    Variables,
    pod_body,
    pod_name,
    variables,
    volume_costs,
)
from containerssh.backends.kubernetes.progress import restarts
from containerssh.backends.kubernetes.refusals import user_words
from containerssh.backends.kubernetes.waiting import Waiting
from containerssh.backends.login_files import write_login_files
from containerssh.backends.session_codes import SessionCodes
from containerssh.config.kubernetes import KubernetesConfig
from containerssh.core.codes import KubernetesCode
from containerssh.core.errors import BackendError
from containerssh.core.handlers import Notices
from containerssh.core.instance import Instance
from containerssh.core.messages import Event, log_labels
from containerssh.core.metadata import Login
from containerssh.core.tasks import finish, time_limit

logger = logging.getLogger(__name__)

_CODES = SessionCodes(
    already_running=KubernetesCode.PROGRAM_ALREADY_RUNNING,
    not_running=KubernetesCode.PROGRAM_NOT_RUNNING,
    no_subsystem=KubernetesCode.SUBSYSTEM_NOT_SUPPORTED,
    signal_failed=KubernetesCode.EXEC_SIGNAL_FAILED,
    started=KubernetesCode.EXEC,
)

_AGAIN = 0.3
_REMEMBERED = 1000
_NO_SHELL_EITHER = "; nor does the image seem to have sh: set kubernetes.pod.agentImage, or idleCommand"
_SILENT_API = timedelta(seconds=2)


@dataclass(frozen=True)
class Inside:
    """A pod in which programs can be started."""

    link: AgentLink | None
    execs: Execs
    given: Mapping[str, str]
    """Variables for programs that the pod's description does not have."""
    host: HostAddresses
    """Where forwards do not lead unless it is allowed."""


@dataclass
class Start:
    """One pod for *login*; :meth:`run` is its life."""

    client: KubernetesClient
    followers: Followers
    instance: Instance
    config: KubernetesConfig
    login: Login
    notices: Notices
    on_left: Callable[[OwnPod], None]
    """Told about a pod that could not be removed in time."""
    lease: str
    """The Lease that says that this process lives; empty: there is none."""
    held: set[str] = field(default_factory=set)
    """The ``launch`` of each pod that somebody here still sees to."""
    shell_less: set[str] = field(default_factory=set)
    """Images that turned out to have no shell to wait in."""
    cramped: set[str] = field(default_factory=set)
    """Images that turned out to have no folder for the agent."""
    direct: DirectWays = field(default_factory=DirectWays)
    """Where agents dial back to."""
    _ends: float = field(default=0.0, init=False)
    _last: str = field(default="", init=False)
    _waiting: Waiting | None = field(default=None, init=False)
    _console: str = field(default="", init=False)
    _installed: bool = field(default=False, init=False)
    _has_volume: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        self._console = str(self.config.pod.console["name"])
        self._installed = bool(self.config.pod.agent_image)

    @property
    def namespace(self) -> str:
        return str(self.config.pod.metadata["namespace"])

    def again(self) -> Self:
        """The same for another pod."""
        return replace(self)

    @asynccontextmanager
    async def run(self, within: timedelta) -> AsyncIterator[Inside]:
        """
        A pod that is ready, with the login's files in it. It is removed at the end.

        Raises:
            BackendError: it could not be had within *within*.
        """
        self._ends = asyncio.get_running_loop().time() + within.total_seconds()
        async with AsyncExitStack() as undo:
            async with time_limit(within, partial(self._late, within)):
                inside = await self._start(undo)
            await self.write_files(inside)
            yield inside

    async def _start(self, undo: AsyncExitStack) -> Inside:
        pod = self.config.pod
        image = str(pod.console.get("image"))
        idles = self._idles(image)
        through_agent = pod.agent_in_use in ("auto", "injected")
        self._has_volume = through_agent and (not volume_costs(pod) or image in self.cramped)
        while True:
            async with AsyncExitStack() as opened:
                try:
                    inside = await self._pod(opened, idles[0])
                except PodError as exc:
                    if exc.reason != "StartError" or len(idles) == 1:
                        if image in self.shell_less:
                            exc.explanation += _NO_SHELL_EITHER
                        raise
                    self._learn(self.shell_less, image, f"The image seems to have no shell: {exc.explanation}")
                    idles = idles[1:]
                    continue
                except KeptOut as exc:
                    if not self._may_have_room(exc):
                        raise
                    self._learn(self.cramped, image, f"The agent gets a volume from now on: {exc.explanation}")
                    self._has_volume = True
                    continue
                undo.push_async_callback(opened.pop_all().aclose)
                return inside

    def _may_have_room(self, kept_out: KeptOut) -> bool:
        """Whether another pod, with a volume, may take the agent."""
        return kept_out.no_room and not self._has_volume

    def _learn(self, images: set[str], image: str, text: str) -> None:
        logger.debug(Event(KubernetesCode.POD_WAIT, text))
        if len(images) < _REMEMBERED:
            images.add(image)

    def _idles(self, image: str) -> list[Idle]:
        """How the console container may wait for programs, best first."""
        pod = self.config.pod
        if not pod.idles_by_default or pod.agent_in_use == "image":
            return ["configured"]
        if pod.agent_image:
            return ["agent"]
        # The second is for images that have an agent of their own, and no shell.
        return ["configured"] if image in self.shell_less else ["shell", "configured"]

    async def _pod(self, undo: AsyncExitStack, idle: Idle) -> Inside:
        config = self.config.pod
        through_agent = config.agent_in_use in ("auto", "injected")
        env = variables(config, self.login, through_agent=through_agent)
        own = OwnPod(self.client, self.namespace, pod_name(config.metadata))
        selector = f"{LABEL_INSTANCE}={self.instance.id}"
        followed = await undo.enter_async_context(self.followers.follow(self.namespace, own.name, label=selector))
        undo.enter_context(log_labels(podName=own.name))
        self.held.add(own.launch)
        undo.push_async_callback(self._removed, own)
        body = pod_body(
            config,
            self.login,
            name=own.name,
            owner=Owner(self.instance.id, own.launch, self.lease),
            described=env.described,
            idle=idle,
            volume=self._has_volume,
            deadline=self._deadline(),
        )
        followed.follow_only(await own.create(body, on_error=self._remember))
        return await self.inside(undo, followed, env)

    async def inside(self, undo: AsyncExitStack, followed: Followed, env: Variables) -> Inside:
        """
        What runs programs in the followed pod, once that is ready.

        Raises:
            BackendError: it does not become ready, or nothing can be run there.
        """
        place = Place(self.client, self.namespace, followed.name, self._console)
        way = self.config.pod.agent_in_use
        self._waiting = Waiting(
            self.followers.events,
            self.namespace,
            followed,
            self._console,
            self.notices,
            self.config.timeouts.pod_trouble,
        )
        while True:
            await self._waiting.until_ready()
            assert followed.pod is not None
            ending = PodEnding(followed, self._console, restarts(followed.pod, self._console))
            try:
                if way in ("auto", "injected"):
                    link = await self._link(undo, place, ending)
                    return Inside(link, Execs(place, ""), env.given, addresses_of_node(followed.pod or {}))
                break
            except KeptOut as exc:
                if way == "injected" or self._may_have_room(exc):
                    raise
                text = f"The pod keeps the server's agent out ({exc.explanation})"
                logger.warning(Event(KubernetesCode.AGENT_KEPT_OUT, text))
                break
            except APIError as exc:
                # What was ready may have ended since, which the cluster says in a moment.
                if not exc.passing:
                    if exc.status in (401, 403):
                        exc.user_message = user_words(exc)
                    raise
                self._remember(exc)
            except BackendError as exc:
                if exc.code != KubernetesCode.POD_ENDED:
                    raise
                # Its container may be started anew; if not, the wait says so.
            await asyncio.sleep(_AGAIN)
        agent = {"image": self.config.pod.agent_path, "none": ""}.get(way)
        execs = await Execs.of(place, self.config.pod.agent_path if agent is None else agent, probe=agent is None)
        self._tell_way(execs, env)
        return Inside(None, execs, {}, addresses_of_node(followed.pod or {}))

    async def _link(self, undo: AsyncExitStack, place: Place, ending: PodEnding) -> AgentLink:
        async with AsyncExitStack() as opened:
            by_exec = self.config.agent_link.mode == "exec"
            link = await injected_link(
                opened,
                place,
                installed=self._installed,
                name=secrets.token_hex(8),
                why=ending.explain,
                way_to=None if by_exec else partial(self.direct.open, self.config.agent_link),
            )
            await opened.enter_async_context(ending.breaks(link))
            undo.push_async_callback(opened.pop_all().aclose)
        return link

    async def write_files(self, inside: Inside) -> None:
        """Write the login's files into the pod; a file that cannot be written is a warning."""
        await write_login_files(
            self.login,
            inside.execs.write_file if inside.link is None else inside.link.write_file,
            limit=self.config.timeouts.command_start,
            writing=KubernetesCode.FILE_WRITE,
            failed=KubernetesCode.FILE_WRITE_FAILED,
        )

    async def _removed(self, own: OwnPod) -> None:
        async def remove() -> None:
            try:
                await own.remove()
            except BaseException:
                # Refused, or out of time: the backend goes on trying, since nobody else will.
                self.on_left(own)
                raise
            self.held.discard(own.launch)

        within = self.config.timeouts.pod_stop
        if not own.uid and asyncio.get_running_loop().time() >= self._ends:
            # The API has said nothing all the time, and the user waits to hear of it.
            within = min(within, _SILENT_API)
        await finish(remove, within=within)

    def _deadline(self) -> int | None:
        """After so many seconds nobody can need the pod any more, and the cluster ends it whatever has become of us."""
        if self.login.span is None:
            return None
        return int((self.login.span.longest + self.config.timeouts.pod_stop).total_seconds()) + 1

    def _remember(self, error: APIError) -> None:
        if not error.status and not self._last:
            self.notices.notice("The cluster does not answer; trying again")
        self._last = error.explanation

    def _late(self, within: timedelta) -> PodError:
        text = f"the pod was not ready within {within.total_seconds():g} s"
        last = (self._waiting.last if self._waiting is not None else "") or self._last
        if last:
            text += f"; last problem: {last}"
        return PodError(text, user_message="The pod was not ready in time.")

    def _tell_way(self, execs: Execs, env: Variables) -> None:
        text = (
            "The image's agent starts programs: a signal reaches one process and not its group; there are no exit"
            " signals, breaks, terminal modes, built-in SFTP or ssh-agents"
            if execs.agent
            else "The cluster starts programs: there are no signals, and a program ends by itself or with its pod;"
            " there are no exit signals, breaks, terminal modes, forwards, variables of the client or built-in SFTP"
        )
        logger.debug(Event(KubernetesCode.GUEST_AGENT_DISABLED, text))
        if env.given:
            text = f"Programs do without {len(env.given)} variables, which only the server's own agent could bring"
            logger.warning(Event(KubernetesCode.GUEST_AGENT_DISABLED, text))


def execution_of(config: KubernetesConfig, inside: Inside) -> Execution:
    """The settings that sessions and forwards need."""
    pod, timeouts = config.pod, config.timeouts
    return Execution(
        shell_command=pod.shell_command,
        subsystems=pod.subsystems,
        command_start=timeouts.command_start,
        signal=timeouts.signal,
        window=timeouts.window,
        environment=inside.given,
        leftovers=pod.background_processes,
        codes=_CODES,
        host=inside.host,
    )


async def current_pod(client: KubernetesClient, namespace: str, name: str) -> dict[str, Any] | None:
    """The pod, if there is one; raises APIError."""
    try:
        return await client.get(PODS, namespace, name)
    except APIError as exc:
        if exc.status == 404:
            return None
        raise
