"""The OpenAPI document of the webhooks, made of the messages' types; ``openapi.json`` holds it as published."""

from __future__ import annotations

import inspect
import json
import sys
from typing import Any

from containerssh.core.metadata import Files, SocketAddress, Texts
from containerssh.webhook.messages import (
    Answer,
    Answers,
    AuthorizationRequest,
    ConfigAnswer,
    ConfigRequest,
    Entries,
    InteractiveAnswer,
    InteractiveRequest,
    PasswordRequest,
    Prompt,
    PublicKeyRequest,
    Question,
    Questions,
    Request,
)
from containerssh.webhook.wire import Field, Message, message_fields

WEBHOOKS: dict[str, tuple[type[Request], type[Entries]]] = {
    "/password": (PasswordRequest, Answer),
    "/pubkey": (PublicKeyRequest, Answer),
    "/authz": (AuthorizationRequest, Answer),
    "/config": (ConfigRequest, ConfigAnswer),
    "/interactive": (InteractiveRequest, InteractiveAnswer),
}


def document() -> dict[str, Any]:
    """The document (OpenAPI 3.1)."""
    asked: list[type[Message]] = [kind for pair in WEBHOOKS.values() for kind in pair]
    kinds = {kind.__name__: kind for kind in (*asked, Prompt, Question)}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "ContainerSSH webhooks",
            "version": "0.6",
            "description": "What the gateway asks the administrator's servers, and what they answer.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": {path: _path(*pair) for path, pair in WEBHOOKS.items()},
        "components": {
            "schemas": {
                **{name: _message(kind) for name, kind in kinds.items()},
                "Texts": _entries({"type": "string"}),
                "Files": _entries({"type": "string", "contentEncoding": "base64"}),
                "Error": {
                    "type": "object",
                    "properties": {"error": {"type": "string"}},
                    "required": ["error"],
                },
            }
        },
    }


def published() -> str:
    """The document as it is written to ``openapi.json``."""
    return json.dumps(document(), indent=2) + "\n"


def _path(request: type[Request], answer: type[Entries]) -> dict[str, Any]:
    name = request.__name__.removesuffix("Request")
    return {
        "post": {
            "operationId": name[0].lower() + name[1:],
            "summary": _summary(request),
            "requestBody": {"required": True, "content": _content(request.__name__)},
            "responses": {
                "200": {"description": _summary(answer), "content": _content(answer.__name__)},
                "4XX": {
                    "description": "No request of a gateway, which gives up; after 408 and 429 it asks again.",
                    "content": _content("Error"),
                },
                "5XX": {
                    "description": "No answer at the moment; the gateway asks again.",
                    "content": _content("Error"),
                },
            },
        }
    }


def _content(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": _reference(name)}}


def _reference(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _summary(kind: type) -> str:
    return inspect.cleandoc(kind.__doc__ or "").split("\n")[0]


def _message(kind: type[Message]) -> dict[str, Any]:
    found = message_fields(kind)
    return {
        "type": "object",
        "description": _summary(kind),
        "properties": {item.wire: {**_schema(item), "description": item.description} for item in found},
        "required": [item.wire for item in found if item.required],
    }


def _schema(item: Field) -> dict[str, Any]:
    shape = item.shape
    if item.wire == "configMode":
        return {"type": "string", "enum": ["", "overlay"]}
    if item.pattern:
        return {"type": "string", "pattern": item.pattern}
    if shape == Texts:
        return _reference("Texts")
    if shape == Files:
        return _reference("Files")
    if shape is SocketAddress:
        return {"type": "string", "pattern": "^(\\[[0-9a-f:.]+(%.+)?\\]|[0-9.]+):[0-9]{1,5}$"}
    if shape is bytes:
        return {"type": "string", "contentEncoding": "base64"}
    if shape is int:
        return {"type": "integer", "minimum": 0}
    if shape == Answers:
        return {"type": "array", "items": {"type": "string"}}
    if shape == Questions:
        return {"type": "array", "items": _reference("Question"), **_limits(item, "maxItems")}
    if shape == Prompt | None:
        return _reference("Prompt")
    if shape is str:
        return {"type": "string", **_limits(item, "maxLength", "minLength")}
    return {"type": "boolean" if shape is bool else "object"}


def _limits(item: Field, longest: str, shortest: str = "") -> dict[str, int]:
    found = {longest: item.longest, shortest: item.shortest}
    return {name: number for name, number in found.items() if number is not None}


def _entries(value: dict[str, Any]) -> dict[str, Any]:
    entry = {
        "type": "object",
        "properties": {
            "value": value,
            "sensitive": {
                "type": "boolean",
                "default": False,
                "description": "Reaches the container, but no log and no later webhook.",
            },
        },
        "required": ["value"],
    }
    return {"type": "object", "additionalProperties": entry}


if __name__ == "__main__":
    sys.stdout.write(published())
