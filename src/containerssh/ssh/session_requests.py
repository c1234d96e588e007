"""The requests of a session, and when each is allowed (RFC 4254 section 6)."""

from __future__ import annotations

from collections.abc import Callable

from asyncssh.packet import String, UInt32

from containerssh.core.codes import SSHCode
from containerssh.core.errors import Rejected
from containerssh.core.handlers import SessionHandler
from containerssh.core.requests import SIGNALS
from containerssh.ssh import requests
from containerssh.ssh.options import Limits


class SessionRequests:
    """Translates the requests of one session into calls of its handler."""

    __slots__ = ("_env_bytes", "_env_count", "_env_refused", "_limit_reached", "_limits", "asked", "pty")

    def __init__(self, limits: Limits, limit_reached: Callable[[SSHCode, str], None]) -> None:
        self._limits = limits
        self._limit_reached = limit_reached
        self._env_count = 0
        self._env_bytes = 0
        self._env_refused = False
        self.asked: set[str] = set()
        """The kinds of channels towards the client that the handler may open: ``x11``, ``agent``."""
        self.pty = False
        """Whether a terminal was allocated."""

    async def perform(self, handler: SessionHandler, name: bytes, payload: bytes, *, started: bool) -> None:
        """
        Perform a request; *started* says whether a program was started before.

        Raises:
            Rejected, ProtocolError: the request is not allowed, or not at this time.
            BackendError: the request failed.
        """
        match name:
            case b"shell" | b"exec" | b"subsystem" | b"env" | b"pty-req" if started:
                raise _refused(name, "a program was already started on this channel")
            case b"x11-req":
                x11 = requests.parse_x11(payload)
                self.asked.add("x11")
                await handler.request_x11(x11)
            case b"auth-agent-req@openssh.com":
                requests.parse_nothing(payload)
                self.asked.add("agent")
                await handler.request_agent()
            case b"signal" | b"break" if not started:
                raise _refused(name, "no program was started on this channel")
            case b"env":
                env = requests.parse_env(payload)
                self._env_count += 1
                self._env_bytes += len(payload)
                if self._env_count > self._limits.env_count or self._env_bytes > self._limits.env_bytes:
                    # Log once per session.
                    if not self._env_refused:
                        self._env_refused = True
                        self._limit_reached(SSHCode.LIMIT_ENV, "The client sets too many variables, or too large ones")
                    raise _refused(name, "too many environment variables")
                await handler.set_env(env.name, env.value)
            case b"pty-req":
                await handler.request_pty(requests.parse_pty(payload))
                self.pty = True
            case b"shell":
                requests.parse_nothing(payload)
                await handler.run_shell()
            case b"exec":
                await handler.run_command(requests.parse_text(payload))
            case b"subsystem":
                await handler.run_subsystem(requests.parse_text(payload))
            case b"window-change":
                await handler.resize(requests.parse_size(payload))
            case b"signal":
                signal = requests.parse_text(payload)
                if signal not in SIGNALS:
                    raise _refused(name, "the signal is unknown")
                await handler.send_signal(signal)
            case b"break":
                length = requests.parse_break(payload)
                if not self.pty:
                    raise _refused(name, "there is no terminal to send a break to")
                await handler.send_break(length)
            case _:
                raise _refused(name, "the request is not supported")


def exit_status_fields(status: int) -> tuple[bytes, bytes]:
    """The name and the payload of an ``exit-status`` request (section 6.10)."""
    return b"exit-status", UInt32(status & 0xFFFFFFFF)


def exit_signal_fields(name: str, core: bool, message: str) -> tuple[bytes, bytes]:
    """The same for ``exit-signal``."""
    return b"exit-signal", String(name) + (b"\1" if core else b"\0") + String(message) + String("")


def _refused(name: bytes, why: str) -> Rejected:
    return Rejected(SSHCode.CHANNEL_REQUEST_FAILED, why, user_message=f"The request was refused: {why}.")
