"""Requests and answers as JSON (``webhooks.md`` sections 1, 3 to 5)."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from datetime import timedelta
from typing import Any, NoReturn, TypeVar, get_args, get_type_hints

from containerssh.core.forwarding import address_of
from containerssh.core.metadata import Files, SocketAddress, Texts, Value
from containerssh.webhook.messages import (
    Answers,
    ConfigAnswer,
    Decision,
    Entries,
    InteractiveAnswer,
    Prompt,
    Question,
    Request,
)

R = TypeVar("R", bound=Request)

LARGEST_REQUEST = 8 << 20
"""Bytes; the values that a webhook returned come back to the next one, and an answer has 4 MiB at most."""

MOST_ENTRIES = 10_000
"""Of each kind in one request."""

Message = Request | Entries | Prompt | Question


class InvalidRequest(Exception):
    """No request of a gateway; the text says why and holds nothing of its values."""


def read_request(kind: type[R], body: bytes) -> R:
    """
    The request of this *kind* in *body*. Fields that are not known do not matter.

    Raises:
        InvalidRequest: it is not one, or has more than 8 MiB.
    """
    if len(body) > LARGEST_REQUEST:
        raise InvalidRequest(f"more than {LARGEST_REQUEST} bytes")
    try:
        found = _DECODER.decode(body.decode())
    except RecursionError:
        raise InvalidRequest("nested too deeply") from None
    except ValueError:
        raise InvalidRequest("not JSON in UTF-8") from None
    found = _object(found, "the request")
    values = {}
    for item in message_fields(kind):
        if item.wire in found:
            values[item.name] = _READERS[item.shape](found[item.wire], item.wire)
        elif item.required:
            raise InvalidRequest(f"{item.wire} is missing")
        if item.pattern and not re.search(item.pattern.replace("$", r"\Z"), values[item.name]):
            raise InvalidRequest(f"{item.wire} has another form than {item.pattern}")
    return kind(**values)


def write_answer(answer: Decision | ConfigAnswer) -> bytes:
    """
    *answer* as one line of JSON; empty fields are left out.

    Raises:
        ValueError: it cannot be said in JSON: a text that is not Unicode, a number that is none.
        TypeError: it holds what JSON does not have.
    """
    said: dict[str, Any] = {}
    if isinstance(answer, Decision):
        said["success"] = answer.success
    elif answer.config:
        said["config"] = _plain(answer.config)
    if isinstance(answer, ConfigAnswer) and answer.overlay:
        said["configMode"] = "overlay"
    if isinstance(answer, InteractiveAnswer):
        said |= _asking(answer)
    if answer.authenticated_username:
        said["authenticatedUsername"] = answer.authenticated_username
    for key, texts in (("metadata", answer.metadata), ("environment", answer.environment)):
        if texts:
            said[key] = {name: {"value": text.value, "sensitive": text.sensitive} for name, text in texts.items()}
    if answer.files:
        said["files"] = {
            path: {"value": base64.b64encode(file.value).decode(), "sensitive": file.sensitive}
            for path, file in answer.files.items()
        }
    return json.dumps(said, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def _asking(answer: InteractiveAnswer) -> dict[str, Any]:
    said: dict[str, Any] = {}
    if prompt := answer.prompt:
        questions = [{"text": question.text, "echo": question.echo} for question in prompt.questions]
        said["prompt"] = {"instruction": prompt.instruction, "questions": questions}
    if answer.state:
        said["state"] = answer.state
    return said


@dataclass(frozen=True)
class Field:
    """A field of a message: its name here and on the wire, its type, its description, and the form its text has."""

    name: str
    wire: str
    shape: Any
    description: str
    required: bool
    pattern: str | None
    shortest: int | None
    longest: int | None
    """Characters of a text, or entries of a list."""


_FIELDS: dict[type, Sequence[Field]] = {}


def message_fields(kind: type[Message]) -> Sequence[Field]:
    """The fields of a kind of message, in upstream's order."""
    known = _FIELDS.get(kind)
    if known is None:
        known = _FIELDS[kind] = _read_fields(kind)
    return known


def _read_fields(kind: type[Message]) -> Sequence[Field]:
    hints = get_type_hints(kind, include_extras=True)
    found = []
    for item in fields(kind):
        shape, description = get_args(hints[item.name])
        wire = item.metadata.get("wire") or re.sub("_([a-z])", lambda match: match[1].upper(), item.name)
        required = item.default is MISSING and item.default_factory is MISSING
        limits = (item.metadata.get(name) for name in ("pattern", "shortest", "longest"))
        found.append(Field(item.name, wire, shape, description, required, *limits))
    return found


def _unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("the same key twice")
    return found


def _no_number(_: str) -> NoReturn:
    raise ValueError("not a number")


_DECODER = json.JSONDecoder(object_pairs_hook=_unambiguous, parse_constant=_no_number)


def _object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidRequest(f"{what} is not an object")
    return value


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise InvalidRequest(f"{what} is not text")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise InvalidRequest(f"{what} holds what is not a character")
    return value


def _count(value: object, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InvalidRequest(f"{what} is not a count")
    return value


def _list(value: object, what: str) -> Answers:
    if not isinstance(value, list):
        raise InvalidRequest(f"{what} is not a list")
    if len(value) > MOST_ENTRIES:
        raise InvalidRequest(f"{what} has more than {MOST_ENTRIES} entries")
    return tuple(_text(entry, f"an entry of {what}") for entry in value)


def _bytes(value: object, what: str) -> bytes:
    try:
        return base64.b64decode(_text(value, what), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequest(f"{what} is not in base64") from None


def _address(value: object, what: str) -> SocketAddress:
    match = re.fullmatch(r"(?:\[([^][]{2,100})\]|([0-9.]{7,15})):([0-9]{1,5})", _text(value, what), re.ASCII)
    if match is None or int(match[3]) > 65535:
        raise InvalidRequest(f"{what} is not an address with a port")
    address = address_of(match[1] or match[2])
    if address is None or address.version != (6 if match[1] else 4):
        raise InvalidRequest(f"{what} is not an IP address")
    return SocketAddress.of(match[1] or match[2], int(match[3]))


def _entries(value: object, what: str) -> dict[str, tuple[Any, bool]]:
    found = _object(value, what)
    if len(found) > MOST_ENTRIES:
        raise InvalidRequest(f"{what} has more than {MOST_ENTRIES} entries")
    entries = {}
    for name, entry in found.items():
        inner = _object(entry, f"an entry of {what}")
        sensitive = inner.get("sensitive", False)
        if not isinstance(sensitive, bool):
            raise InvalidRequest(f"sensitive in {what} is neither true nor false")
        entries[_text(name, f"a name in {what}")] = inner.get("value", ""), sensitive
    return entries


def _texts(value: object, what: str) -> Texts:
    return {
        name: Value(_text(text, f"a value in {what}"), sensitive)
        for name, (text, sensitive) in _entries(value, what).items()
    }


def _files(value: object, what: str) -> Files:
    return {
        path: Value(_bytes(content, f"a value in {what}"), sensitive)
        for path, (content, sensitive) in _entries(value, what).items()
    }


_READERS: dict[Any, Callable[[object, str], Any]] = {
    str: _text,
    bytes: _bytes,
    int: _count,
    Answers: _list,
    SocketAddress: _address,
    Texts: _texts,
    Files: _files,
}


def _plain(value: Any, path: tuple[str, ...] = ()) -> Any:
    """*value* with its durations as upstream reads them: in nanoseconds, as a text below ``docker.timeouts`` alone."""
    if isinstance(value, timedelta):
        microseconds = value // timedelta(microseconds=1)
        return f"{microseconds}us" if path[:2] == ("docker", "timeouts") else microseconds * 1000
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise TypeError("a key in config is not text")
        return {key: _plain(entry, (*path, key)) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry, path) for entry in value]
    return value
