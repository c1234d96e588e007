"""The section ``auth.remember``: how long a key may stand in for a keyboard-interactive login."""

from __future__ import annotations

from collections.abc import Iterator

from containerssh.config.model import ConfigModel, Duration, Problem, seconds


class RememberConfig(ConfigModel):
    """The key that a user has proved stands in for the questions of the next logins."""

    period: Duration = seconds(0)
    """For how long after the questions were answered; 0: never. When this gets shorter, it holds for what is remembered
    already."""

    bind_address: bool = False
    """Only from the address that the questions were answered from."""

    def problems(self) -> Iterator[Problem]:
        if self.period and self.period < seconds(1):
            yield Problem("period", "must be at least 1s, or 0 for never")
