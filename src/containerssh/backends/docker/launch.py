"""What the engine is asked to create for a login."""

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
"""Which server process the container belongs to: what a dead one left can be told from what a living one uses."""
LABEL_LAUNCH = "containerssh_launch"
"""Unlike for every create request: finds the container whose id was lost with the reply."""

_BOUNDED_LOG = {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "1"}}


def agent_is_main(config: DockerExecutionConfig) -> bool:
    """
    Whether our agent takes the place of the idle command: where that is an agent that waits, which is the default.
    In session mode there is no idle command.
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
    The body of a create request: the configured structures, with our labels, the environment, and *command* as the
    main program's. *expiry* is more labels, *mount* one more mount; *attached*: its streams will be used, so it has no
    terminal.
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
        # A guest can write to its main program's output, which the engine keeps on the host's disk. What we read
        # ourselves it need not keep at all, and doing so takes half of the speed.
        host["LogConfig"] = {"Type": "none"} if attached else _BOUNDED_LOG
    return {**container, "HostConfig": host, "NetworkingConfig": network}


def environment(config: DockerExecutionConfig, login: Login) -> list[str]:
    """
    The container's variables: the configured ones, then the metadata if it is to be exposed, then the login's
    environment; a later one takes the place of an earlier one (``webhooks.md`` section 7).
    """
    variables: dict[str, str] = {}
    for entry in config.container.get("Env", []):
        # Without a value an entry takes the image's variable of that name away.
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
