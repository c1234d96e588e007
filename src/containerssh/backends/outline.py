"""Descriptions of what a backend would start for a login, without starting it; for ``config explain``."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from containerssh.config.app import AppConfig
from containerssh.config.docker import DockerConfig
from containerssh.config.kubernetes import KubernetesPodConfig
from containerssh.config.oci import OCIConfig
from containerssh.config.sshproxy import SSHProxyConfig
from containerssh.core.metadata import Login

FILE_MODE = 0o600
"""The mode of the files that webhooks send, in all backends."""


@dataclass(frozen=True)
class Outline:
    """A description of the container that would be started."""

    target: Mapping[str, str]
    """Descriptions by topic."""
    variables: Sequence[str] = ()
    """The names of environment variables of programs, without those of the image."""
    takes_files: bool = True
    """Whether files from webhooks are written to the container."""


def outline(backend: str, config: AppConfig, login: Login) -> Outline:
    """The outline of *backend*, which must not be ``auto``."""
    match backend:
        case "docker":
            return _docker(config.docker, login)
        case "oci":
            return _oci(config.oci, login)
        case "kubernetes":
            return _pod(config.kubernetes.pod, login)
        case "sshproxy":
            return _server_behind(config.sshproxy, login)
    return Outline({})


def _docker(config: DockerConfig, login: Login) -> Outline:
    from containerssh.backends.docker.launch import environment

    execution = config.execution
    container, host, _ = execution.engine_structures()
    target = {
        "engine": config.connection.host,
        "image": execution.image,
        "imagePullPolicy": execution.image_pull_policy,
        "mode": execution.mode,
        "agent": execution.agent_in_use,
        "shell": shlex.join(execution.shell_command),
        "user": str(container.get("User", "")),
        "network": str(host.get("NetworkMode", "")),
    }
    return Outline(_said(target), [entry.partition("=")[0] for entry in environment(execution, login)])


def _oci(config: OCIConfig, login: Login) -> Outline:
    from containerssh.backends.oci.backend import own_environment

    target = {
        "image": config.image,
        "mode": config.mode,
        "shell": shlex.join(config.shell_command),
        "user": config.user,
        "network": str(config.network),
    }
    return Outline(_said(target), list(own_environment(login, config)))


def _pod(config: KubernetesPodConfig, login: Login) -> Outline:
    console: Mapping[str, Any] = config.spec["containers"][config.console_container_number]
    target = {
        "namespace": str(config.metadata.get("namespace", "")),
        "pod": str(config.metadata.get("name") or config.metadata.get("generateName", "")),
        "container": str(console.get("name", "")),
        "image": str(console.get("image", "")),
        "mode": config.mode,
        "shell": shlex.join(config.shell_command),
    }
    configured = [str(entry.get("name", "")) for entry in console.get("env") or []]
    exposed = [name for key, name in config.expose_auth_metadata_as_env.items() if key in login.metadata]
    return Outline(_said(target), list(dict.fromkeys([*configured, *exposed, *login.environment])))


def _server_behind(config: SSHProxyConfig, login: Login) -> Outline:
    name = login.username if config.username_pass_through else config.username
    return Outline({"server": f"{config.server}:{config.port}", "user": name}, takes_files=False)


def _said(target: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in target.items() if text}
