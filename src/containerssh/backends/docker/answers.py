"""What the engine answers, as values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from containerssh.backends.docker.engine_error import EngineError
from containerssh.core.codes import DockerCode


@dataclass(frozen=True)
class EngineInfo:
    """Who answers, as ``/_ping`` tells."""

    server: str
    api: tuple[int, int]

    @property
    def is_podman(self) -> bool:
        return self.server.startswith("Libpod/")

    def __str__(self) -> str:
        return f"{self.server or 'unknown engine'}, API {self.api[0]}.{self.api[1]}"


@dataclass(frozen=True)
class Image:
    """An image that the engine has."""

    id: str
    architecture: str
    """As Go names it: ``amd64``, ``arm64``."""


@dataclass(frozen=True)
class ContainerState:
    """How a container is."""

    running: bool
    exit_code: int
    error: str
    """Why the engine could not start it, in its words."""
    has_terminal: bool
    host: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """The HostConfig that the engine took over."""
    runtime: str = ""
    """The runtime that Podman really uses; empty on Docker."""


@dataclass(frozen=True)
class Reply:
    """What the engine answered to *doing*; Podman's bodies are not always JSON."""

    status: int
    body: bytes = field(repr=False)
    code: DockerCode
    doing: str

    def object(self) -> dict[str, Any]:
        """
        The object that it says.

        Raises:
            EngineError: it says something else.
        """
        found: dict[str, Any] = parse(self.body, dict, self.code, self.doing)
        return found


def parse(data: bytes, kind: type, code: DockerCode, doing: str) -> Any:
    """The JSON of *data*, whose outermost value is a *kind*; raises EngineError."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, kind):
        raise EngineError(code, f"{doing}: the engine's answer cannot be understood", status=200)
    return value


def text_of(reply: Mapping[str, Any], name: str) -> str:
    """The text called *name*; empty where there is none."""
    value = reply.get(name)
    return value if isinstance(value, str) else ""


def identifier(reply: Any, code: DockerCode) -> str:
    """An id fit for a path; raises EngineError."""
    value = text_of(reply, "Id") if isinstance(reply, dict) else ""
    if not (0 < len(value) <= 128 and value.isascii() and value.isalnum()):
        raise EngineError(code, "the engine's answer has no proper id", status=200)
    return value
