"""What the configuration can say but this version cannot do: refused by name, never ignored."""

from __future__ import annotations

from collections.abc import Iterator

from containerssh.config.app import AppConfig
from containerssh.config.model import Problem

_BACKENDS = ("sshproxy",)


def unavailable(config: AppConfig) -> list[Problem]:
    """Keys that turn on something which this version does not have, at start."""
    found = list(_of_the_server(config))
    if config.configserver.url and config.backend in _BACKENDS:
        # Each login may get another backend, and is refused by itself if it does not.
        return found
    return found + unavailable_for_login(config)


def unavailable_for_login(config: AppConfig) -> list[Problem]:
    """The same for one login's configuration."""
    if config.backend in _BACKENDS:
        return [_missing("backend", f"the backend {config.backend}")]
    return []


def _of_the_server(config: AppConfig) -> Iterator[Problem]:
    if config.audit.enable:
        yield _missing("audit.enable", "the audit log")
    if config.log.destination in ("syslog", "test"):
        yield _missing("log.destination", f"the destination {config.log.destination}")


def _missing(path: str, what: str) -> Problem:
    return Problem(path, f"{what} is not available in this version")
