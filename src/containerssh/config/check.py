"""Everything that is wrong with a configuration file at once, each with its place and what may have been meant."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from containerssh.config.advice import advice, advice_about_files
from containerssh.config.app import AppConfig
from containerssh.config.document import Document, DocumentError, Place, Position, read_document
from containerssh.config.findings import Finding, closest, findings_of, placed, related, written_key
from containerssh.config.load import decode, start_findings

__all__ = ["Finding", "check"]

_ROUNDS = 10


def check(path: Path) -> list[Finding]:
    """
    Look at a configuration file as a start would, and give advice; a file without an error can be started with.

    Findings come in the order of the file.
    """
    try:
        document = read_document(path)
    except DocumentError as exc:
        return [_place(Finding("error", "", exc.message), exc.position)]
    findings = [_place(Finding("warning", "", text), position) for text, position in document.remarks]
    errors, config = _decode_what_can_be(document)
    named = [finding.path for finding in errors]
    if config is not None:
        # What is left out for its mistakes must not look like further mistakes.
        later = [*start_findings(config), *advice(config), *advice_about_files(path, config)]
        findings += [finding for finding in later if not any(related(finding.path, name) for name in named)]
    findings += errors
    placed_findings = [_find_place(document, finding) for finding in findings]
    return sorted(placed_findings, key=lambda finding: (finding.line or 0, finding.column or 0, finding.severity))


def _decode_what_can_be(document: Document) -> tuple[list[Finding], AppConfig | None]:
    """The mistakes of the file, and the configuration without them, if there is one."""
    errors: list[Finding] = []
    tree: Any = copy.deepcopy(document.tree)
    for _ in range(_ROUNDS):
        try:
            config, warnings = decode(replace(document, tree=tree))
        except ValidationError as exc:
            found = findings_of(exc, AppConfig)
            errors += [finding for finding in found if finding not in errors]
            for finding in found:
                _mend(tree, written_place(tree, finding.path), finding.choices)
            continue
        return errors + [Finding("warning", "auth.url", warning.text) for warning in warnings], config
    return errors, None


def written_place(tree: Any, path: str) -> Place:
    """The keys, as they are written in *tree*, that lead to *path*, as far as they go."""
    place: list[str] = []
    parts = path.split(".") if path else []
    while parts:
        for count in range(len(parts), 0, -1):
            step = _step(tree, ".".join(parts[:count]))
            if step is not None:
                break
        else:
            break
        written, tree = step
        place.append(written)
        parts = parts[count:]
    return tuple(place)


def _step(tree: Any, key: str) -> tuple[str, Any] | None:
    if isinstance(tree, Mapping):
        if key in tree:
            return key, tree[key]
        for written, value in tree.items():
            if written_key(written, key):
                return written, value
    elif isinstance(tree, list) and key.isdecimal() and int(key) < len(tree):
        return key, tree[int(key)]
    return None


def _mend(tree: Any, place: Sequence[str], choices: Sequence[str]) -> None:
    """
    Put the choice that was meant in the place of a mistake, so that what belongs to it is looked at as well.

    It is the one that is spelt alike, or has a section of its own beside it. Where nobody can tell, remove the mistake;
    an item of a list goes with its list, so that others keep their numbers.
    """
    parents: list[tuple[Any, str]] = []
    for key in place:
        parents.append((tree, key))
        tree = tree[int(key)] if isinstance(tree, list) else tree[key]
    for parent, key in reversed(parents):
        if isinstance(parent, dict):
            wrong = parent.pop(key, None)
            if meant := closest(str(wrong), choices) or next((choice for choice in choices if choice in parent), ""):
                parent[key] = meant
            return


def _find_place(document: Document, finding: Finding) -> Finding:
    if finding.line is not None:
        return finding
    place = written_place(document.tree, finding.path)
    return _place(finding, next(_positions(document, place), None))


def _positions(document: Document, place: Place) -> Iterator[Position]:
    """Where *place* stands; where what is around it stands."""
    for length in range(len(place), 0, -1):
        if position := document.positions.get(place[:length]):
            yield position


def _place(finding: Finding, position: Position | None) -> Finding:
    return finding if position is None else placed(finding, position.line, position.column)
