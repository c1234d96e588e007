"""What is wrong with a configuration, in words for its administrator."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache
from typing import Any, Literal

from pydantic import ValidationError

from containerssh.config.model import ConfigModel, Problem, fields_by_key, section_model
from containerssh.core.errors import ConfigError
from containerssh.core.messages import Code

Severity = Literal["error", "warning", "info"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about a configuration, and where it stands."""

    severity: Severity
    path: str
    """The keys that lead there, joined by dots; empty for the file as a whole."""

    message: str
    line: int | None = None
    column: int | None = None
    suggestion: str = ""
    """What may have been meant."""

    choices: tuple[str, ...] = ()
    """The values that may stand there, where they are few."""

    def __str__(self) -> str:
        """Upstream's wording (``config.md`` section 12)."""
        message = f"{self.message}; {self.suggestion}" if self.suggestion else self.message
        return str(Problem(self.path, message)) if self.path else message

    @classmethod
    def of(cls, problem: Problem) -> Finding:
        """An error made of a problem."""
        return cls("error", problem.path, problem.message)


class ConfigErrors(ConfigError):
    """A configuration with everything that is wrong with it."""

    _SHOWN = 10

    def __init__(self, code: Code, explanation: str, findings: Sequence[Finding]) -> None:
        shown = [str(finding) for finding in findings[: self._SHOWN]]
        if len(findings) > self._SHOWN:
            shown.append(f"and {len(findings) - self._SHOWN} more")
        super().__init__(code, f"{explanation}: {'; '.join(shown)}")
        self.findings = tuple(findings)


_SUCCESSORS: Mapping[str, str] = {
    "listen": "it is called ssh.listen now",
    "dockerrun": "this backend was removed; its successor is the docker section, with backend: docker",
    "kuberun": "this backend was removed; its successor is the kubernetes section, with backend: kubernetes",
    "auth.oauth2": "it belongs to auth.keyboardInteractive.oauth2",
    "docker.launch": "it is called docker.execution now",
    "docker.config": "it is called docker.execution now",
}


def findings_of(error: ValidationError, model: type[ConfigModel], prefix: str = "") -> list[Finding]:
    """What *error* says about a section of the kind *model*, which stands at *prefix*."""
    return [_finding(dict(detail), model, prefix) for detail in error.errors(include_url=False)]


def _finding(detail: Mapping[str, Any], model: type[ConfigModel], prefix: str) -> Finding:
    place = [str(part) for part in detail["loc"]]
    path = ".".join([*([prefix] if prefix else []), *place])
    if detail["type"] == "extra_forbidden":
        return unknown_key(path, place[-1], _section_at(model, place[:-1]) or model)
    if detail["type"] not in ("literal_error", "enum"):
        return Finding("error", path, _describe(detail))
    choices = tuple(filter(None, re.findall(r"'([^']*)'", detail["ctx"]["expected"])))
    meant = closest(str(detail["input"]), choices)
    suggestion = f"did you mean {meant}?" if meant else ""
    return Finding("error", path, _describe(detail), suggestion=suggestion, choices=choices)


def closest(written: str, known: Iterable[str]) -> str:
    """Which of the *known* words may have been meant; empty if none is like it."""
    words = {word.lower(): word for word in known}
    close = get_close_matches(written.lower(), words, 1, 0.7)
    return words[close[0]] if close else ""


def unknown_key(path: str, key: str, section: type[ConfigModel]) -> Finding:
    """There is no such *key* in this kind of section."""
    return Finding("error", path, "unknown key", suggestion=_suggestion(path, key, section))


def _suggestion(path: str, key: str, section: type[ConfigModel]) -> str:
    if successor := _SUCCESSORS.get(path):
        return successor
    if meant := closest(key, (*section.other_spellings, *fields_by_key(section))):
        return f"did you mean {meant}?"
    elsewhere = _places().get(key.lower(), [])
    return f"there is such a key at {' and at '.join(elsewhere)}" if 0 < len(elsewhere) <= 2 else ""


@cache
def _places() -> Mapping[str, list[str]]:
    """All keys in lower case, and where they belong."""
    from containerssh.config.app import AppConfig

    places: dict[str, list[str]] = {}
    for path in all_paths(AppConfig):
        places.setdefault(path.rpartition(".")[2].lower(), []).append(path)
    return places


def all_paths(model: type[ConfigModel], prefix: str = "") -> Iterator[str]:
    """Every key of a section and of those in it."""
    for key, annotation in fields_by_key(model).items():
        yield f"{prefix}{key}"
        if inner := section_model(annotation):
            yield from all_paths(inner, f"{prefix}{key}.")


def _section_at(model: type[ConfigModel], place: Iterable[str]) -> type[ConfigModel] | None:
    current: type[ConfigModel] | None = model
    for part in place:
        if current is None:
            return None
        current = section_model(fields_by_key(current).get(part))
    return current


_MUST_BE = {
    "string": "must be a string",
    "int": "must be a whole number",
    "float": "must be a number",
    "bool": "must be true or false",
    "tuple": "must be a list",
    "list": "must be a list",
    "frozen": "must be a list",
    "set": "must be a list",
    "dict": "must be a map of keys",
    "model": "must be a map of keys",
    "mapping": "must be a map of keys",
}


def _describe(detail: Mapping[str, Any]) -> str:
    kind, context = str(detail["type"]), detail.get("ctx") or {}
    if kind == "value_error":
        return str(context.get("error") or detail["msg"]).removeprefix("Value error, ")
    if kind == "missing":
        return "must be set"
    if kind in ("literal_error", "enum"):
        # An empty value stands for "not set", which nobody needs to write.
        expected = context["expected"].removeprefix("'', ")
        return f"{_shown(detail['input'])} is not one of {expected}"
    if kind == "string_too_short":
        return "must not be empty"
    if kind == "greater_than_equal":
        return f"must be at least {context['ge']}"
    if kind == "less_than_equal":
        return f"must be at most {context['le']}"
    if kind.endswith(("_type", "_parsing", "_from_float", "_parsing_size")):
        wanted = _MUST_BE.get(kind.partition("_")[0])
        if wanted:
            return f"{wanted}, not {_sort(detail['input'])}"
    return str(detail["msg"])


def _shown(value: object) -> str:
    if isinstance(value, str | int | float):
        text = str(value)
        return repr(text if len(text) <= 60 else text[:57] + "...")
    return _sort(value)


def _sort(value: object) -> str:
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, Mapping):
        return "a map"
    if isinstance(value, list | tuple):
        return "a list"
    return "a number" if isinstance(value, int | float) else "this text"


def placed(finding: Finding, line: int, column: int) -> Finding:
    """The same with its place in the file."""
    return replace(finding, line=line, column=column)


def related(path: str, other: str) -> bool:
    """Whether one of the two is the other, or around it."""
    if not path or not other:
        return path == other
    return path == other or path.startswith(f"{other}.") or other.startswith(f"{path}.")


def written_key(written: str, key: str) -> bool:
    """Whether *written* may be another spelling of *key*."""
    return written.lower() == key.lower() or _other_spellings().get(written.lower()) == key.lower()


@cache
def _other_spellings() -> Mapping[str, str]:
    from containerssh.config.app import AppConfig

    return {
        other.lower(): key.lower() for model in all_sections(AppConfig) for other, key in model.other_spellings.items()
    }


def all_sections(model: type[ConfigModel]) -> Iterator[type[ConfigModel]]:
    """The section's model, and those of the sections in it."""
    yield model
    for annotation in fields_by_key(model).values():
        if inner := section_model(annotation):
            yield from all_sections(inner)
