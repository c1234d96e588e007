"""The ``kubernetes`` section (``config.md`` section 8)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from containerssh.config.kubernetes_connection import KubernetesConnectionConfig
from containerssh.config.kubernetes_link import KubernetesAgentLinkConfig
from containerssh.config.kubernetes_shapes import settle_metadata, settle_spec
from containerssh.config.model import ConfigModel, Duration, Problem, default_for_zero, seconds

DEFAULT_IMAGE = "containerssh/containerssh-guest-image"
DEFAULT_METADATA: Mapping[str, Any] = {"namespace": "default", "generateName": "containerssh-"}
DEFAULT_AGENT_PATH = "/usr/bin/containerssh-agent"
DEFAULT_IDLE_COMMAND = (DEFAULT_AGENT_PATH, "wait-signal", "--signal", "INT", "--signal", "TERM")
Agent = Literal["auto", "injected", "image", "none"]
DEFAULT_SUBSYSTEMS: Mapping[str, str] = {"sftp": "/usr/lib/openssh/sftp-server"}
DEFAULT_CONTAINER: Mapping[str, Any] = {"name": "shell", "image": DEFAULT_IMAGE}

_VARIABLE = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")
_LABEL_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_LABEL_PREFIX = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


def is_qualified_name(text: str) -> bool:
    """Whether the API accepts *text* as the name of a label or an annotation."""
    prefix, slash, name = text.rpartition("/")
    fits = not slash or (len(prefix) <= 253 and _LABEL_PREFIX.fullmatch(prefix) is not None)
    return fits and _LABEL_NAME.fullmatch(name) is not None


def _metadata(value: Any) -> dict[str, Any]:
    return {**DEFAULT_METADATA, **settle_metadata(value)}


def _spec(value: Any) -> dict[str, Any]:
    spec = settle_spec(value)
    # Upstream decodes the first container over its default, so name and image may be left out there only.
    first, *others = spec.get("containers") or [{}]
    spec["containers"] = [{**DEFAULT_CONTAINER, **first}, *others]
    return spec


def _subsystems(value: Any) -> Any:
    # Upstream decodes this map over its default, unlike that of the docker section.
    return {**DEFAULT_SUBSYSTEMS, **value} if isinstance(value, Mapping) else value


class KubernetesPodConfig(ConfigModel):
    """The pod that is started."""

    metadata: Annotated[dict[str, Any], BeforeValidator(_metadata)] = Field(
        default_factory=lambda: dict(DEFAULT_METADATA)
    )
    """The pod's metadata, as in the Kubernetes API."""

    spec: Annotated[dict[str, Any], BeforeValidator(_spec)] = Field(
        default_factory=lambda: {"containers": [dict(DEFAULT_CONTAINER)]}
    )
    """The pod's spec, as in the Kubernetes API."""

    console_container_number: Annotated[int, Field(ge=0)] = 0
    """The index of the container in which programs run."""

    idle_command: tuple[str, ...] = DEFAULT_IDLE_COMMAND
    """The command that keeps the container running. The default is the server's agent or, without ``agentImage``, a
    shell that waits. Other commands run unchanged."""

    shell_command: tuple[str, ...] = ("/bin/bash",)
    """What a shell request starts."""

    agent: Agent = "auto"
    """What starts programs. ``injected``: the server's own agent. ``image``: the agent of ContainerSSH 0.5 and 0.6 at
    ``agentPath`` in the image. ``none``: the cluster's exec. ``auto``: the first of these that is possible. If
    ``agentPath`` is set to another path, ``image`` is the default."""

    agent_image: str = ""
    """An image with the server's agent at ``/containerssh-agent``, from which an init container copies it into the pod.
    Without one the agent is uploaded through a shell of the console container."""

    agent_image_pull_policy: Literal["", "Always", "IfNotPresent", "Never"] = ""
    """When that image is pulled. Empty: the cluster's default."""

    agent_path: str = DEFAULT_AGENT_PATH
    """The path of the agent in images for ContainerSSH 0.5 and 0.6. Any other path than the default selects that agent,
    unless ``agent`` says otherwise."""

    disable_agent: bool = False
    """The same as ``agent: none``."""

    background_processes: Literal["hangUp", "end", "keep"] = "hangUp"
    """What happens to processes that are still running when their session ends, as in the docker section. In persistent
    mode, all of them end with the login."""

    subsystems: Annotated[dict[str, str], BeforeValidator(_subsystems)] = Field(
        default_factory=lambda: dict(DEFAULT_SUBSYSTEMS)
    )
    """The program of each subsystem. ``sftp`` has its default unless it is set here; ``security.subsystem`` can refuse
    it."""

    mode: Literal["connection", "session", "persistent"] = "connection"
    """``connection``: one pod for each login. ``session``: one for each session. ``persistent``: an existing pod, which
    is not removed."""

    create_missing_pods: bool = False
    """Create a persistent pod if it does not exist."""

    expose_auth_metadata_as_env: dict[str, str] = Field(default_factory=dict)
    """Metadata names, and the environment variable that each is exposed as."""

    expose_auth_metadata_as_labels: dict[str, str] = Field(default_factory=dict)
    """Metadata names, and the pod label that each is exposed as."""

    expose_auth_metadata_as_annotations: dict[str, str] = Field(default_factory=dict)
    """Metadata names, and the pod annotation that each is exposed as."""

    def problems(self) -> Iterator[Problem]:
        containers = self.spec["containers"]
        for number, container in enumerate(containers):
            if not container.get("image"):
                yield Problem(f"spec.containers.{number}.image", "must be set")
        if self.console_container_number >= len(containers):
            yield Problem("consoleContainerNumber", "there is no such container")
        if not self.metadata.get("namespace"):
            yield Problem("metadata.namespace", "must be set")
        if self.makes_pods and self.metadata.get("resourceVersion"):
            text = "must not be set: the API refuses to create a pod of a given version"
            yield Problem("metadata.resourceVersion", text)
        yield from self._agent_problems()
        yield from self._exposed_problems()
        if self.create_missing_pods and self.mode != "persistent":
            yield Problem("createMissingPods", "needs the mode persistent")
        waits = self.mode == "connection" or self.create_missing_pods
        if waits and not self.idle_command:
            yield Problem("idleCommand", "must not be empty")
        if not self.shell_command and (waits or (self.mode == "session" and not self.disable_agent)):
            yield Problem("shellCommand", "must not be empty")
        if self.mode == "session" and self.spec.get("restartPolicy", "") not in ("", "Never"):
            yield Problem("spec.restartPolicy", "must be Never in session mode")

    @property
    def makes_pods(self) -> bool:
        """Whether logins create pods, and do not only enter one."""
        return self.mode != "persistent" or self.create_missing_pods

    @property
    def agent_in_use(self) -> Agent:
        """``agent``, with ``disableAgent`` and ``agentPath`` taken into account."""
        if self.disable_agent:
            return "none"
        if "agent" not in self.model_fields_set and self.agent_path not in ("", DEFAULT_AGENT_PATH):
            return "image"
        return self.agent

    @property
    def idles_by_default(self) -> bool:
        """Whether the idle command is the default, which may be replaced by another waiting agent."""
        command = self.idle_command
        return command == DEFAULT_IDLE_COMMAND or command[:2] == (self.agent_path, "wait-signal")

    @property
    def console(self) -> dict[str, Any]:
        """The container that programs run in."""
        found: dict[str, Any] = self.spec["containers"][self.console_container_number]
        return found

    def _agent_problems(self) -> Iterator[Problem]:
        if self.disable_agent and self.agent != "none" and "agent" in self.model_fields_set:
            yield Problem("disableAgent", f"contradicts agent: {self.agent}")
        way = self.agent_in_use
        if not self.agent_path and way != "none":
            yield Problem("agentPath", "must be set")
        elif way == "image" and not self.agent_path.startswith("/"):
            yield Problem("agentPath", "must be an absolute path for agent: image")
        if self.agent_image and way in ("image", "none"):
            yield Problem("agentImage", f"is not used with agent: {way}")
        if "background_processes" in self.model_fields_set and way in ("image", "none"):
            yield Problem("backgroundProcesses", "is for the agent that the server brings along")

    def _exposed_problems(self) -> Iterator[Problem]:
        for key, name in self.expose_auth_metadata_as_env.items():
            if not _VARIABLE.fullmatch(name):
                yield Problem(f"exposeAuthMetadataAsEnv.{key}", f"{name!r} is not a name for a variable")
        named = {
            "exposeAuthMetadataAsLabels": self.expose_auth_metadata_as_labels,
            "exposeAuthMetadataAsAnnotations": self.expose_auth_metadata_as_annotations,
        }
        for where, names in named.items():
            for key, name in names.items():
                if not is_qualified_name(name):
                    yield Problem(f"{where}.{key}", f"{name!r} is not a name for a label or an annotation")


class KubernetesTimeouts(ConfigModel):
    """How long each step may take."""

    pod_start: Duration = seconds(60)
    """From the start of a login until its pod is ready."""

    pod_trouble: Duration = seconds(5)
    """How long the cluster may report a temporary problem (no suitable node, the image cannot be pulled) before the
    login fails with its message. Permanent problems end the login at once."""

    pod_stop: Duration = seconds(60)
    """Removing the pod. After that, the server continues in the background."""

    command_start: Duration = seconds(60)
    """Starting a program; in session mode with its pod. Also writing one file."""

    signal: Duration = seconds(60)
    """Delivering a signal."""

    window: Duration = seconds(60)
    """Changing the size of a terminal."""

    http: Duration = seconds(15)
    """One request to the API."""

    lease: Duration = seconds(40)
    """The time without a renewal of its Lease after which other servers consider a server dead and remove its pods; 3s
    to 10m."""

    _zeros = field_validator("*")(default_for_zero)

    def problems(self) -> Iterator[Problem]:
        if self.lease < seconds(3):
            yield Problem("lease", "must be at least 3s: it is renewed four times in that time")
        if self.lease > seconds(600):
            yield Problem("lease", "must be at most 10m: other servers wait no longer")


class KubernetesConfig(ConfigModel):
    """The kubernetes backend: a pod for each login."""

    connection: KubernetesConnectionConfig = KubernetesConnectionConfig.default()
    pod: KubernetesPodConfig = KubernetesPodConfig.default()
    agent_link: KubernetesAgentLinkConfig = KubernetesAgentLinkConfig.default()
    timeouts: KubernetesTimeouts = KubernetesTimeouts.default()

    def problems(self) -> Iterator[Problem]:
        yield from (problem.under("connection") for problem in self.connection.problems())
        yield from (problem.under("pod") for problem in self.pod.problems())
        yield from (problem.under("agentLink") for problem in self.agent_link.problems())
        if self.agent_link.mode != "exec" and self.pod.agent_in_use in ("image", "none"):
            yield Problem(
                "agentLink.mode", f"is for the agent that the server brings along, not agent: {self.pod.agent_in_use}"
            )
        yield from (problem.under("timeouts") for problem in self.timeouts.problems())
