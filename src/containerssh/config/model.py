"""The base of all section models, and the types they share (``config.md`` section 1)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Annotated, Any, ClassVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PlainSerializer,
    WithJsonSchema,
    model_validator,
)
from pydantic.alias_generators import to_camel


class ConfigModel(BaseModel):
    """A section: camelCase keys unless a field names its alias, unknown keys refused, immutable.

    The docstring under a field is its entry in the manual.
    """

    model_config = ConfigDict(
        alias_generator=to_camel,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        populate_by_name=False,
        use_attribute_docstrings=True,
        validate_default=False,
    )

    other_spellings: ClassVar[Mapping[str, str]] = {}
    """Keys that are also understood, each with the key it stands for."""

    @model_validator(mode="before")
    @classmethod
    def _settle_keys(cls, data: Any) -> Any:
        """Other spellings become the proper key; ``null`` leaves the default, as upstream does."""
        if not isinstance(data, Mapping):
            return data
        settled: dict[str, Any] = {}
        for key, value in data.items():
            proper = cls.other_spellings.get(key, key)
            if value is None:
                continue
            if proper in settled:
                raise ValueError(f"{proper} is given twice, once as {key}")
            settled[proper] = value
        return settled


_UNITS = {
    "ns": Decimal(1),
    "us": Decimal(1_000),
    "µs": Decimal(1_000),
    "μs": Decimal(1_000),
    "ms": Decimal(1_000_000),
    "s": Decimal(1_000_000_000),
    "m": Decimal(60_000_000_000),
    "h": Decimal(3_600_000_000_000),
}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_LONGEST = Decimal(2**63)


def parse_duration(value: object) -> timedelta:
    """
    A duration in Go's syntax (``1h30m``, ``1.5s``), or a number of nanoseconds.

    Raises:
        ValueError: neither; or more than the 292 years that upstream can hold.
    """
    if isinstance(value, timedelta):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        nanoseconds = Decimal(value)
    elif isinstance(value, str):
        nanoseconds = _parse_parts(value.strip())
    else:
        raise ValueError("a duration is text such as 30s or 1h30m, or a number of nanoseconds")
    if not nanoseconds.is_finite() or abs(nanoseconds) >= _LONGEST:
        raise ValueError("the duration is too long")
    return timedelta(microseconds=float(nanoseconds / 1000))


def _parse_parts(text: str) -> Decimal:
    sign = -1 if text.startswith("-") else 1
    body = text.lstrip("+-") if text[:1] in ("+", "-") else text
    if body == "0":
        return Decimal(0)
    total, position = Decimal(0), 0
    for match in _PART.finditer(body):
        if match.start() != position:
            break
        total += Decimal(match.group(1)) * _UNITS[match.group(2)]
        position = match.end()
    if not body or position != len(body):
        raise ValueError(f"{text!r} is no duration; write it with units, such as 30s, 5m or 1h30m")
    return sign * total


def format_duration(value: timedelta) -> str:
    """The duration in Go's way of writing: ``1m0s``, ``1h0m0s``, ``250ms``, ``0s``."""
    microseconds = round(value / timedelta(microseconds=1))
    sign, left = ("-", -microseconds) if microseconds < 0 else ("", microseconds)
    if left == 0:
        return "0s"
    if left < 1_000:
        return f"{sign}{left}µs"
    if left < 1_000_000:
        return f"{sign}{_plain(Decimal(left) / 1_000)}ms"
    minutes, rest = divmod(left, 60_000_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{_plain(Decimal(rest) / 1_000_000)}s"
    if hours or minutes:
        text = f"{minutes}m{text}"
    if hours:
        text = f"{hours}h{text}"
    return sign + text


def _plain(number: Decimal) -> str:
    return f"{number.normalize():f}"


Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema(
        {
            "anyOf": [{"type": "string"}, {"type": "number"}],
            "description": "A duration such as 30s or 1h30m, or a number of nanoseconds.",
        }
    ),
]


def seconds(count: float) -> timedelta:
    """A duration for a default."""
    return timedelta(seconds=count)
