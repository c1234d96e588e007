"""The message codes that differ between backends although what they are about does not."""

from __future__ import annotations

from dataclasses import dataclass

from containerssh.core.codes import SSHCode
from containerssh.core.messages import Code


@dataclass(frozen=True)
class SessionCodes:
    """The codes of one backend; by default those of any request that fails."""

    already_running: Code = SSHCode.CHANNEL_REQUEST_FAILED
    not_running: Code = SSHCode.CHANNEL_REQUEST_FAILED
    no_subsystem: Code = SSHCode.CHANNEL_REQUEST_FAILED
    signal_failed: Code = SSHCode.CHANNEL_REQUEST_FAILED
    started: Code | None = None
    """The code of a message that is logged for each started program."""
