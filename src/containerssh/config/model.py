"""The base of all section models, and the types they share (``config.md`` section 1)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from enum import StrEnum
from functools import cache
from types import UnionType
from typing import Annotated, Any, ClassVar, Literal, Self, Union, cast, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    GetJsonSchemaHandler,
    PlainSerializer,
    SecretStr,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError


@dataclass(frozen=True, slots=True)
class Problem:
    """Something in a configuration that cannot be used, and where: a dotted path of keys, empty for the whole."""

    path: str
    message: str

    def under(self, prefix: str) -> Problem:
        """The same, seen from the section around it."""
        return Problem(f"{prefix}.{self.path}" if self.path else prefix, self.message)

    def __str__(self) -> str:
        """Upstream's wording (``config.md`` section 12)."""
        return f"invalid configuration option: {self.path} ({self.message})"


@dataclass(frozen=True, slots=True)
class Spelling:
    """How a document's format lets keys and values be written; passed as pydantic's validation context."""

    any_case: bool = False
    """Keys are matched whatever their case, as upstream's JSON decoder does."""

    numbers_as_text: bool = False
    """A number or a boolean where a text belongs means its text, as upstream's YAML decoder has it."""


class ConfigModel(BaseModel):
    """A section: camelCase keys unless a field names its alias, unknown keys refused, immutable.

    The docstring under a field is its entry in the manual (:mod:`containerssh.config.descriptions`).
    """

    model_config = ConfigDict(
        alias_generator=to_camel,
        # Most sections are only ever built as a part of the whole.
        defer_build=True,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        populate_by_name=False,
        validate_default=False,
    )

    other_spellings: ClassVar[Mapping[str, str]] = {}
    """Keys that are also understood, each with the key it stands for."""

    @classmethod
    def default(cls) -> Self:
        """The section with nothing set. Nothing is validated, so that the model need not be built for it."""
        return cast(Self, cls.model_construct())

    @model_validator(mode="before")
    @classmethod
    def _settle_keys(cls, data: Any, info: ValidationInfo) -> Any:
        """Other spellings become the proper key; ``null`` leaves the default, as upstream has it."""
        if not isinstance(data, Mapping):
            return data
        spelling = info.context if isinstance(info.context, Spelling) else Spelling()
        settled = {key: value for key, value in cls.settle_keys(data, spelling).items() if value is not None}
        # So does an empty text where the default is another: upstream fills it in (config.md section 3).
        for key in _never_empty(cls):
            if settled.get(key) == "":
                del settled[key]
        if spelling.numbers_as_text:
            fields = fields_by_key(cls)
            for key, value in settled.items():
                if key in fields:
                    settled[key] = _numbers_as_text(fields[key], value)
        return settled

    @classmethod
    def settle_keys(cls, data: Mapping[str, Any], spelling: Spelling) -> dict[str, Any]:
        """
        *data* under the proper keys; what is unknown stays as it is.

        Raises:
            ValueError: a key is given twice, in different spellings.
        """
        known, folded = fields_by_key(cls), _folded_keys(cls) if spelling.any_case else {}
        settled: dict[str, Any] = {}
        for key, value in data.items():
            name = str(key)
            proper = cls.other_spellings.get(name, name)
            if proper not in known:
                proper = folded.get(name.lower(), proper)
            if proper in settled and value is not None and settled[proper] is not None:
                raise ValueError(f"{proper} is given twice, once as {name}")
            if value is not None or proper not in settled:
                settled[proper] = value
        return settled

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_another_type(cls, value: Any, info: ValidationInfo) -> Any:
        """Neither is ``1`` true nor ``true`` 1, as for upstream; pydantic takes either for the other."""
        kind = _strict_fields(cls).get(info.field_name or "")
        if kind is bool and not isinstance(value, bool):
            if isinstance(value, str) and value.lower() in _TRUTHS:
                return _TRUTHS[value.lower()]
            raise PydanticCustomError("bool_type", "must be true or false")
        if kind is int and isinstance(value, bool | str):
            raise PydanticCustomError("int_type", "must be a whole number")
        if kind is float and isinstance(value, bool | str):
            raise PydanticCustomError("float_type", "must be a number")
        return value

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler, /) -> JsonSchemaValue:
        from containerssh.config.descriptions import descriptions

        reference = handler(core_schema)
        properties = handler.resolve_ref_schema(reference).get("properties", {})
        for key, text in descriptions(cls).items():
            if key in properties:
                properties[key]["description"] = text
        for other, proper in cls.other_spellings.items():
            properties[other] = {**properties[proper], "deprecated": True}
        return reference

    def problems(self) -> Iterator[Problem]:
        """What keeps a server from using this section although each value by itself is well formed.

        Looks at files where the section names some. Sections that are switched off have no problems.
        """
        return iter(())


@cache
def fields_by_key(model: type[ConfigModel]) -> Mapping[str, Any]:
    """The keys of a section, each with the type of its value."""
    return {field.alias or name: field.annotation for name, field in model.model_fields.items()}


@cache
def _never_empty(model: type[ConfigModel]) -> frozenset[str]:
    """The keys whose default is a text."""
    fields = model.model_fields.items()
    return frozenset(field.alias or name for name, field in fields if field.default and isinstance(field.default, str))


_TRUTHS = {"true": True, "yes": True, "on": True, "y": True, "false": False, "no": False, "off": False, "n": False}
"""YAML 1.1's words, which upstream's decoder understands where true or false is expected."""


@cache
def _strict_fields(model: type[ConfigModel]) -> Mapping[str, Any]:
    """The fields that hold just a boolean or a number, unless they read it themselves."""
    return {
        name: field.annotation
        for name, field in model.model_fields.items()
        if field.annotation in (bool, int, float)
        and not any(isinstance(item, BeforeValidator) for item in field.metadata)
    }


def default_for_zero(cls: type[BaseModel], value: Any, info: ValidationInfo) -> Any:
    """A field validator: zero stands for the default, as upstream fills it in (``config.md`` section 3)."""
    return value or cls.model_fields[info.field_name or ""].default


@cache
def _folded_keys(model: type[ConfigModel]) -> Mapping[str, str]:
    others = {other.lower(): proper for other, proper in model.other_spellings.items()}
    return others | {key.lower(): key for key in fields_by_key(model)}


def section_model(annotation: Any) -> type[ConfigModel] | None:
    """The model of a key's value, if it is a section of its own."""
    for candidate in alternatives(annotation):
        if isinstance(candidate, type) and issubclass(candidate, ConfigModel):
            return candidate
    return None


def alternatives(annotation: Any) -> tuple[Any, ...]:
    """The types that a value may have."""
    if get_origin(annotation) is Annotated:
        return alternatives(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return tuple(kind for choice in get_args(annotation) for kind in alternatives(choice))
    return (annotation,)


def _numbers_as_text(annotation: Any, value: Any) -> Any:
    if isinstance(value, str):
        return value
    for kind in alternatives(annotation):
        origin, arguments = get_origin(kind), get_args(kind)
        if isinstance(value, int | float):
            if _is_text(kind):
                return str(value).lower() if isinstance(value, bool) else str(value)
        elif isinstance(value, list) and origin in (tuple, list, frozenset, set):
            return [_numbers_as_text(arguments[0], item) for item in value]
        elif isinstance(value, Mapping) and origin in (dict, Mapping):
            return {key: _numbers_as_text(arguments[1], item) for key, item in value.items()}
    return value


def _is_text(kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return all(isinstance(choice, str) for choice in get_args(kind))
    return isinstance(kind, type) and issubclass(kind, str | StrEnum | SecretStr)


MASK = "********"
"""What stands for a secret in a dumped configuration."""


def _not_the_mask(secret: SecretStr) -> SecretStr:
    if secret.get_secret_value() == MASK:
        raise ValueError("this is the mask of a dumped configuration, not the secret")
    return secret


Secret = Annotated[SecretStr, AfterValidator(_not_the_mask)]
"""A secret: never shown, and never the mask of a dump taken for the real thing."""


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
        raise ValueError("a duration is a string such as 30s or 1h30m, or a number of nanoseconds")
    if not nanoseconds.is_finite() or abs(nanoseconds) >= _LONGEST:
        raise ValueError("the duration is too long")
    return timedelta(microseconds=float(nanoseconds / 1000))


def _parse_parts(text: str) -> Decimal:
    sign = -1 if text.startswith("-") else 1
    body = text[1:] if text[:1] in ("+", "-") else text
    if body == "0":
        return Decimal(0)
    total, position = Decimal(0), 0
    for match in _PART.finditer(body):
        if match.start() != position:
            break
        total += Decimal(match.group(1)) * _UNITS[match.group(2)]
        position = match.end()
    if not body or position != len(body):
        raise ValueError(f"{text!r} is not a duration; write it with units, such as 30s, 5m or 1h30m")
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
    # Only in JSON: a configuration that is merged again keeps its durations to the microsecond.
    PlainSerializer(format_duration, return_type=str, when_used="json"),
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
