"""Validation of values against the schemas of an OpenAPI document; an unsupported keyword fails the test."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any

_TYPES = {"object": dict, "string": str, "boolean": bool, "integer": int, "array": list}
_KNOWN = {
    "$ref", "type", "description", "properties", "required", "additionalProperties", "pattern", "enum", "default",
    "contentEncoding", "items", "minimum", "maxItems", "maxLength", "minLength",
}  # fmt: skip


def problems(document: Mapping[str, Any], schema: Mapping[str, Any], value: object, where: str = "$") -> list[str]:
    """What is wrong with *value*; properties that the schema does not name are wrong too."""
    assert not set(schema) - _KNOWN, set(schema) - _KNOWN
    if "$ref" in schema:
        target: Any = document
        for step in schema["$ref"].removeprefix("#/").split("/"):
            target = target[step]
        return problems(document, target, value, where)
    if type(value) is not _TYPES[schema["type"]]:
        return [f"{where} is no {schema['type']}"]
    found = []
    if isinstance(value, str | list):
        longest = schema.get("maxLength", schema.get("maxItems", len(value)))
        if not schema.get("minLength", 0) <= len(value) <= longest:
            found.append(f"{where} is too long or too short")
    if isinstance(value, int) and value < schema.get("minimum", value):
        found.append(f"{where} is too small")
    if isinstance(value, list):
        for number, entry in enumerate(value):
            found += problems(document, schema["items"], entry, f"{where}.{number}")
    if isinstance(value, str):
        if "pattern" in schema and not re.search(schema["pattern"], value):
            found.append(f"{where} does not match")
        if "enum" in schema and value not in schema["enum"]:
            found.append(f"{where} is none of those allowed")
        if schema.get("contentEncoding") == "base64":
            base64.b64decode(value, validate=True)
    if isinstance(value, dict) and ("properties" in schema or "additionalProperties" in schema):
        found += [f"{where}.{name} is missing" for name in schema.get("required", ()) if name not in value]
        for name, entry in value.items():
            inner = schema.get("properties", {}).get(name, schema.get("additionalProperties"))
            if inner is None:
                found.append(f"{where}.{name} is not known")
            else:
                found += problems(document, inner, entry, f"{where}.{name}")
    return found


def body_schema(document: Mapping[str, Any], path: str, status: int | None = None) -> Mapping[str, Any]:
    """The schema of *path*'s request, or of its answer with *status*."""
    operation = document["paths"][path]["post"]
    if status is None:
        part = operation["requestBody"]
    else:
        part = operation["responses"]["200" if status == 200 else f"{status // 100}XX"]
    schema = part["content"]["application/json"]["schema"]
    assert isinstance(schema, dict)
    return schema
