"""Reading a configuration file: YAML 1.2 or JSON, as upstream decodes them (``config.md`` sections 1.1 and 1.2).

YAML is built from its node graph here rather than by the library's constructors: so every key knows its line, numbers
keep the text they were written with, no tag can name a type, and aliases cannot multiply without end.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from containerssh.config.model import Spelling
from containerssh.core.errors import reason_of

LARGEST = 4 << 20
"""Bytes that a configuration file may have."""

MOST_VALUES = 200_000
"""Values that a file may stand for once its aliases are followed."""

DEEPEST = 64
"""Maps and lists inside one another."""

Place = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Position:
    """Where something stands in a file; both count from 1."""

    line: int
    column: int


class DocumentError(ValueError):
    """The file is not YAML or JSON that a configuration could be read from."""

    def __init__(self, message: str, position: Position | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.position = position


@dataclass(frozen=True)
class Document:
    """What a file holds, before anybody looked at its meaning."""

    tree: Mapping[str, Any]
    spelling: Spelling
    positions: Mapping[Place, Position] = field(default_factory=dict)
    """Where each key stands, by the keys (and list indices) that lead to it, as they are written."""

    remarks: tuple[tuple[str, Position | None], ...] = ()
    """What is not wrong but surely not meant."""


class _Whole(int):
    """An integer that keeps its text: an image tag ``1_0`` is not ``10``."""

    text: str

    def __str__(self) -> str:
        return self.text


class _Fraction(float):
    """A number that keeps its text: the version ``1.20`` is not ``1.2``."""

    text: str

    def __str__(self) -> str:
        return self.text


def read_document(path: Path) -> Document:
    """
    Read a file: JSON if its name ends in ``.json``, else YAML.

    Raises:
        DocumentError: it cannot be read, or is neither.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except (OSError, ValueError) as exc:
        raise DocumentError(f"cannot read the file: {reason_of(exc)}") from exc
    if len(content) > LARGEST:
        raise DocumentError(f"the file has more than {LARGEST >> 20} MiB")
    return parse_json(content) if path.name.endswith(".json") else parse_yaml(content)


def parse_json(content: bytes) -> Document:
    """
    A JSON document. Of a key given twice the last counts, and what follows the first value is ignored, as upstream.

    Raises:
        DocumentError: it is none, or no object.
    """
    twice: list[str] = []

    def build(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        built = dict(pairs)
        if len(built) < len(pairs):
            names = [key for key, _ in pairs]
            twice.extend(sorted({name for name in names if names.count(name) > 1}))
        return built

    decoder = json.JSONDecoder(object_pairs_hook=build, parse_constant=_no_constant)
    try:
        text = content.decode("utf-8-sig").lstrip(" \t\r\n")
        tree, end = decoder.raw_decode(text)
    except json.JSONDecodeError as exc:
        raise DocumentError(f"not valid JSON: {exc.msg}", Position(exc.lineno, exc.colno)) from exc
    except RecursionError as exc:
        raise DocumentError("not valid JSON: it is nested too deeply") from exc
    except ValueError as exc:
        raise DocumentError(f"not valid JSON: {exc}") from exc
    _check_depth(tree)
    if not isinstance(tree, dict):
        raise DocumentError("a configuration is a JSON object")
    remarks = [(f"the key {name!r} is given twice; the last one counts", None) for name in twice]
    if text[end:].strip():
        remarks.append(("what follows the first JSON value is ignored", None))
    # JSON is YAML but for trifles, so that the YAML reader can tell where its keys stand.
    positions: Mapping[Place, Position] = {}
    with suppress(DocumentError):
        positions = parse_yaml(text[:end].encode(), duplicates=True).positions
    return Document(tree, Spelling(any_case=True), positions, tuple(remarks))


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")


def _check_depth(tree: object) -> None:
    level = [tree]
    for _ in range(DEEPEST):
        deeper: list[object] = []
        for value in level:
            if isinstance(value, dict):
                deeper.extend(value.values())
            elif isinstance(value, list):
                deeper.extend(value)
        if not deeper:
            return
        level = deeper
    raise DocumentError("maps and lists are nested too deeply")


def parse_yaml(content: bytes, *, duplicates: bool = False) -> Document:
    """
    The first YAML document; further ones are ignored, as upstream does.

    Raises:
        DocumentError: it is none, or no map; a key is given twice (unless *duplicates* are fine).
    """
    remarks: tuple[tuple[str, Position | None], ...] = ()
    try:
        # The composer is what knows positions; "pure", as the C library has YAML 1.1 only.
        constructor, _ = YAML(typ="safe", pure=True).get_constructor_parser(content)
        composer = constructor.composer
        composer.warn_double_anchors = False  # YAML 1.2 section 3.2.2.2: the latest one counts
        root = composer.get_node() if composer.check_node() else None
        with suppress(YAMLError):
            if root is not None and composer.check_node():
                remarks = (("only the first YAML document of the file is read", None),)
    except MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        what = ", ".join(part for part in (exc.context, exc.problem) if part)
        raise DocumentError(f"not valid YAML: {what}", _position(mark)) from exc
    except RecursionError as exc:
        raise DocumentError("not valid YAML: it is nested too deeply") from exc
    except (YAMLError, ValueError, LookupError, AttributeError, TypeError, AssertionError, OverflowError) as exc:
        # The library meets some malformed input with errors of its own internals.
        raise DocumentError(f"not valid YAML: {' '.join(str(exc).split()) or type(exc).__name__}") from exc
    if root is None:
        raise DocumentError("the file is empty")
    if not isinstance(root, MappingNode):
        raise DocumentError("a configuration is a map of keys", _position(root.start_mark))
    builder = _Builder(duplicates)
    try:
        tree = builder.build(root, ())
    except RecursionError as exc:
        # A map that is merged into itself.
        raise DocumentError("maps and lists are nested too deeply", _position(root.start_mark)) from exc
    return Document(tree, Spelling(numbers_as_text=True), builder.positions, remarks)


class _Builder:
    """Makes values of nodes."""

    def __init__(self, duplicates: bool) -> None:
        self.positions: dict[Place, Position] = {}
        self._duplicates = duplicates
        self._count = 0

    def build(self, node: Node, place: Place) -> Any:
        self._count += 1
        if self._count > MOST_VALUES:
            raise DocumentError("the aliases of the file stand for too many values", _position(node.start_mark))
        if len(place) > DEEPEST:
            raise DocumentError("maps and lists are nested too deeply", _position(node.start_mark))
        kind = _kind(node)
        if isinstance(node, MappingNode) and kind == "map":
            return self._map(node, place)
        if isinstance(node, SequenceNode) and kind == "seq":
            return [self._item(item, (*place, str(number))) for number, item in enumerate(node.value)]
        if isinstance(node, ScalarNode):
            return _scalar(node, kind)
        raise DocumentError(f"the tag {node.tag} is not supported", _position(node.start_mark))

    def _item(self, node: Node, place: Place) -> Any:
        self._remember(place, node)
        return self.build(node, place)

    def _remember(self, place: Place, node: Node) -> None:
        if position := _position(node.start_mark):
            self.positions.setdefault(place, position)

    def _map(self, node: MappingNode, place: Place) -> dict[str, Any]:
        built: dict[str, Any] = {}
        merged: list[Node] = []
        for key_node, value_node in node.value:
            if not isinstance(key_node, ScalarNode):
                raise DocumentError("a key must be a string", _position(key_node.start_mark))
            if _kind(key_node) == "merge":
                merged.append(value_node)
                continue
            key = str(key_node.value)
            if key in built and not self._duplicates:
                raise DocumentError(f"the key {key!r} is given twice", _position(key_node.start_mark))
            self._remember((*place, key), key_node)
            built[key] = self.build(value_node, (*place, key))
        for value_node in merged:
            for source in self._merge_sources(value_node):
                for key, value in self._map(source, place).items():
                    built.setdefault(key, value)
        return built

    def _merge_sources(self, node: Node) -> Iterator[MappingNode]:
        for source in node.value if isinstance(node, SequenceNode) else [node]:
            self._count += 1
            if not isinstance(source, MappingNode) or self._count > MOST_VALUES:
                raise DocumentError("<< takes a map, or a list of maps", _position(node.start_mark))
            yield source


def _position(mark: Any) -> Position | None:
    return None if mark is None else Position(mark.line + 1, mark.column + 1)


def _kind(node: Node) -> str:
    return str(node.tag).removeprefix("tag:yaml.org,2002:")


_BASES = {"0x": 16, "0o": 8, "0b": 2}


def _scalar(node: ScalarNode, kind: str) -> Any:
    text = str(node.value)
    try:
        if kind in ("str", "timestamp", "value"):
            return text
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() in ("true", "yes", "on", "y")
        if kind == "int":
            return _whole(text)
        if kind == "float":
            return _fraction(text)
    except ValueError:
        return text
    raise DocumentError(f"the tag {node.tag} is not supported", _position(node.start_mark))


def _whole(text: str) -> int:
    digits = text.replace("_", "").lower()
    sign = -1 if digits.startswith("-") else 1
    digits = digits.lstrip("+-")
    base = _BASES.get(digits[:2], 10)
    if base == 10 and len(digits) > 1 and digits.startswith("0"):
        base = 8  # Go reads 0755 as octal
    number = _Whole(sign * int(digits[2:] if digits[:2] in _BASES else digits, base))
    number.text = text
    return number


def _fraction(text: str) -> float:
    plain = text.replace("_", "").lower()
    number = _Fraction(plain.replace(".inf", "inf").replace(".nan", "nan"))
    number.text = text
    return number
