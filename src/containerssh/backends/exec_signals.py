"""Signals and breaks for programs that an engine's exec has started: only an agent in the image can send a signal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from containerssh.agent import upstream
from containerssh.core.codes import AgentCode
from containerssh.core.errors import BackendError, Rejected
from containerssh.core.messages import Code


class ImageAgent(Protocol):
    """Runs commands of the agent that a container's image brings."""

    @property
    def agent(self) -> str:
        """The agent's path."""
        ...

    async def run(self, command: tuple[str, ...]) -> tuple[int, str]:
        """
        Run a command of the agent to completion; return the exit code and standard error.

        Raises:
            BackendError, ProtocolError: the command could not be run.
        """
        ...


@dataclass(frozen=True)
class SignalCodes:
    """The codes of one backend for signals that are not sent."""

    no_agent: Code
    ended: Code
    failed: Code


async def send_signal(agent: ImageAgent, pid: int | None, name: str, *, ended: bool, codes: SignalCodes) -> None:
    """
    Send the signal *name* to the process *pid*, not to its process group, which the image's agent does not support.
    *pid* is None without an agent; *ended* tells whether the program is known to have ended.

    Raises:
        Rejected: there is no agent.
        BackendError, ProtocolError: the signal was not delivered.
    """
    if pid is None:
        text = "signals need the guest agent, which this server works without"
        raise Rejected(codes.no_agent, text, user_message=text)
    if ended:
        text = "the program has ended"
        raise BackendError(codes.ended, text, user_message=text)
    status, words = await agent.run(upstream.send_signal(agent.agent, pid, name))
    if status:
        text = f"signal {name} failed: the agent ended with status {status}: {words}"
        raise BackendError(codes.failed, text, user_message=f"The signal {name} was not delivered.")


def no_break() -> Rejected:
    """The error for a break (RFC 4335): neither engines nor the image's agent have breaks."""
    text = "a break needs the guest agent, which this server works without"
    return Rejected(AgentCode.REQUEST_FAILED, text, user_message=text)
