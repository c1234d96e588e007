"""What a pod's status and events mean for the login that waits for it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from containerssh.core.text import one_line

_FOR_USER = 300
# The parts of a scheduler's message about the pod's own requests. The rest may name nodes, taints, volumes and pods.
_SCHEDULER = re.compile(
    r"Insufficient [A-Za-z](?:[A-Za-z0-9./-]{0,60}[A-Za-z0-9])?|Too many pods"
    r"|(?:didn't match|did not match) [Pp]od(?:'s|s)? [a-z/-]+(?: [a-z/-]+){0,2}(?: rules| constraints)?"
    r"|(?:had|have) (?:untolerated taint|volume node affinity conflict)|didn't have free ports"
    r"|were unschedulable|exceed max volume count|unbound immediate PersistentVolumeClaims"
)


@dataclass(frozen=True)
class Ready:
    """Programs can be started."""


@dataclass(frozen=True)
class Starting:
    """The pod is starting normally; *text* tells the user the present step."""

    text: str


@dataclass(frozen=True)
class Trouble:
    """A problem that may pass, unless it is *lasting*."""

    reason: str
    """The cluster's reason, such as ``Unschedulable`` or ``ErrImagePull``."""
    words: str
    """For the log."""
    user: str
    """For the user, without addresses and names of nodes."""
    lasting: bool = False
    repeats: bool = False
    """Whether the cluster restarts the container each time: between two failures the pod looks normal."""


@dataclass(frozen=True)
class Over:
    """The pod has ended, or is about to."""

    words: str
    user: str
    reason: str = ""


Judgement = Ready | Starting | Trouble | Over

_LASTING = frozenset({"ErrImageNeverPull", "InvalidImageName"})
_PULLING = frozenset({"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName"})
_ALSO_PULLING = frozenset({"RegistryUnavailable", "ImageInspectError", "SignatureValidationFailed"})
_TRIED = frozenset({"CrashLoopBackOff", "RunContainerError"})
_NOT_STARTED = frozenset({"StartError", "ContainerCannotRun"})
_QUIET = frozenset({"", "ContainerCreating", "PodInitializing"})
_DISRUPTED = {
    "DeletionByPodGC": "The pod's node is gone.",
    "DeletionByTaintManager": "The pod had to leave its node.",
    "EvictionByEvictionAPI": "The cluster has evicted the pod.",
    "PreemptionByScheduler": "The pod had to make room for a more important one.",
    "TerminationByKubelet": "The pod's node has ended the pod.",
}
"""What users are told of the reasons of a ``DisruptionTarget`` (Kubernetes, "Pod disruption conditions")."""


_CONTAINER_ENDED = "The container has ended."
"""The same whether the cluster has reported only the end of the container or also the pod's, which follows."""


def judge(pod: Mapping[str, Any], console: str) -> Judgement:
    """Whether programs can be started in the container *console*, and if not, why."""
    status = _map(pod.get("status"))
    if over := _ended(pod, status, console):
        return over
    conditions = {str(condition.get("type")): condition for condition in _maps(status.get("conditions"))}
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable":
        words = one_line(str(scheduled.get("message") or "no node takes it"))
        return Trouble("Unschedulable", words, _no_node(words))
    for container in _containers(status):
        if trouble := _trouble(container, console):
            return trouble
    if status.get("phase") == "Running" and conditions.get("Ready", {}).get("status") == "True":
        return Ready()
    if scheduled.get("status") != "True":
        return Starting("Waiting for a node")
    if status.get("phase") == "Running":
        return Starting("Waiting until the pod is ready")
    return Starting("Starting the pod")


def _no_node(words: str) -> str:
    """The scheduler's message without names: guests are not to learn about the cluster's nodes."""
    told = "; ".join(dict.fromkeys(found[0] for found in _SCHEDULER.finditer(words)))[:_FOR_USER]
    return f"No node can take the pod: {told}" if told else "No node can take the pod."


def _ended(pod: Mapping[str, Any], status: Mapping[str, Any], console: str) -> Over | None:
    reason = one_line(str(status.get("reason") or ""))
    disrupted = _disruption(status)
    told = _reason_and_words(status) or _reason_and_words(disrupted)
    disruption = _DISRUPTED.get(str(disrupted.get("reason")), "")
    if _map(pod.get("metadata")).get("deletionTimestamp"):
        text = "the pod is being deleted" + (f" ({told})" if told else "")
        return Over(text, disruption or "The pod was deleted.", reason or "Deleted")
    phase = status.get("phase")
    if phase not in ("Failed", "Succeeded"):
        return None
    own = next((end for name, end in _ends(status) if name == console), "")
    others = [f"{name}: {end}" for name, end in _ends(status) if name != console]
    words = "; ".join(filter(None, (told, own and f"{console}: {own}", *others)))
    user = {
        "Evicted": "The cluster has evicted the pod.",
        "DeadlineExceeded": "The pod has reached its longest time.",
    }.get(reason, disruption or (_CONTAINER_ENDED if own else "The pod has ended."))
    if "OOMKilled" in own:
        user = "The container has used more memory than it may."
    missing = any(word in _NOT_STARTED for word in own.split(" ", 1))
    return Over(f"the pod has ended ({words or phase})", user, "StartError" if missing else reason)


def restarts(pod: Mapping[str, Any], console: str) -> int:
    """How many times the container *console* was restarted."""
    count = _status_of(pod, console).get("restartCount")
    return count if isinstance(count, int) else 0


def container_end(pod: Mapping[str, Any], console: str, restarted: int) -> Over | None:
    """How the container *console* ended after *restarted* restarts; None: it has not ended."""
    container = _status_of(pod, console)
    ended = _map(_map(container.get("state")).get("terminated"))
    if not ended and restarts(pod, console) > restarted:
        ended = _map(_map(container.get("lastState")).get("terminated"))
    if not ended:
        return None
    user = _CONTAINER_ENDED
    if ended.get("reason") == "OOMKilled":
        user = "The container has used more memory than it may."
    return Over(f"the container {one_line(console)} has ended ({_end(ended)})", user)


def _status_of(pod: Mapping[str, Any], console: str) -> Mapping[str, Any]:
    found = _maps(_map(pod.get("status")).get("containerStatuses"))
    return next((container for container in found if container.get("name") == console), {})


def _disruption(status: Mapping[str, Any]) -> Mapping[str, Any]:
    """Why the cluster ends the pod; a condition that is not true is about an eviction that did not happen."""
    for condition in _maps(status.get("conditions")):
        if condition.get("type") == "DisruptionTarget" and condition.get("status") == "True":
            return condition
    return {}


def _reason_and_words(of: Mapping[str, Any]) -> str:
    return ": ".join(filter(None, (one_line(str(of.get("reason") or "")), one_line(str(of.get("message") or "")))))


def _ends(status: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for container in _containers(status):
        if ended := _map(_map(container.get("state")).get("terminated")):
            yield str(container.get("name")), _end(ended)


def _end(ended: Mapping[str, Any]) -> str:
    code = ended.get("exitCode")
    if not code and ended.get("reason") == "Completed":
        return "Completed with status 0"
    words = [str(ended.get("reason") or "ended"), f"with status {code}", str(ended.get("message") or "")]
    return one_line(" ".join(filter(None, words)))


def _trouble(container: Mapping[str, Any], console: str) -> Trouble | None:
    state = _map(container.get("state"))
    name = str(container.get("name"))
    waiting = _map(state.get("waiting"))
    reason = one_line(str(waiting.get("reason") or ""), 80)
    ended = _map(state.get("terminated")) or (
        _map(_map(container.get("lastState")).get("terminated")) if reason in _TRIED else {}
    )
    if ended and ended.get("reason") in _NOT_STARTED:
        words = one_line(f"{name}: {ended.get('message') or ended.get('reason')}")
        return Trouble("StartError", words, "The container's program cannot be started.", lasting=name == console)
    message = one_line(str(waiting.get("message") or ""))
    words = f"{name}: {reason}" + (f": {message}" if message else "")
    if reason == "CrashLoopBackOff" or (not waiting and ended.get("exitCode")):
        return _crash(name, ended, words if waiting else name)
    if not waiting or reason in _QUIET:
        return None
    image = one_line(str(container.get("image") or ""), 200)
    user = f"The container {name} does not start: {reason}"
    if reason in _PULLING or reason in _ALSO_PULLING:
        user = f"The image {image} cannot be pulled ({reason})."
        if reason == "ErrImageNeverPull":
            user = f"The image {image} is not available."
    return Trouble(reason, words, user, lasting=reason in _LASTING)


def _crash(name: str, ended: Mapping[str, Any], words: str) -> Trouble:
    """A container that failed and may be restarted; *words* are the rest of the cluster's message."""
    reason = one_line(str(ended.get("reason") or ""), 80)
    message = one_line(str(ended.get("message") or ""))
    status = ended.get("exitCode")
    how = ", ".join(filter(None, (reason, f"status {status}" if isinstance(status, int) else "")))
    words += f" (it ended with {how}" + (f": {message})" if message else ")") if how else ""
    user = f"The container {name} keeps failing" + (f" ({how})." if how else ".")
    if reason == "OOMKilled":
        user = f"The container {name} uses more memory than it may."
    return Trouble("CrashLoopBackOff", words, user, repeats=True)


_IMAGE = re.compile(r'image "([^"\s]{1,200})"')


def tell_event(event: Mapping[str, Any]) -> str:
    """
    The text for the user about an event; empty: none. The event's own message may contain names that users are not to
    see.
    """
    reason = str(event.get("reason") or "")
    message = one_line(str(event.get("message") or ""))
    if reason == "Scheduled":
        return "The pod has a node"
    if reason == "Pulling":
        found = _IMAGE.search(message)
        return f"Pulling image {found[1]}" if found else "Pulling the image"
    if reason == "Pulled":
        return "" if "already present" in message else "The image is there"
    if reason == "FailedScheduling":
        return _no_node(message)
    if reason == "TriggeredScaleUp":
        return "The cluster is making a new node"
    if reason in ("FailedMount", "FailedAttachVolume"):
        return "A volume of the pod cannot be mounted yet"
    if reason == "FailedCreatePodSandBox":
        return "The pod's network cannot be set up yet"
    return ""


def is_warning(event: Mapping[str, Any]) -> str:
    """The text of a warning event, for the log; empty if it is no warning."""
    if event.get("type") != "Warning":
        return ""
    return one_line(f"{event.get('reason') or 'Warning'}: {event.get('message') or ''}")


def _containers(status: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [*_maps(status.get("initContainerStatuses")), *_maps(status.get("containerStatuses"))]


def _map(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _maps(value: object) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []
