"""The ``security`` section (``config.md`` section 4.8, ``ssh.md`` section 10)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from containerssh.config.forwarding import ForwardingConfig, not_deny
from containerssh.config.model import ConfigModel, Duration, Problem, seconds

Mode = Annotated[Literal["", "enable", "filter", "disable"], BeforeValidator(not_deny)]


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


class SecurityConfig(ConfigModel):
    """What a login may do."""

    default_mode: Mode = ""
    """The mode of all sections below that do not set one, and of ssh-agent forwarding. Empty: `enable`."""

    force_command: str = ""
    """This command is run whatever the client requests. `SSH_ORIGINAL_COMMAND` has the request: the command, for a
    subsystem its program, and nothing for a shell."""

    env: ListModeConfig = ListModeConfig.default()
    """Environment variables sent by clients."""

    command: CommandModeConfig = CommandModeConfig.default()
    """Commands (`ssh host command`)."""

    shell: ModeConfig = ModeConfig.default()
    """Shells."""

    subsystem: ListModeConfig = ListModeConfig.default()
    """Subsystems, such as `sftp`."""

    tty: ModeConfig = ModeConfig.default()
    """Terminals."""

    signal: ListModeConfig = ListModeConfig.default()
    """Signals, named without `SIG`."""

    forwarding: ForwardingConfig = ForwardingConfig.default()
    """Forwarded connections."""

    max_sessions: Annotated[int, Field(ge=-1)] = -1
    """How many sessions of one connection may be open at the same time; -1 for any number, 0 for none."""

    max_login_time: Duration = seconds(0)
    """How long a login may last after authentication; 0 for no limit. Containers of limited logins carry labels with
    their expiry."""

    def problems(self) -> Iterator[Problem]:
        # A command that consists of blanks is the shell: nothing would be forced.
        if self.force_command and (not self.force_command.strip() or "\0" in self.force_command):
            yield Problem("forceCommand", "must be a command, not blanks, and without NUL")
        if self.max_login_time and self.max_login_time < seconds(1):
            yield Problem("maxLoginTime", "must be 0 or at least 1s")
