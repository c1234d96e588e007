"""The fields that all webhooks share, in both directions (``webhooks.md`` sections 3 to 5)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass

from containerssh.core.codes import AuthCode, HTTPCode
from containerssh.core.errors import AuthFailed
from containerssh.core.metadata import AuthAttempt, Files, Texts, Value
from containerssh.core.requests import can_be_variable
from containerssh.web.client import WebhookError

MAX_ENTRIES = 10_000
"""Of each kind in one answer; a hundred times what anybody needs."""


def question(attempt: AuthAttempt, **more: str) -> dict[str, object]:
    """The request about *attempt* in upstream's order of fields; empty maps are left out."""
    fields: dict[str, object] = {
        "remoteAddress": str(attempt.remote_address),
        "connectionId": attempt.connection_id,
    }
    if attempt.metadata:
        fields["metadata"] = _texts(attempt.metadata)
    if attempt.environment:
        fields["environment"] = _texts(attempt.environment)
    if attempt.files:
        fields["files"] = {
            path: {"value": base64.b64encode(file.value).decode(), "sensitive": file.sensitive}
            for path, file in attempt.files.items()
        }
    fields["clientVersion"] = readable(attempt.client_version)
    fields["username"] = attempt.username
    return {**fields, **more}


def check_name(attempt: AuthAttempt) -> None:
    """
    Make sure that a webhook can be asked about the user's name.

    Raises:
        AuthFailed: it holds what is not a character.
    """
    if not attempt.username.isascii() and "\ufffd" in readable(attempt.username):
        # To replace what is not a character would make one name of two.
        raise AuthFailed(AuthCode.FAILED, "the user name is not valid UTF-8")


@dataclass(frozen=True)
class Values:
    """The entries of an answer that are merged into the login."""

    metadata: Texts
    environment: Texts
    files: Files


def read_object(answer: object) -> Mapping[str, object]:
    """
    The answer's top level with its keys in lower case: upstream takes them in any case.

    Raises:
        WebhookError: it is not an object, or has two keys that differ in case only.
    """
    return _folded(answer, "the answer")


def read_values(answer: Mapping[str, object]) -> Values:
    """
    The three maps of an answer. What it echoes of the question (addresses, names) is nobody's business.

    Raises:
        WebhookError: a value has another type than it must have, or could not be set in a container.
    """
    return Values(
        {name: _text_entry(entry, f"metadata {name!r}") for name, entry in _entries(answer, "metadata")},
        dict(_variable(name, entry) for name, entry in _entries(answer, "environment")),
        dict(_file(path, entry) for path, entry in _entries(answer, "files")),
    )


def read_text(answer: Mapping[str, object], key: str) -> str:
    """The text under *key* (lower case), empty when there is none; raises as above."""
    value = answer.get(key.lower())
    if value is None:
        return ""
    if not isinstance(value, str):
        raise invalid_answer(f"{key} is not text")
    return readable(value)


def readable(text: str) -> str:
    """JSON can spell half a surrogate pair, and a client can send any byte: neither is a character."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def invalid_answer(problem: str) -> WebhookError:
    """The answer means something that cannot be: to ask again would not help."""
    return WebhookError(HTTPCode.CLIENT_DECODE_FAILED, f"unusable answer: {problem}", passing=False)


def _texts(values: Texts) -> dict[str, object]:
    return {name: {"value": value.value, "sensitive": value.sensitive} for name, value in values.items()}


def _folded(value: object, what: str) -> dict[str, object]:
    if not isinstance(value, Mapping):
        raise invalid_answer(f"{what} is not an object")
    folded = {str(key).lower(): entry for key, entry in value.items()}
    if len(folded) != len(value):
        raise invalid_answer(f"{what} has the same key twice, in different case")
    return folded


def _entries(answer: Mapping[str, object], key: str) -> list[tuple[str, object]]:
    found = answer.get(key)
    if found is None:
        return []
    if not isinstance(found, Mapping):
        raise invalid_answer(f"{key} is not an object")
    if len(found) > MAX_ENTRIES:
        raise invalid_answer(f"{key} has more than {MAX_ENTRIES} entries")
    return [(readable(str(name)), entry) for name, entry in found.items()]


def _text_entry(entry: object, what: str) -> Value[str]:
    fields = _folded(entry if entry is not None else {}, what)
    sensitive = fields.get("sensitive")
    if not isinstance(sensitive, bool | None):
        raise invalid_answer(f"sensitive of {what} is neither true nor false")
    return Value(read_text(fields, "value"), bool(sensitive))


def _variable(name: str, entry: object) -> tuple[str, Value[str]]:
    value = _text_entry(entry, f"environment {name!r}")
    if not can_be_variable(name, value.value):
        raise invalid_answer(f"environment {name!r} cannot be a variable: an empty name, =, or a NUL byte")
    return name, value


def _file(path: str, entry: object) -> tuple[str, Value[bytes]]:
    text = _text_entry(entry, f"file {path!r}")
    if not path.startswith("/") or "\0" in path:
        raise invalid_answer(f"file {path!r} is not an absolute path")
    try:
        content = base64.b64decode(text.value, validate=True)
    except (binascii.Error, ValueError):
        raise invalid_answer(f"file {path!r} is not in base64") from None
    return path, Value(content, text.sensitive)
