"""What the sections of the docker and oci backends may say but hardly should: remarks for ``config check``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from containerssh.config.docker import DEFAULT_AGENT_PATH, DEFAULT_IDLE_COMMAND, DockerConfig, DockerExecutionConfig
from containerssh.config.findings import Finding, Severity
from containerssh.config.oci import OCIConfig
from containerssh.config.values import is_missing


def docker_advice(docker: DockerConfig) -> Iterator[Finding]:
    """Remarks about the docker backend, where it may be used."""
    connection, host = docker.connection, docker.execution.host
    url = urlsplit(connection.host)
    if url.scheme == "http" or (url.scheme == "tcp" and not (connection.cacert or connection.cert)):
        yield _say(
            "warning", "docker.connection.host", "without TLS whoever reaches this address is root on that machine"
        )
    for key in docker.ignored_keys():
        path, _, hint = key.partition(" (")
        yield _say("warning", f"docker.{path}", "the engine does not know this key; it has no effect", hint.rstrip(")"))
    dangers = {
        "Privileged": (bool(host.get("Privileged")), "a privileged container is root on the host"),
        "PidMode": (host.get("PidMode") == "host", "users see and signal the processes of the host"),
        "NetworkMode": (host.get("NetworkMode") == "host", "users reach every service that listens on the host"),
        "IpcMode": (host.get("IpcMode") == "host", "users reach the shared memory of the host"),
    }
    for key, (is_so, message) in dangers.items():
        if is_so:
            yield _say("warning", f"docker.execution.host.{key}", message)
    yield from _agent(docker.execution)
    for number, bind in enumerate(host.get("Binds") or []):
        source = bind.partition(":")[0].rstrip("/")
        if source == "" or source.endswith("docker.sock"):
            yield _say("warning", f"docker.execution.host.Binds.{number}", "with this users are root on the host")


def _agent(execution: DockerExecutionConfig) -> Iterator[Finding]:
    way = execution.agent_in_use
    key = "docker.execution.disableAgent" if execution.disable_agent else "docker.execution.agent"
    if way == "image" and execution.agent_path != DEFAULT_AGENT_PATH:
        key = "docker.execution.agentPath"
    if way in ("none", "auto"):
        may = "" if way == "none" else "where the engine keeps the agent out, "
        text = f"{may}there are no signals, no forwarding and no built-in SFTP, and a program may outlive its session"
        yield _say("info", key, text)
    elif way == "image":
        yield _say("info", key, "the image's agent has no built-in SFTP, no ssh-agent forwarding and no exit signals")
    if way == "none" and execution.mode == "connection" and execution.idle_command == DEFAULT_IDLE_COMMAND:
        text = "the default is the agent of an image, which has to be there although programs do without it"
        yield _say("warning", "docker.execution.idleCommand", text, "name a program of the image that waits")


def oci_advice(oci: OCIConfig) -> Iterator[Finding]:
    """Remarks about the oci backend, where it may be used."""
    if oci.image.startswith("/") and is_missing(Path(oci.image)):
        yield _say("warning", "oci.image", f"there is no file or folder {oci.image} on this machine")
    if not oci.user_namespace.enabled:
        yield _say("warning", "oci.userNamespace.enabled", "root in a container is root on the host")
    if oci.network == "host":
        yield _say("warning", "oci.network", "users reach every service that listens on the host")
    if oci.seccomp == "unconfined":
        yield _say("warning", "oci.seccomp", "users may make every system call")
    if "ALL" in oci.cap_add or "SYS_ADMIN" in oci.cap_add:
        yield _say("warning", "oci.capAdd", "this capability removes most of the isolation")


def _say(severity: Severity, path: str, message: str, suggestion: str = "") -> Finding:
    return Finding(severity, path, message, suggestion=suggestion)
