"""What a login may do (``ssh.md`` section 10): the ``security`` section, and what its credential takes away."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property

from containerssh.config.security import SecurityConfig
from containerssh.core.codes import SecurityCode
from containerssh.core.errors import ContainerSSHError, Rejected
from containerssh.core.forwarding import ANY_ADDRESS, AddressRules, ForwardRules, PathRules
from containerssh.core.handlers import Incoming, Listener, SessionChannel, SessionHandler
from containerssh.core.layer import ConnectionLayer, SessionLayer
from containerssh.core.messages import Code, Event, LabelValue
from containerssh.core.metadata import Restrictions
from containerssh.core.requests import PtyRequest, X11Request
from containerssh.core.streams import ByteStream

logger = logging.getLogger(__name__)

ORIGINAL_COMMAND = "SSH_ORIGINAL_COMMAND"
FORCED_SFTP = "internal-sftp"
"""As a forced command: SFTP and nothing else, as OpenSSH's server has it."""

_HARMLESS = frozenset({"LANG", "LANGUAGE", "COLORTERM", "NO_COLOR", "GIT_PROTOCOL"})


@dataclass(frozen=True)
class Policy:
    """The decisions: each method tells whether a request may pass."""

    config: SecurityConfig
    restrictions: Restrictions = Restrictions()

    @property
    def force_command(self) -> str | None:
        """The administrator's forced command, else the credential's (the order of sshd_config(5))."""
        return self.config.force_command or self.restrictions.force_command

    def allows_env(self, name: str) -> bool:
        # What a forced command reads there must come from us, never from the client (sshd_config(5), ForceCommand).
        if name == ORIGINAL_COMMAND or name in self.restrictions.environment:
            return False
        # BASH_ENV, LD_PRELOAD, PATH and many more make a program run something else: a client could choose the command
        # after all. Where nobody has said that it may, a forced command gets what sshd's usual AcceptEnv lets through.
        unsaid = not (self.config.env.mode or self.config.default_mode)
        if unsaid and self.force_command and not (name in _HARMLESS or name.startswith("LC_")):
            return False
        return self._listed(self.config.env.mode, name, self.config.env.allow, self.config.env.deny)

    def allows_pty(self) -> bool:
        return self.restrictions.pty and self._mode(self.config.tty.mode) == "enable"

    def allows_command(self, command: str) -> bool:
        # A command of nothing but blanks starts the shell.
        if not command.strip() and not self.force_command and not self.allows_shell():
            return False
        return self._listed(self.config.command.mode, command, self.config.command.allow, ())

    def allows_shell(self) -> bool:
        return self._mode(self.config.shell.mode) == "enable"

    def allows_subsystem(self, name: str) -> bool:
        rule = self.config.subsystem
        return self._listed(rule.mode, name, rule.allow, rule.deny)

    def allows_signal(self, name: str) -> bool:
        rule = self.config.signal
        return self._listed(rule.mode, name, rule.allow, rule.deny)

    def allows_session(self, already_open: int) -> bool:
        return self.config.max_sessions < 0 or already_open < self.config.max_sessions

    def allows_x11(self) -> bool:
        return self.restrictions.x11_forwarding and self.config.forwarding.x11_forwarding_mode == "enable"

    def allows_agent(self) -> bool:
        # Unlike the forwards it lends what is the user's own, and only where the client asks for it.
        mode = self.config.forwarding.agent_forwarding_mode
        return self.restrictions.agent_forwarding and self._mode(mode) == "enable"

    @cached_property
    def forwarding(self) -> ForwardRules:
        """Where the client may be connected to."""
        rule = self.config.forwarding
        return self._endpoints(rule.forwarding_mode, rule.forwarding_allow, rule.forwarding_deny)

    @cached_property
    def reverse_forwarding(self) -> ForwardRules:
        """What the client may have listened on."""
        rule = self.config.forwarding
        return self._endpoints(
            rule.reverse_forwarding_mode, rule.reverse_forwarding_allow, rule.reverse_forwarding_deny
        )

    @cached_property
    def socket_forwarding(self) -> PathRules:
        """Which unix sockets the client may be connected to."""
        rule = self.config.forwarding
        return self._paths(rule.socket_forwarding_mode, rule.socket_forwarding_allow, rule.socket_forwarding_deny)

    @cached_property
    def socket_listening(self) -> PathRules:
        """Which unix sockets the client may have listened on."""
        rule = self.config.forwarding
        return self._paths(rule.socket_listen_mode, rule.socket_listen_allow, rule.socket_listen_deny)

    def _endpoints(self, mode: str, allow: Sequence[str], deny: Sequence[str]) -> ForwardRules:
        return ForwardRules.parse(self._allowed(mode, allow), deny)

    def _paths(self, mode: str, allow: Sequence[str], deny: Sequence[str]) -> PathRules:
        return PathRules.parse(self._allowed(mode, allow), deny)

    def _allowed(self, mode: str, allow: Sequence[str]) -> Sequence[str] | None:
        """The list of what alone is allowed; None for everything."""
        if not self.restrictions.port_forwarding or mode not in ("enable", "filter"):
            return ()
        return allow if mode == "filter" else None

    def _mode(self, own: str) -> str:
        return own or self.config.default_mode or "enable"

    def _listed(self, mode: str, value: str, allow: tuple[str, ...], deny: tuple[str, ...]) -> bool:
        match self._mode(mode):
            case "enable":
                return value not in deny
            case "filter":
                return value in allow
            case _:
                return False


@dataclass(eq=False)
class SecurityConnection(ConnectionLayer):
    """Refuses what the policy does not allow; everything else passes."""

    policy: Policy
    _open: int = field(default=0, init=False)

    @property
    def longest(self) -> timedelta:
        return self.policy.config.max_login_time

    @asynccontextmanager
    async def session(self, channel: SessionChannel) -> AsyncIterator[SessionHandler]:
        if not self.policy.allows_session(self._open):
            raise Rejected(SecurityCode.MAX_SESSIONS, "too many sessions are open", user_message="Too many sessions.")
        self._open += 1
        try:
            async with self.inner.session(channel) as session:
                yield SecuritySession(session, self.policy)
        finally:
            self._open -= 1

    async def connect_tcp(self, host: str, port: int, addresses: AddressRules = ANY_ADDRESS) -> ByteStream:
        rules = self.policy.forwarding.destination(host, port)
        if rules is None:
            raise _no_forward(SecurityCode.FORWARDING_REJECTED, "a connection", host=host, port=port)
        return await self.inner.connect_tcp(host, port, addresses.and_also(rules))

    async def connect_unix(self, path: str) -> ByteStream:
        if not self.policy.socket_forwarding.allows(path):
            raise _no_forward(SecurityCode.FORWARDING_REJECTED, "a connection to a socket", path=path)
        return await self.inner.connect_unix(path)

    async def listen_tcp(self, host: str, port: int, incoming: Incoming) -> Listener:
        rules = self.policy.reverse_forwarding
        refusal = _no_forward(SecurityCode.REVERSE_FORWARDING_REJECTED, "listening", host=host, port=port)
        if not rules.allows_listening(host, port):
            raise refusal
        listener = await self.inner.listen_tcp(host, port, incoming)
        if rules.denies_listening(host, listener.port):
            # Any free port was asked for, and it became one that nobody may have.
            await listener.close()
            raise refusal
        return listener

    async def listen_unix(self, path: str, incoming: Incoming) -> Listener:
        if not self.policy.socket_listening.allows(path):
            raise _no_forward(SecurityCode.REVERSE_FORWARDING_REJECTED, "listening on a socket", path=path)
        return await self.inner.listen_unix(path, incoming)


@dataclass(eq=False)
class SecuritySession(SessionLayer):
    policy: Policy

    async def set_env(self, name: str, value: str) -> None:
        if not self.policy.allows_env(name):
            raise _refused(SecurityCode.ENV_REJECTED, "Setting this environment variable", name=name)
        await self.inner.set_env(name, value)

    async def request_pty(self, request: PtyRequest) -> None:
        if not self.policy.allows_pty():
            raise _refused(SecurityCode.TTY_REJECTED, "Requesting a terminal")
        await self.inner.request_pty(request)

    async def request_x11(self, request: X11Request) -> None:
        if not self.policy.allows_x11():
            raise _refused(SecurityCode.X11_FORWARDING_REJECTED, "X11 forwarding")
        await self.inner.request_x11(request)

    async def request_agent(self) -> None:
        if not self.policy.allows_agent():
            raise _refused(SecurityCode.AGENT_FORWARDING_REJECTED, "Forwarding an ssh-agent")
        await self.inner.request_agent()

    async def run_shell(self) -> None:
        if not self.policy.allows_shell():
            raise _refused(SecurityCode.SHELL_REJECTED, "Starting a shell")
        if self.policy.force_command:
            await self._force(None)
        else:
            await self.inner.run_shell()

    async def run_command(self, command: str) -> None:
        if not self.policy.allows_command(command):
            raise _refused(SecurityCode.EXEC_REJECTED, "Executing this command", command=command)
        if self.policy.force_command:
            await self._force(command)
        else:
            await self.inner.run_command(command)

    async def run_subsystem(self, name: str) -> None:
        if not self.policy.allows_subsystem(name):
            raise _refused(SecurityCode.SUBSYSTEM_REJECTED, "Using this subsystem", name=name)
        if self.policy.force_command:
            await self._force(self.inner.subsystem_command(name))
        else:
            await self.inner.run_subsystem(name)

    async def send_signal(self, name: str) -> None:
        if not self.policy.allows_signal(name):
            raise _refused(SecurityCode.SIGNAL_REJECTED, "Sending this signal", signal=name)
        await self.inner.send_signal(name)

    async def _force(self, original: str | None) -> None:
        forced = self.policy.force_command
        assert forced is not None
        logger.debug(Event(SecurityCode.EXEC_FORCING_COMMAND, "Running the forced command instead"))
        if original is not None:
            try:
                await self.inner.set_env(ORIGINAL_COMMAND, original)
            except ContainerSSHError as exc:
                logger.error(  # noqa: TRY400  the traceback says nothing that the event does not
                    Event(SecurityCode.EXEC_FAILED_SETENV, f"Setting {ORIGINAL_COMMAND} failed: {exc}")
                )
                raise
        if forced == FORCED_SFTP:
            await self.inner.run_subsystem("sftp")
        else:
            await self.inner.run_command(forced)


def _refused(code: Code, what: str, **labels: LabelValue) -> Rejected:
    return Rejected(code, f"{what} is not allowed", user_message=f"{what} is not allowed.", **labels)


def _no_forward(code: Code, what: str, **labels: LabelValue) -> Rejected:
    # The client's words are of any length, and go into one line of the log.
    shortened = {name: value[:256] if isinstance(value, str) else value for name, value in labels.items()}
    return Rejected(code, f"{what} is not allowed", user_message="Forwarding is rejected", **shortened)
