"""The ``docker`` section (``config.md`` section 7)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, Self
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, SecretStr, field_validator, model_validator

from containerssh.config.docker_structures import (
    CONTAINER,
    HOST,
    NETWORK,
    PLATFORM,
    STRUCTURES,
    known,
    settled,
    unknown_keys,
)
from containerssh.config.model import ConfigModel, Duration, Secret, parse_duration, seconds

DEFAULT_HOST = "unix:///var/run/docker.sock"
DEFAULT_IMAGE = "containerssh/containerssh-guest-image"
DEFAULT_AGENT_PATH = "/usr/bin/containerssh-agent"
DEFAULT_IDLE_COMMAND = (
    DEFAULT_AGENT_PATH,
    "wait-signal",
    "--signal",
    "INT",
    "--signal",
    "TERM",
)

Agent = Literal["injected", "image", "none", "auto"]
Command = tuple[str, ...]


def _settle_container(value: object) -> Any:
    container = settled(CONTAINER, value)
    if container.setdefault("Image", DEFAULT_IMAGE) == "":
        raise ValueError("no image name provided")
    return container


class DockerConnectionConfig(ConfigModel):
    """Where the Docker engine listens."""

    host: str = DEFAULT_HOST
    """``unix:///path``, ``tcp://host:port``, ``http://host:port`` or ``https://host:port``; a bare ``host:port`` is
    ``tcp://``."""

    cacert: str = ""
    """The CA certificates that the engine's certificate is checked with, PEM. With it, ``tcp://`` means TLS; without
    it, ``https://`` trusts the system's CAs."""

    cert: str = ""
    """The client certificate for the engine, PEM."""

    key: Secret = SecretStr("")
    """The private key of ``cert``, PEM."""

    @field_validator("host", mode="after")
    @classmethod
    def _understand_host(cls, value: str) -> str:
        host = value.strip() or DEFAULT_HOST
        if "://" not in host:
            host = f"tcp://{host}"
        url = urlsplit(host)
        if url.scheme == "unix":
            if url.netloc or not url.path.startswith("/") or "\0" in host:
                raise ValueError("a unix socket is written unix:///path/to/socket")
            return host
        if url.scheme not in ("tcp", "http", "https"):
            raise ValueError(f"{url.scheme}:// is not supported; use unix://, tcp://, http:// or https://")
        if url.username is not None or url.query or url.fragment:
            raise ValueError("the engine's address has a host, a port and perhaps a path, nothing else")
        try:
            port = url.port
        except ValueError:
            raise ValueError("the port is not a number up to 65535") from None
        if not url.hostname or port == 0:
            raise ValueError("the engine's host name is missing, or its port is 0")
        return host

    @model_validator(mode="after")
    def _certificates_fit(self) -> Self:
        if bool(self.cert) != bool(self.key.get_secret_value()):
            raise ValueError("cert and key belong together: set both or neither")
        if (self.cert or self.cacert) and urlsplit(self.host).scheme not in ("tcp", "https"):
            raise ValueError("certificates need a tcp:// or https:// host")
        return self


class DockerAuthConfig(ConfigModel):
    """Credentials for the registry that the image is pulled from."""

    other_spellings: ClassVar[Mapping[str, str]] = {
        "serverAddress": "serveraddress",
        "identityToken": "identitytoken",
        "registryToken": "registrytoken",
    }

    username: str = ""
    password: Secret = SecretStr("")
    auth: Secret = SecretStr("")
    """Instead of the two above: base64 of ``username:password``."""

    email: str = ""
    """Sent along; registries no longer use it."""

    serveraddress: str = Field("", alias="serveraddress")
    """The registry that these are for; sent along."""

    identitytoken: Secret = Field(SecretStr(""), alias="identitytoken")
    """A token that the engine exchanges for access at the registry."""

    registrytoken: Secret = Field(SecretStr(""), alias="registrytoken")
    """A bearer token that is sent to the registry as it is."""


class DockerExecutionConfig(ConfigModel):
    """What is started for a login."""

    other_spellings: ClassVar[Mapping[str, str]] = {"containerName": "containername"}

    container: Annotated[dict[str, Any], BeforeValidator(_settle_container)] = Field(
        default_factory=lambda: {"Image": DEFAULT_IMAGE}
    )
    """The container, as the Engine API's ContainerConfig: image, env, user, labels and so on."""

    host: Annotated[dict[str, Any], BeforeValidator(partial(settled, HOST))] = Field(default_factory=dict)
    """The container's access to the host, as the Engine API's HostConfig: limits, mounts, capabilities."""

    network: Annotated[dict[str, Any], BeforeValidator(partial(settled, NETWORK))] = Field(default_factory=dict)
    """The networks that the container joins, as the Engine API's NetworkingConfig."""

    platform: Annotated[dict[str, Any], BeforeValidator(partial(settled, PLATFORM))] = Field(default_factory=dict)
    """The platform of the image, where it has several."""

    container_name: str = Field("", alias="containername")
    """A fixed name for the container. Only one login at a time is possible then."""

    auth: DockerAuthConfig | None = None
    """Credentials for a private registry."""

    mode: Literal["connection", "session"] = "connection"
    """``connection``: one container for each login. ``session``: one for each session."""

    idle_command: Command = DEFAULT_IDLE_COMMAND
    """The container's main program in connection mode. The default stands for the server's own guest agent; any other
    program runs unchanged, and the agent is started beside it."""

    shell_command: Command = ("/bin/bash",)
    """What a shell request starts."""

    agent: Agent = "injected"
    """What starts programs. ``injected``: the server's own agent. ``image``: the agent of ContainerSSH 0.5 and 0.6, at
    ``agentPath`` in the image. ``none``: the engine. ``auto``: the first of these; where the engine does not let it in,
    the second if it is there, else the third. The page on Docker says what each can do. If ``agentPath`` is set to
    another path, ``image`` is the default."""

    agent_path: str = DEFAULT_AGENT_PATH
    """The path of the agent in images for ContainerSSH 0.5 and 0.6. Any other path than the default selects that agent,
    unless ``agent`` says otherwise."""

    disable_agent: bool = False
    """The same as ``agent: none``."""

    agent_transport: Literal["auto", "socket", "attach"] = "auto"
    """How the guest agent is reached. ``socket``: through a folder of this machine that is mounted into the container.
    ``attach``: through the engine. ``auto``: by socket if the engine can see this machine's files."""

    subsystems: dict[str, str] = Field(default_factory=lambda: {"sftp": "/usr/lib/openssh/sftp-server"})
    """The program of each subsystem."""

    background_processes: Literal["hangUp", "end", "keep"] = "hangUp"
    """What happens to processes that are still running when their session ends. `hangUp`: they receive SIGHUP; those
    that ignore it (`nohup`) or have a session of their own (`setsid`, daemons) live until the login ends. `end`: all of
    them are ended, wherever they went. `keep`: all of them live until the login ends."""

    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """When the image is pulled from its registry."""

    expose_auth_metadata_as_env: bool = Field(False, alias="exposeAuthMetadataAsEnv")
    """Pass the metadata returned by webhooks to the container as environment variables."""

    @field_validator("subsystems", mode="after")
    @classmethod
    def _subsystems_have_programs(cls, value: dict[str, str]) -> dict[str, str]:
        for name, program in value.items():
            if not program.strip():
                raise ValueError(f"the subsystem {name!r} has no program")
        return value

    @model_validator(mode="after")
    def _agents_agree(self) -> Self:
        if self.disable_agent and self.agent != "none" and "agent" in self.model_fields_set:
            raise ValueError(f"disableAgent and agent: {self.agent} contradict one another")
        way = self._agent_meant()
        if way == "image" and not self.agent_path.startswith("/"):
            raise ValueError("agentPath must be an absolute path for agent: image")
        ours = way in ("injected", "auto")
        if "background_processes" in self.model_fields_set and not ours:
            raise ValueError("backgroundProcesses is for the agent that the server brings along")
        if self.agent == "auto" and self.mode == "session":
            raise ValueError("agent: auto can be decided in connection mode only")
        return self

    @model_validator(mode="after")
    def _fits_the_mode(self) -> Self:
        if self.mode == "connection":
            if not self.idle_command:
                raise ValueError("idleCommand must not be empty in connection mode")
            if not self.shell_command:
                raise ValueError("shellCommand must not be empty in connection mode")
        else:
            policy = self.host.get("RestartPolicy", {}).get("Name", "")
            if policy not in ("", "no"):
                raise ValueError(f"host.restartPolicy: {policy!r} would run a program again; session mode needs 'no'")
        return self

    @model_validator(mode="after")
    def _settle_the_agent(self) -> Self:
        # So that a configuration that is written out again says the same.
        way = self._agent_meant()
        return self if way == self.agent else self.model_copy(update={"agent": way})

    def _agent_meant(self) -> Agent:
        if self.disable_agent:
            return "none"
        if "agent" not in self.model_fields_set and self.agent_path not in ("", DEFAULT_AGENT_PATH):
            return "image"
        return self.agent

    @property
    def agent_in_use(self) -> Agent:
        """``agent``, with ``disableAgent`` and ``agentPath`` taken into account."""
        return self._agent_meant()

    @property
    def image(self) -> str:
        return str(self.container["Image"])

    @property
    def platform_text(self) -> str:
        """``os/architecture/variant``, as the Engine API takes it; empty when none is configured."""
        given = {key: str(value) for key, value in known(PLATFORM, self.platform).items() if key != "os.features"}
        if not any(given.values()):
            return ""
        parts = [given.get("os") or "linux", given.get("architecture", ""), given.get("variant", "")]
        return "/".join(part for part in parts if part)

    def engine_structures(self) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """Fresh copies of container, host and network for a create request: without keys that have no effect."""
        return known(CONTAINER, self.container), known(HOST, self.host), known(NETWORK, self.network)


class DockerTimeouts(ConfigModel):
    """How long each step may take; 0 means the default."""

    container_start: Duration = seconds(60)
    """From the start of a login until its container is ready, pulling the image included."""

    container_stop: Duration = seconds(60)
    """Removing the container."""

    command_start: Duration = seconds(60)
    """Starting a program; in session mode with its container. Also writing one file."""

    signal: Duration = seconds(60)
    """Delivering a signal."""

    window: Duration = seconds(60)
    """Changing the size of a terminal."""

    http: Duration = seconds(15)
    """One ordinary request to the engine, except for pulls."""

    @field_validator("*", mode="before")
    @classmethod
    def _zero_is_the_default(cls, value: object, info: Any) -> object:
        duration = parse_duration(value)
        if duration < seconds(0):
            raise ValueError("a time limit cannot be negative")
        return duration or cls.model_fields[info.field_name].default


class DockerConfig(ConfigModel):
    """The docker backend: a container of a Docker engine for each login."""

    connection: DockerConnectionConfig = DockerConnectionConfig.default()
    execution: DockerExecutionConfig = DockerExecutionConfig.default()
    timeouts: DockerTimeouts = DockerTimeouts.default()

    def ignored_keys(self) -> list[str]:
        """Keys below the engine's structures that have no effect, each with its path and perhaps a suggestion."""
        execution = self.execution
        given = {
            "container": execution.container,
            "host": execution.host,
            "network": execution.network,
            "platform": execution.platform,
        }
        return [
            f"execution.{name}.{key}" for name, value in given.items() for key in unknown_keys(STRUCTURES[name], value)
        ]


def settle_docker(section: Mapping[str, Any]) -> dict[str, Any]:
    """
    A raw ``docker`` section with the engine's structures in the Engine API's spelling, so that two sections can be
    merged key by key. Nothing else is changed, and no default is added.

    Raises:
        ValueError: a value in the structures has the wrong type; the text names its path.
    """
    result = dict(section)
    execution = section.get("execution")
    if not isinstance(execution, Mapping):
        return result
    settled_execution = dict(execution)
    for name, structure in STRUCTURES.items():
        if (value := execution.get(name)) is None:
            continue
        try:
            settled_execution[name] = settled(structure, value)
        except ValueError as exc:
            raise ValueError(f"docker.execution.{name}: {exc}") from None
    result["execution"] = settled_execution
    return result
