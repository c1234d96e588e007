"""Replies of the Engine API as values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from containerssh.backends.docker.engine_error import EngineError
from containerssh.core.codes import DockerCode


@dataclass(frozen=True)
class EngineInfo:
    """The engine's name and API versions, from ``/_ping``."""

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
    """In Go's naming: ``amd64``, ``arm64``."""


@dataclass(frozen=True)
class ContainerState:
    """The state of a container."""

    running: bool
    exit_code: int
    error: str
    """The engine's error message if it could not start the container."""
    has_terminal: bool
    host: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """The HostConfig that the engine applied."""
    runtime: str = ""
    """The runtime that Podman uses; empty on Docker."""
    gateways: tuple[str, ...] = ()
    """Addresses of the engine's host in the container's networks; only while the container runs."""


@dataclass(frozen=True)
class Reply:
    """The reply to *doing*; Podman's bodies are not always JSON."""

    status: int
    body: bytes = field(repr=False)
    code: DockerCode
    doing: str

    def object(self) -> dict[str, Any]:
        """
        The body as a JSON object.

        Raises:
            EngineError: the body is not a JSON object.
        """
        found: dict[str, Any] = parse(self.body, dict, self.code, self.doing)
        return found


def parse(data: bytes, kind: type, code: DockerCode, doing: str) -> Any:
    """Parse *data* as JSON whose outermost value is of type *kind*; raises EngineError."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, kind):
        raise EngineError(code, f"{doing}: the engine's answer cannot be understood", status=200)
    return value


def text_of(reply: Mapping[str, Any], name: str) -> str:
    """The string in the field *name*; empty if missing."""
    value = reply.get(name)
    return value if isinstance(value, str) else ""


def identifier(reply: Any, code: DockerCode) -> str:
    """An id that is safe in a URL path; raises EngineError."""
    value = text_of(reply, "Id") if isinstance(reply, dict) else ""
    if not (0 < len(value) <= 128 and value.isascii() and value.isalnum()):
        raise EngineError(code, "the engine's answer has no proper id", status=200)
    return value


def gateways_in(settings: object) -> tuple[str, ...]:
    """The gateways, as the engine wrote them, of the networks in a container's ``NetworkSettings``."""
    networks = settings.get("Networks") if isinstance(settings, dict) else None
    ends = networks.values() if isinstance(networks, dict) else ()
    found = (end.get(name) for end in ends if isinstance(end, dict) for name in ("Gateway", "IPv6Gateway"))
    return tuple(gateway for gateway in found if isinstance(gateway, str) and gateway)
