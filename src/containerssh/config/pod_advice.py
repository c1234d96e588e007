"""What ``kubernetes.pod`` may say but hardly should; a part of :mod:`containerssh.config.advice`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from containerssh.config.findings import Finding
from containerssh.config.kubernetes import KubernetesPodConfig

_PATH = "kubernetes.pod"
_SPEC = f"{_PATH}.spec"
_WHOLE_NODE = ("/", "/etc", "/root", "/proc", "/var", "/var/run", "/run", "/var/lib/kubelet")
_SET_BY_THE_CLUSTER = (
    *("selfLink", "uid", "generation", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"),
    "managedFields",
)
_RUNTIME_SOCKETS = ("docker.sock", "containerd.sock", "crio.sock")


def pod_advice(pod: KubernetesPodConfig) -> Iterator[Finding]:
    """Remarks about a well-formed pod."""
    if pod.mode == "persistent":
        text = "logins that share a pod see one another's files and processes, and nothing is removed at the logout"
        yield Finding("warning", f"{_PATH}.mode", text, suggestion="let the config server name a pod for each user")
        if not pod.metadata.get("name"):
            text = "only logins can be served for which the config server, or the users file, sets metadata.name"
            yield Finding("info", f"{_PATH}.metadata", text)
    yield from _agent(pod)
    spec = pod.spec
    dangers = {
        "hostNetwork": "users reach every service that listens on the node",
        "hostPID": "users see and signal the processes of the node",
        "hostIPC": "users reach the shared memory of the node",
    }
    for key, message in dangers.items():
        if spec.get(key):
            yield Finding("warning", f"{_SPEC}.{key}", message)
    if pod.makes_pods:
        yield from _metadata(pod.metadata)
        yield from _account(spec)
        yield from _containers(spec, pod.console_container_number)
    for number, volume in enumerate(spec.get("volumes") or []):
        host_path = volume.get("hostPath") if isinstance(volume, Mapping) else None
        path = str(host_path.get("path", "")) if isinstance(host_path, Mapping) else ""
        if path and ((path.rstrip("/") or "/") in _WHOLE_NODE or path.endswith(_RUNTIME_SOCKETS)):
            yield Finding("warning", f"{_SPEC}.volumes.{number}", "with this users may become root on the node")


def _metadata(metadata: Mapping[str, Any]) -> Iterator[Finding]:
    for key in _SET_BY_THE_CLUSTER:
        if metadata.get(key):
            yield Finding("info", f"{_PATH}.metadata.{key}", "has no effect: the cluster sets it for each pod")
    if metadata.get("finalizers"):
        text = "pods stay in the cluster after their logins until something else removes their finalizers"
        yield Finding("warning", f"{_PATH}.metadata.finalizers", text)


def _account(spec: Mapping[str, Any]) -> Iterator[Finding]:
    if spec.get("automountServiceAccountToken", True):
        text = "users get the token of the pod's service account, and may do at the API what that may"
        where = f"{_SPEC}.automountServiceAccountToken"
        yield Finding("warning", where, text, suggestion="set it to false, unless they shall")


def _containers(spec: Mapping[str, Any], console: int) -> Iterator[Finding]:
    for number, container in enumerate(spec["containers"]):
        context = container.get("securityContext")
        if isinstance(context, Mapping) and context.get("privileged"):
            text = "a privileged container is root on the node"
            yield Finding("warning", f"{_SPEC}.containers.{number}.securityContext.privileged", text)
        resources = container.get("resources")
        limits = resources.get("limits") if isinstance(resources, Mapping) else None
        if number == console and not (isinstance(limits, Mapping) and limits.get("memory")):
            text = "without a limit one user may take all of a node's memory"
            yield Finding("info", f"{_SPEC}.containers.{number}.resources", text, suggestion="set limits.memory")


def _agent(pod: KubernetesPodConfig) -> Iterator[Finding]:
    way = pod.agent_in_use
    key = f"{_PATH}.disableAgent" if pod.disable_agent else f"{_PATH}.agent"
    if way == "none":
        text = "there are no signals, no forwarding, no built-in SFTP, and none of the client's variables"
        yield Finding("info", key, text)
    elif way == "image":
        text = "the image's agent has no built-in SFTP, no ssh-agent forwarding and no exit signals"
        yield Finding("info", key, text)
