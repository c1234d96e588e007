"""What a login may do (``ssh.md`` section 10): the ``security`` section, and restrictions of its credential."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from typing import Any

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
"""The forced command for SFTP only, as in OpenSSH's server."""

FORWARDS = {
    "forwarding": "forwarding",
    "reverse_forwarding": "reverseForwarding",
    "socket_forwarding": "socketForwarding",
    "socket_listen": "socketListen",
}
"""Kinds of forwards: the prefixes of their options."""

_CREDENTIAL = "the credential's options"
_HARMLESS = frozenset({"LANG", "LANGUAGE", "COLORTERM", "NO_COLOR", "GIT_PROTOCOL"})


@dataclass(frozen=True)
class Verdict:
    """Whether a request is allowed; true if it is."""

    allowed: bool
    by: str
    """The reason: a configuration option with its value, or a restriction of the credential."""

    def __bool__(self) -> bool:
        return self.allowed


@dataclass(frozen=True)
class Policy:
    """The decisions: each method returns whether a request is allowed, and the reason."""

    config: SecurityConfig
    restrictions: Restrictions = Restrictions()

    @property
    def force_command(self) -> str | None:
        """The administrator's forced command, else the credential's (the order of sshd_config(5))."""
        return self.config.force_command or self.restrictions.force_command

    def allows_env(self, name: str) -> Verdict:
        # A forced command relies on this variable, so it must never come from the client (sshd_config(5),
        # ForceCommand).
        if name == ORIGINAL_COMMAND:
            return Verdict(False, f"{ORIGINAL_COMMAND} is the server's")
        if name in self.restrictions.environment:
            return Verdict(False, "the credential sets it")
        # With BASH_ENV, LD_PRELOAD, PATH and many others, a client could still run a command of its choice. Unless the
        # configuration permits variables, a forced command receives only those of sshd's usual AcceptEnv.
        unsaid = not (self.config.env.mode or self.config.default_mode)
        if unsaid and self._chosen and not (name in _HARMLESS or name.startswith("LC_")):
            return Verdict(False, self._chosen)
        return self._listed("env", self.config.env.mode, name, self.config.env.allow, self.config.env.deny)

    @property
    def _chosen(self) -> str:
        """Why a client may not run any command; empty if it may."""
        if self.force_command:
            return "a command is forced"
        free = self.allows_shell() or (self.config.command.mode or self.config.default_mode or "enable") == "enable"
        return "" if free else "neither shells nor all commands are allowed"

    def allows_pty(self) -> Verdict:
        if not self.restrictions.pty:
            return Verdict(False, f"{_CREDENTIAL}: no-pty")
        return self._simple("tty", self.config.tty.mode)

    def allows_command(self, command: str) -> Verdict:
        # A command that consists of blanks starts the shell.
        if not command.strip() and not self.force_command and not (shell := self.allows_shell()):
            return shell
        return self._listed("command", self.config.command.mode, command, self.config.command.allow, ())

    def allows_shell(self) -> Verdict:
        return self._simple("shell", self.config.shell.mode)

    def allows_subsystem(self, name: str) -> Verdict:
        rule = self.config.subsystem
        return self._listed("subsystem", rule.mode, name, rule.allow, rule.deny)

    def allows_signal(self, name: str) -> Verdict:
        rule = self.config.signal
        return self._listed("signal", rule.mode, name, rule.allow, rule.deny)

    def allows_session(self, already_open: int) -> bool:
        return self.config.max_sessions < 0 or already_open < self.config.max_sessions

    def allows_x11(self) -> Verdict:
        if not self.restrictions.x11_forwarding:
            return Verdict(False, f"{_CREDENTIAL}: no-x11-forwarding")
        mode = self.config.forwarding.x11_forwarding_mode
        return Verdict(mode == "enable", f"security.forwarding.x11ForwardingMode: {mode}")

    def allows_agent(self) -> Verdict:
        if not self.restrictions.agent_forwarding:
            return Verdict(False, f"{_CREDENTIAL}: no-agent-forwarding")
        # Unlike forwards, this exposes only the user's own keys, and only if the client requests it.
        mode, by = self._mode("forwarding.agentForwardingMode", self.config.forwarding.agent_forwarding_mode)
        return Verdict(mode == "enable", by)

    def allows_forwards(self, kind: str) -> Verdict:
        """Whether any forward of *kind*, one of :data:`FORWARDS`, is allowed."""
        if not self.restrictions.port_forwarding:
            return Verdict(False, f"{_CREDENTIAL}: no-port-forwarding")
        mode = self._forward(kind, "mode")
        allowed = self._allowed(kind)
        return Verdict(allowed is None or bool(allowed), f"security.forwarding.{FORWARDS[kind]}Mode: {mode}")

    def destination(self, host: str, port: int) -> AddressRules | None:
        """Like :meth:`ForwardRules.destination`, for configuration and credential together."""
        agreed = self.forwarding.destination(host, port)
        # Only the configuration opens the server's host; some users can write the options of their keys themselves.
        for rules in self.restrictions.connections:
            addresses = rules.destination(host, port)
            if agreed is None or addresses is None:
                return None
            agreed = agreed.and_also(addresses)
        return agreed

    def allows_listening(self, host: str, port: int) -> bool:
        """Like :meth:`ForwardRules.allows_listening`, for both."""
        return all(
            rules.allows_listening(host, port) for rules in (self.reverse_forwarding, *self.restrictions.listeners)
        )

    @cached_property
    def forwarding(self) -> ForwardRules:
        """The targets that the client may connect to."""
        return ForwardRules.parse(self._allowed("forwarding"), self._forward("forwarding", "deny"))

    @cached_property
    def reverse_forwarding(self) -> ForwardRules:
        """The addresses that the client may listen on."""
        return ForwardRules.parse(self._allowed("reverse_forwarding"), self._forward("reverse_forwarding", "deny"))

    @cached_property
    def socket_forwarding(self) -> PathRules:
        """The unix sockets that the client may connect to."""
        return PathRules.parse(self._allowed("socket_forwarding"), self._forward("socket_forwarding", "deny"))

    @cached_property
    def socket_listening(self) -> PathRules:
        """The unix sockets that the client may listen on."""
        return PathRules.parse(self._allowed("socket_listen"), self._forward("socket_listen", "deny"))

    def _forward(self, kind: str, what: str) -> Any:
        return getattr(self.config.forwarding, f"{kind}_{what}")

    def _allowed(self, kind: str) -> Sequence[str] | None:
        """The list of what is allowed; None: everything."""
        mode = self._forward(kind, "mode")
        if not self.restrictions.port_forwarding or mode not in ("enable", "filter"):
            return ()
        allow: Sequence[str] = self._forward(kind, "allow")
        return allow if mode == "filter" else None

    def _mode(self, key: str, own: str) -> tuple[str, str]:
        """The effective mode of an option, and where it is configured."""
        if own:
            return own, f"security.{key}: {own}"
        if default := self.config.default_mode:
            return default, f"security.defaultMode: {default}"
        return "enable", f"security.{key} is not set"

    def _simple(self, kind: str, own: str) -> Verdict:
        mode, by = self._mode(f"{kind}.mode", own)
        return Verdict(mode == "enable", by)

    def _listed(self, kind: str, own: str, value: str, allow: tuple[str, ...], deny: tuple[str, ...]) -> Verdict:
        mode, by = self._mode(f"{kind}.mode", own)
        match mode:
            case "enable":
                return Verdict(False, f"security.{kind}.deny") if value in deny else Verdict(True, by)
            case "filter":
                return Verdict(True, f"security.{kind}.allow") if value in allow else Verdict(False, by)
            case _:
                return Verdict(False, by)


@dataclass(eq=False)
class SecurityConnection(ConnectionLayer):
    """Refuses what the policy does not allow, and passes everything else on."""

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
        rules = self.policy.destination(host, port)
        if rules is None:
            raise _no_forward(SecurityCode.FORWARDING_REJECTED, "a connection", host=host, port=port)
        return await self.inner.connect_tcp(host, port, rules.and_also(addresses))

    async def connect_unix(self, path: str) -> ByteStream:
        if not self.policy.socket_forwarding.allows(path):
            raise _no_forward(SecurityCode.FORWARDING_REJECTED, "a connection to a socket", path=path)
        return await self.inner.connect_unix(path)

    async def listen_tcp(self, host: str, port: int, incoming: Incoming) -> Listener:
        refusal = _no_forward(SecurityCode.REVERSE_FORWARDING_REJECTED, "listening", host=host, port=port)
        if not self.policy.allows_listening(host, port):
            raise refusal
        listener = await self.inner.listen_tcp(host, port, incoming)
        if self.policy.reverse_forwarding.denies_listening(host, listener.port):
            # The request was for any free port, and the chosen one is not allowed.
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
        if not (verdict := self.policy.allows_env(name)):
            raise _refused(SecurityCode.ENV_REJECTED, "Setting this environment variable", verdict, name=name)
        await self.inner.set_env(name, value)

    async def request_pty(self, request: PtyRequest) -> None:
        if not (verdict := self.policy.allows_pty()):
            raise _refused(SecurityCode.TTY_REJECTED, "Requesting a terminal", verdict)
        await self.inner.request_pty(request)

    async def request_x11(self, request: X11Request) -> None:
        if not (verdict := self.policy.allows_x11()):
            raise _refused(SecurityCode.X11_FORWARDING_REJECTED, "X11 forwarding", verdict)
        await self.inner.request_x11(request)

    async def request_agent(self) -> None:
        if not (verdict := self.policy.allows_agent()):
            raise _refused(SecurityCode.AGENT_FORWARDING_REJECTED, "Forwarding an ssh-agent", verdict)
        await self.inner.request_agent()

    async def run_shell(self) -> None:
        if not (verdict := self.policy.allows_shell()):
            raise _refused(SecurityCode.SHELL_REJECTED, "Starting a shell", verdict)
        if self.policy.force_command:
            self._check_sftp(SecurityCode.SHELL_REJECTED)
            await self._force(None)
        else:
            await self.inner.run_shell()

    async def run_command(self, command: str) -> None:
        if not (verdict := self.policy.allows_command(command)):
            raise _refused(SecurityCode.EXEC_REJECTED, "Executing this command", verdict, command=command)
        if self.policy.force_command:
            self._check_sftp(SecurityCode.EXEC_REJECTED)
            await self._force(command)
        else:
            await self.inner.run_command(command)

    async def run_subsystem(self, name: str) -> None:
        if not (verdict := self.policy.allows_subsystem(name)):
            raise _refused(SecurityCode.SUBSYSTEM_REJECTED, "Using this subsystem", verdict, name=name)
        if self.policy.force_command:
            await self._force(self.inner.subsystem_command(name))
        else:
            await self.inner.run_subsystem(name)

    async def send_signal(self, name: str) -> None:
        if not (verdict := self.policy.allows_signal(name)):
            raise _refused(SecurityCode.SIGNAL_REJECTED, "Sending this signal", verdict, signal=name)
        await self.inner.send_signal(name)

    def _check_sftp(self, code: Code) -> None:
        # A client that asks for a shell or a command does not speak SFTP, and would wait forever; sshd refuses it too.
        if self.policy.force_command == FORCED_SFTP:
            rule = "security.forceCommand" if self.policy.config.force_command else _CREDENTIAL
            text = "only SFTP is allowed"
            raise Rejected(code, text, user_message="This service allows SFTP connections only.", rule=rule)

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


def _refused(code: Code, what: str, verdict: Verdict, **labels: LabelValue) -> Rejected:
    text = f"{what} is not allowed"
    return Rejected(code, text, user_message=f"{text}.", rule=verdict.by, **labels)


def _no_forward(code: Code, what: str, **labels: LabelValue) -> Rejected:
    # The client's text has any length, but must fit into one line of the log.
    shortened = {name: value[:256] if isinstance(value, str) else value for name, value in labels.items()}
    return Rejected(code, f"{what} is not allowed", user_message="Forwarding is rejected", **shortened)
