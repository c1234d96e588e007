"""The configuration's JSON Schema, for editors and other tools."""

from __future__ import annotations

from typing import Any

from containerssh.config.app import AppConfig


def json_schema() -> dict[str, Any]:
    """The schema of a configuration file (JSON Schema 2020-12)."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **AppConfig.model_json_schema(by_alias=True, mode="validation"),
        "title": "ContainerSSH configuration",
    }
