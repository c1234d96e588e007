"""The body of the request that creates a login's container."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from containerssh.config.docker import DEFAULT_IDLE_COMMAND, DockerExecutionConfig
from containerssh.core.codes import DockerCode
from containerssh.core.messages import Event
from containerssh.core.metadata import Login
from containerssh.core.requests import can_be_variable

logger = logging.getLogger(__name__)

LABEL_INSTANCE = "containerssh_instance"
"""The server process that the container belongs to, to distinguish containers of dead instances."""
LABEL_LAUNCH = "containerssh_launch"
"""Unique for each create request; identifies a container whose id was lost with the reply."""

_BOUNDED_LOG = {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "1"}}


def agent_is_main(config: DockerExecutionConfig) -> bool:
    """
    Whether the guest agent replaces the idle command: if that is an agent that only waits, as by default. In session
    mode there is no idle command.
    """
    command = config.idle_command
    waits = command == DEFAULT_IDLE_COMMAND or command[:2] == (config.agent_path, "wait-signal")
    return config.mode == "session" or waits


def create_body(
    config: DockerExecutionConfig,
    login: Login,
    *,
    instance: str,
    launch: str,
    expiry: Mapping[str, str],
    command: Sequence[str],
    mount: Mapping[str, Any] | None = None,
    attached: bool = False,
) -> dict[str, Any]:
    """
    The body of a create request: the configured structures, labels, environment, and *command* as the main program.
    *expiry* contains additional labels, *mount* an additional mount. With *attached*, the streams are used, so the
    container gets no terminal.
    """
    container, host, network = config.engine_structures()
    container["Cmd"] = list(command)
    container["Labels"] = {
        **container.get("Labels", {}),
        "containerssh_connection_id": login.connection_id,
        "containerssh_ip": login.remote_address.host,
        "containerssh_username": login.username,
        LABEL_INSTANCE: instance,
        LABEL_LAUNCH: launch,
        **expiry,
    }
    container["Env"] = environment(config, login)
    if attached:
        container |= dict.fromkeys(("AttachStdin", "AttachStdout", "AttachStderr", "OpenStdin", "StdinOnce"), True)
        container["Tty"] = False
    if mount is not None:
        host["Mounts"] = [*host.get("Mounts", []), dict(mount)]
    if not host.get("LogConfig", {}).get("Type"):
        # A guest can write to its main program's output, which the engine logs to the host's disk. Attached streams
        # need no log, which would halve their throughput.
        host["LogConfig"] = {"Type": "none"} if attached else _BOUNDED_LOG
    return {**container, "HostConfig": host, "NetworkingConfig": network}


def environment(config: DockerExecutionConfig, login: Login) -> list[str]:
    """
    The container's environment: the configured variables, then the metadata if enabled, then the login's environment;
    later values override earlier ones (``webhooks.md`` section 7).
    """
    variables: dict[str, str] = {}
    for entry in config.container.get("Env", []):
        # An entry without a value removes the image's variable.
        name, _, _ = entry.partition("=")
        if name:
            variables[name] = entry
    texts = [*login.metadata.items()] if config.expose_auth_metadata_as_env else []
    for name, value in [*texts, *login.environment.items()]:
        if not can_be_variable(name, value.value):
            text = f"A variable cannot be named {name[:100]!r}, or its value contains NUL; it is left out"
            logger.warning(Event(DockerCode.CONTAINER_CREATE, text))
            continue
        variables[name] = f"{name}={value.value}"
    return list(variables.values())
