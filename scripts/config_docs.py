"""Writes the manual's page for each section of the configuration, from the models: ``config_docs.py [FOLDER]``."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from datetime import timedelta
from enum import Enum, IntEnum
from inspect import cleandoc, get_annotations
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from containerssh.config.app import AppConfig
from containerssh.config.descriptions import descriptions
from containerssh.config.log import LogLevel
from containerssh.config.model import ConfigModel, alternatives, format_duration, section_model

FOLDER = Path(__file__).parent.parent / "docs" / "reference" / "config"


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        target = folder / f"{name}.md"
        if not target.exists() or target.read_text() != text:
            target.write_text(text)


def pages() -> Mapping[str, str]:
    """The pages' names and texts; ``index`` holds what is no section and the list of the others."""
    texts: dict[str, str] = {}
    loose = []
    for field in AppConfig.model_fields.values():
        name = str(field.alias)
        if model := section_model(field.annotation):
            texts[name] = "\n".join(_section(name, model))
        else:
            loose.append(_row(name, field, descriptions(AppConfig).get(name, "")))
    return {"index": "\n".join(_index(loose, texts)), **texts}


def _index(loose: list[str], texts: Mapping[str, str]) -> Iterator[str]:
    yield "# Configuration\n"
    yield "One page for each section of the configuration file. Keys that are no section:\n"
    yield from _table(loose)
    yield "```{toctree}\n:maxdepth: 1\n"
    yield from texts
    yield "```\n"


def _section(name: str, model: type[ConfigModel]) -> Iterator[str]:
    yield f"# `{name}`\n"
    yield from _block(name, model, {}, "")


def _block(
    path: str, model: type[ConfigModel], described: dict[type[ConfigModel], str], description: str
) -> Iterator[str]:
    """The keys of a section, then the sections in it; one that was described before is only pointed at."""
    yield f"{_inline(description) or _own_words(model)}\n"
    if model in described:
        yield f"The keys are those of `{described[model]}`.\n"
        return
    described[model] = path
    texts = descriptions(model)
    rows = [
        _row(key, inner, texts.get(key, "")) for key, inner in _fields(model) if section_model(inner.annotation) is None
    ]
    yield from _table(rows)
    for other, proper in model.other_spellings.items():
        yield f"`{other}` is understood as `{proper}`.\n"
    for key, inner in _fields(model):
        if below := section_model(inner.annotation):
            yield f"{'#' * min(2 + path.count('.'), 5)} `{path}.{key}`\n"
            yield from _block(f"{path}.{key}", below, described, texts.get(key, ""))


def _fields(model: type[ConfigModel]) -> Iterator[tuple[str, FieldInfo]]:
    """A section's own keys before those that it has in common with others."""
    declared = [name for kind in model.__mro__ for name in get_annotations(kind)]
    for name in dict.fromkeys(declared):
        if field := model.model_fields.get(name):
            yield field.alias or name, field


def _own_words(model: type[ConfigModel]) -> str:
    return _inline(cleandoc(model.__doc__ or ""))


def _table(rows: list[str]) -> Iterator[str]:
    if rows:
        yield "| Key | Type | Default | |\n|---|---|---|---|\n" + "\n".join(rows) + "\n"


def _row(key: str, field: FieldInfo, description: str) -> str:
    text = _inline(description).replace("|", "\\|")
    return f"| `{key}` | {_kind(field.annotation)} | {_default(field)} | {text} |"


def _inline(text: str) -> str:
    return " ".join(text.replace("``", "`").split())


_PLAIN = {
    str: "text",
    SecretStr: "secret text",
    bool: "boolean",
    int: "whole number",
    float: "number",
    timedelta: "duration",
    LogLevel: "level",
}


def _kind(annotation: Any) -> str:
    names = []
    for kind in alternatives(annotation):
        origin, arguments = get_origin(kind), get_args(kind)
        if kind in _PLAIN:
            names.append(_PLAIN[kind])
        elif origin is Literal:
            names.append("text")
        elif origin in (tuple, list, frozenset):
            names.append(f"list of {_kind(arguments[0])}")
        elif origin is dict:
            names.append("map" if arguments[1] is Any else f"map to {_kind(arguments[1])}")
        elif isinstance(kind, type) and issubclass(kind, Enum):
            names.append("whole number" if issubclass(kind, IntEnum) else "text")
    return " or ".join(dict.fromkeys(names))


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    return "must be set" if value is PydanticUndefined else _shown(value).replace("|", "\\|")


def _shown(value: Any) -> str:
    match value:
        case None:
            return "not set"
        case SecretStr():
            return "empty"
        case LogLevel():
            return f"`{value.label}`"
        case Enum():
            return f"`{value.value}`"
        case timedelta():
            return f"`{format_duration(value)}`"
        case bool():
            return f"`{str(value).lower()}`"
        case Mapping():
            return ", ".join(f"`{key}: {item}`" for key, item in value.items()) or "empty"
        case list() | tuple():
            return ", ".join(f"`{item}`" for item in value) or "empty"
    return f"`{value}`" if value != "" else "empty"


if __name__ == "__main__":
    main()
