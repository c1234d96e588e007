"""The section ``auth.remember``: how long a key may stand in for a keyboard-interactive login."""

from __future__ import annotations

from collections.abc import Iterator

from containerssh.config.model import ConfigModel, Duration, Problem, seconds


class RememberConfig(ConfigModel):
    """A key that a user has proven replaces the questions at the next logins."""

    period: Duration = seconds(0)
    """How long after the questions were answered; 0: never. A shorter period also applies to keys that are already
    remembered."""

    bind_address: bool = False
    """Only for logins from the address that the questions were answered from."""

    def problems(self) -> Iterator[Problem]:
        if self.period and self.period < seconds(1):
            yield Problem("period", "must be at least 1s, or 0 for never")
