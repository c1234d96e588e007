"""The section ``auth.keyboardInteractive.codes``: how strictly one-time codes are judged; an addition to 0.6."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from containerssh.config.model import ConfigModel, Duration, seconds


class CodesConfig(ConfigModel):
    """One-time codes by the users file."""

    drift: Annotated[int, Field(ge=0, le=10)] = 1
    """How many periods (30 seconds, where the user's secret says nothing else) a clock may be ahead or behind. Each one
    makes two more codes right at any moment."""

    max_wrong: Annotated[int, Field(ge=1, le=1000)] = 10
    """After so many wrong codes no code counts for that secret until `wrongWithin` is over, counted from the first."""

    wrong_within: Annotated[Duration, Field(ge=seconds(60), le=seconds(7 * 86400))] = seconds(3600)
    """The time in which wrong codes are counted; a right one forgives them."""
