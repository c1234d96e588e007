"""The body of the request that creates a login's pod."""

from __future__ import annotations

import copy
import logging
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from containerssh.config.kubernetes import KubernetesPodConfig
from containerssh.core.codes import KubernetesCode
from containerssh.core.errors import BackendError
from containerssh.core.messages import Event
from containerssh.core.metadata import Login

logger = logging.getLogger(__name__)

LABEL_INSTANCE = "containerssh_instance"
"""The server process that owns the pod and removes it. Persistent pods lack it."""
LABEL_LAUNCH = "containerssh_launch"
"""A value unique to the pod, which finds it if the reply to its creation was lost."""
LABEL_LEASE = "containerssh_lease"
"""The name of the owner's Lease; missing if the owner may not hold one."""
ANNOTATION_EXPIRES = "containerssh_expires"
ANNOTATION_USERNAME = "containerssh_username"

AGENT_FOLDER = "/.containerssh"
AGENT_VOLUME = "containerssh-agent"
AGENT_IN_IMAGE = "/containerssh-agent"
"""The path of the agent in an ``agentImage``."""

Idle = Literal["configured", "agent", "shell"]

_LABEL_LENGTH = 63
_NO_LABEL = re.compile(r"[^0-9A-Za-z.]")
_VARIABLE = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")
_VARIABLE_BYTES = 128 * 1024 - 1
"""Linux starts no program with a longer one (MAX_ARG_STRLEN), and the cluster does not say why it does not start."""
_NAME_LETTERS = "bcdfghjkmnpqrstvwxz2456789"
_NAME_ROOM = 53
_WAITING_SHELL = "trap 'exit 0' TERM INT; while :; do sleep 86400 & wait $!; done"
_NOBODY = 65534
_TOO_LONG = "A variable of this login is too long for programs."


@dataclass(frozen=True)
class Owner:
    """The server process that owns a pod, by which left-over pods are found."""

    instance: str
    launch: str
    lease: str
    """The name of its Lease; empty if it holds none."""


@dataclass(frozen=True)
class Variables:
    """A login's variables: those in the pod's spec, and those that are passed to programs only."""

    described: Mapping[str, str]
    given: Mapping[str, str]

    def all_given(self) -> Variables:
        """The same for an existing pod, whose spec has none of them."""
        return Variables({}, {**self.described, **self.given})


def variables(config: KubernetesPodConfig, login: Login, *, through_agent: bool) -> Variables:
    """
    The exposed metadata, then the login's environment, whose variables replace those of the same name.

    Everybody who may read pods sees their specs. So the agent, if there is one (*through_agent*), passes sensitive
    values, and also variables whose names the cluster does not accept.
    """
    exposed = config.expose_auth_metadata_as_env.items()
    texts = {name: login.metadata[key] for key, name in exposed if key in login.metadata}
    described, given = {}, {}
    for name, value in {**texts, **login.environment}.items():
        if not name or "=" in name or "\0" in name + value.value:
            text = f"A variable cannot be named {name[:100]!r}, or its value contains NUL; it is left out"
            logger.warning(Event(KubernetesCode.POD_CREATE, text))
            continue
        size = len(f"{name}={value.value}".encode("utf-8", "surrogatepass"))
        if size > _VARIABLE_BYTES:
            text = f"the variable {name[:100]!r} has {size} bytes with its name; a program takes {_VARIABLE_BYTES}"
            raise BackendError(KubernetesCode.POD_CREATE_FAILED, text, user_message=_TOO_LONG)
        if through_agent and (value.sensitive or not _VARIABLE.fullmatch(name)):
            given[name] = value.value
        elif _VARIABLE.fullmatch(name):
            described[name] = value.value
        else:
            text = f"The cluster takes no variable named {name[:100]!r}; it is left out"
            logger.warning(Event(KubernetesCode.POD_CREATE, text))
    return Variables(described, given)


def pod_name(metadata: Mapping[str, Any]) -> str:
    """
    The configured name, or a random one that begins with ``generateName``. The API does not choose the name: the pod
    could not be found if the reply to its creation was lost.
    """
    if name := metadata.get("name"):
        return str(name)
    prefix = str(metadata.get("generateName") or "containerssh-")[:_NAME_ROOM]
    return prefix + "".join(secrets.choice(_NAME_LETTERS) for _ in range(10))


def label_value(text: str) -> str:
    """
    *text* as a label's value (``backends.md`` section 3.2): as in upstream, all but letters, digits and dots become
    ``-``. The result is shortened to what the API accepts.
    """
    return _NO_LABEL.sub("-", text)[:_LABEL_LENGTH].strip("-.")


def pod_body(
    config: KubernetesPodConfig,
    login: Login,
    *,
    name: str,
    owner: Owner | None,
    described: Mapping[str, str],
    idle: Idle,
    volume: bool,
    deadline: int | None = None,
) -> dict[str, Any]:
    """
    The body of a create request: the configured pod with our labels, the variables *described*, and the idle command.

    *owner* is None for a persistent pod. With *volume* the pod gets a volume for the agent. *deadline* is the time in
    seconds after which the cluster itself ends the pod.
    """
    spec = copy.deepcopy(config.spec)
    console = spec["containers"][config.console_container_number]
    command, ours = _idle_command(config, idle)
    console["command"] = [literally(word) if ours else word for word in command]
    if ours:
        # The arguments belong to the program that is replaced.
        console.pop("args", None)
    for container in (*spec["containers"], *spec.get("initContainers", [])):
        container["env"] = _with_variables(container.get("env") or [], described)
    if volume:
        _add_agent(config, spec, console)
    if config.mode == "session":
        spec.setdefault("restartPolicy", "Never")
    if deadline is not None:
        spec["activeDeadlineSeconds"] = min(deadline, spec.get("activeDeadlineSeconds") or deadline)
    return {"apiVersion": "v1", "kind": "Pod", "metadata": _metadata(config, login, name, owner), "spec": spec}


def volume_costs(config: KubernetesPodConfig) -> bool:
    """
    Whether the agent's volume would be the only one of the pod, and seems not to be needed. If a pod has volumes, its
    node waits a third of a second before it starts.
    """
    spec, console = config.spec, config.console
    # Unless this is false, there is a volume with the service account's token.
    has_volumes = bool(spec.get("volumes")) or spec.get("automountServiceAccountToken") is not False
    settings = {**spec.get("securityContext", {}), **console.get("securityContext", {})}
    cannot_write = settings.get("readOnlyRootFilesystem") or settings.get("runAsNonRoot") or settings.get("runAsUser")
    return not (has_volumes or cannot_write or config.agent_image)


def literally(text: str) -> str:
    """*text* escaped, since the cluster expands ``$(NAME)`` in it."""
    return text.replace("$", "$$")


def _idle_command(config: KubernetesPodConfig, idle: Idle) -> tuple[Sequence[str], bool]:
    if idle == "agent":
        return (f"{AGENT_FOLDER}/agent", "wait-signal", "--signal", "INT", "--signal", "TERM"), True
    if idle == "shell":
        return ("sh", "-c", _WAITING_SHELL), True
    return config.idle_command, False


def _with_variables(configured: Sequence[Any], described: Mapping[str, str]) -> list[Any]:
    kept = [entry for entry in configured if not (isinstance(entry, Mapping) and entry.get("name") in described)]
    return [*kept, *({"name": name, "value": literally(value)} for name, value in described.items())]


def _metadata(config: KubernetesPodConfig, login: Login, name: str, owner: Owner | None) -> dict[str, Any]:
    metadata = copy.deepcopy(config.metadata)
    metadata.pop("generateName", None)
    username = login.authenticated_username or login.username
    labels = {
        **(metadata.get("labels") or {}),
        **_exposed(config.expose_auth_metadata_as_labels, login, as_label=True),
        "containerssh_connection_id": login.connection_id,
        "containerssh_username": label_value(username),
    }
    annotations = {
        **(metadata.get("annotations") or {}),
        **_exposed(config.expose_auth_metadata_as_annotations, login, as_label=False),
        "containerssh_ip": login.remote_address.host.replace(":", "-"),
        ANNOTATION_USERNAME: username,
    }
    for ours in (LABEL_INSTANCE, LABEL_LAUNCH, LABEL_LEASE):
        # With configured ones, another server could take the pod for a dead server's and remove it.
        labels.pop(ours, None)
    if owner is not None:
        labels |= {LABEL_INSTANCE: owner.instance, LABEL_LAUNCH: owner.launch}
        if owner.lease:
            labels[LABEL_LEASE] = owner.lease
        if login.span is not None:
            annotations[ANNOTATION_EXPIRES] = login.span.ends.isoformat(timespec="seconds").replace("+00:00", "Z")
    return {**metadata, "name": name, "labels": labels, "annotations": annotations}


def _exposed(names: Mapping[str, str], login: Login, *, as_label: bool) -> dict[str, str]:
    texts = {name: login.metadata[key].value for key, name in names.items() if key in login.metadata}
    return {name: label_text(text) if as_label else text for name, text in texts.items()}


def label_text(text: str) -> str:
    """*text* as a label's value: all that the API accepts is kept, underscores included."""
    return re.sub(r"[^0-9A-Za-z._-]", "-", text)[:_LABEL_LENGTH].strip("-._")


def _add_agent(config: KubernetesPodConfig, spec: dict[str, Any], console: dict[str, Any]) -> None:
    """Add a volume for the agent and, if ``agentImage`` is set, an init container that installs the agent there."""
    mount = {"name": AGENT_VOLUME, "mountPath": AGENT_FOLDER}
    spec["volumes"] = [*spec.get("volumes", []), {"name": AGENT_VOLUME, "emptyDir": {"sizeLimit": "64Mi"}}]
    if not config.agent_image:
        console["volumeMounts"] = [*console.get("volumeMounts", []), mount]
        return
    console["volumeMounts"] = [*console.get("volumeMounts", []), {**mount, "readOnly": True}]
    init = {
        "name": AGENT_VOLUME,
        "image": config.agent_image,
        "command": [AGENT_IN_IMAGE, "install", AGENT_FOLDER],
        "volumeMounts": [mount],
        # Accepted by the strictest pod security level, and by quotas that require limits.
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "runAsUser": _NOBODY,
            "runAsGroup": _NOBODY,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "resources": {
            "requests": {"cpu": "10m", "memory": "16Mi"},
            "limits": {"cpu": "500m", "memory": "64Mi"},
        },
    }
    if config.agent_image_pull_policy:
        init["imagePullPolicy"] = config.agent_image_pull_policy
    # The first one, since others may take long or never end (sidecars).
    spec["initContainers"] = [init, *spec.get("initContainers", [])]
