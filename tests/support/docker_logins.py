"""Logins through the docker backend, for tests: what is configured, run and looked at."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from containerssh.backends.docker.backend import DockerBackend
from containerssh.config.docker import DockerConfig
from containerssh.core.handlers import ConnectionHandler
from containerssh.core.metadata import Login
from tests.support.docker import (
    Channel,
    Seen,
    Way,
    containers_of,
)
from tests.support.podman import ENGINES
from tests.support.services import Engine


def config(where: Engine | Way | str, /, *, timeouts: dict[str, str] | None = None, **execution: Any) -> DockerConfig:
    address, network = (where, "none") if isinstance(where, str) else (where.address, where.network)
    execution = {"shellCommand": ["/bin/sh"], **execution}
    execution["container"] = {"image": "bb:latest", **execution.get("container", {})}
    execution["host"] = {"networkmode": network, **execution.get("host", {})}
    return DockerConfig.model_validate(
        {"connection": {"host": address}, "execution": execution, "timeouts": timeouts or {"containerStart": "20s"}}
    )


def ways_in(*ways: str) -> pytest.MarkDecorator:
    """The test runs for each of *ways*: an engine, a colon, a transport of the agent."""
    known = {str(entry if isinstance(entry, str) else entry.values[0]): entry for entry in ENGINES}
    cases = []
    for way in ways:
        name, _, transport = way.partition(":")
        entry = known[name]
        cases.append(pytest.param(name, transport, marks=() if isinstance(entry, str) else entry.marks, id=way))
    return pytest.mark.parametrize(("engine", "transport"), cases, indirect=["engine"])


DOCKER = ("docker:socket", "docker:attach")
PODMAN = ("podman:socket", "podman:attach")


async def run(handler: ConnectionHandler, command: str, stdin: bytes = b"") -> tuple[bytes, object]:
    """The output and the end of *command*."""
    channel = Channel(stdin)
    async with handler.session(channel) as session:
        await session.run_command(command)
        end = await channel.ended()
    return channel.out.data, end


@asynccontextmanager
async def logged_in(backend: DockerBackend, login: Login, settings: DockerConfig) -> AsyncIterator[ConnectionHandler]:
    async with backend.login(login, settings, Seen()) as handler:
        yield handler


def inspected(engine: Engine, login: Login) -> dict[str, Any]:
    (container,) = containers_of(engine, login)
    found: dict[str, Any] = json.loads(engine.docker("inspect", container))[0]
    return found
