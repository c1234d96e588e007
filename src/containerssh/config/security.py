"""The ``security`` section (``config.md`` section 4.8, ``ssh.md`` section 10)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from containerssh.config.model import ConfigModel, Duration, Problem, seconds


def _not_deny(value: Any) -> Any:
    if value == "deny":
        raise ValueError("'deny' is written disable")
    return value


Mode = Annotated[Literal["", "enable", "filter", "disable"], BeforeValidator(_not_deny)]
ForwardingMode = Annotated[Literal["enable", "filter", "disable"], BeforeValidator(_not_deny)]
"""Never empty: forwarding does not follow `defaultMode`, as upstream."""


class ModeConfig(ConfigModel):
    """Whether it is allowed."""

    mode: Mode = ""
    """`enable` or `disable`; `filter` refuses too, as there is nothing to filter. Empty: as `defaultMode` says."""


class ListModeConfig(ConfigModel):
    """Which of them are allowed, by their exact names."""

    mode: Mode = ""
    """`enable`: all but those in `deny`. `filter`: only those in `allow`. `disable`: none. Empty: as `defaultMode`
    says."""

    allow: tuple[str, ...] = ()
    """Allowed in mode `filter`."""

    deny: tuple[str, ...] = ()
    """Refused in mode `enable`."""


class CommandModeConfig(ConfigModel):
    """Which commands are allowed."""

    mode: Mode = ""
    """`enable`: all. `filter`: only those in `allow`. `disable`: none. Empty: as `defaultMode` says."""

    allow: tuple[str, ...] = ()
    """Allowed in mode `filter`: whole command lines, to the letter."""


class ForwardingConfig(ConfigModel):
    """Which connections may be forwarded; none, unless one of these says `enable`."""

    reverse_forwarding_mode: ForwardingMode = "disable"
    """Connections from the container's network to the client (`ssh -R`)."""

    forwarding_mode: ForwardingMode = "disable"
    """Connections from the client to the container's network (`ssh -L`)."""

    socket_forwarding_mode: ForwardingMode = "disable"
    """Connections from the client to unix sockets in the container."""

    socket_listen_mode: ForwardingMode = "disable"
    """Connections from unix sockets in the container to the client."""

    x11_forwarding_mode: ForwardingMode = Field("disable", alias="x11ForwardingMode")
    """Windows of programs in the container (`ssh -X`)."""


class SecurityConfig(ConfigModel):
    """What a login may do."""

    default_mode: Mode = ""
    """The mode of everything below that has none of its own, forwarding excepted. Empty means `enable`."""

    force_command: str = ""
    """This command is run, whatever the client asks for. What it asked for is in `SSH_ORIGINAL_COMMAND`."""

    env: ListModeConfig = ListModeConfig()
    """Environment variables that a client sends."""

    command: CommandModeConfig = CommandModeConfig()
    """Commands (`ssh host command`)."""

    shell: ModeConfig = ModeConfig()
    """Shells."""

    subsystem: ListModeConfig = ListModeConfig()
    """Subsystems, such as `sftp`."""

    tty: ModeConfig = ModeConfig()
    """Terminals."""

    signal: ListModeConfig = ListModeConfig()
    """Signals, named without `SIG`."""

    forwarding: ForwardingConfig = ForwardingConfig()
    """Forwarded connections."""

    max_sessions: Annotated[int, Field(ge=-1)] = -1
    """How many sessions of one connection may be open at once; -1 for any number, 0 for none."""

    max_login_time: Duration = seconds(0)
    """How long a login may last from its authentication on; 0 for as long as the user likes. Its containers then carry
    labels that say when they are nobody's any more."""

    def problems(self) -> Iterator[Problem]:
        if self.max_login_time and self.max_login_time < seconds(1):
            yield Problem("maxLoginTime", "must be 0 or at least 1s")
