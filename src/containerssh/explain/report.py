"""The explanation of a login as plain data, without secrets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from containerssh.core.errors import AuthUnavailable, ContainerSSHError, describe
from containerssh.core.metadata import Login, Value

Outcome = Literal["right", "more", "refused", "unavailable", "not asked"]
"""``more``: accepted, but another method must follow."""


@dataclass
class Step:
    """One decision about the login."""

    name: str
    """A method's SSH name; ``authorization``; ``config server``."""
    outcome: Outcome = "right"
    reason: str = ""
    supposed: bool = False
    """The credential was not checked but assumed to be right."""
    adds: dict[str, Any] = field(default_factory=dict)
    """What this step adds to the login."""
    log: list[dict[str, Any]] = field(default_factory=list)
    """The messages that a server would log at its lowest level."""


@dataclass(frozen=True)
class Method:
    """An authentication method, and whether it is offered to clients."""

    name: str
    offered: bool
    why_not: str = ""


@dataclass(frozen=True)
class Change:
    """A configuration key that has a different value for this login."""

    key: str
    by: str
    before: Any
    after: Any


@dataclass(frozen=True)
class Permission:
    """Whether a kind of request is allowed."""

    request: str
    allowed: bool
    by: str
    excepted: Sequence[str] = ()
    """Exceptions, to which the opposite applies."""
    denied: Sequence[str] = ()
    """Forwards that are refused in any case."""


@dataclass
class Explanation:
    """The complete explanation."""

    username: str
    address: str
    admitted: bool = False
    reason: str = ""
    """Why the login is refused."""
    webhooks: list[str] = field(default_factory=list)
    """The webhooks that are called if the login reaches them."""
    methods: list[Method] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    login: dict[str, Any] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    container: dict[str, Any] = field(default_factory=dict)
    permissions: list[Permission] = field(default_factory=list)
    force_command: dict[str, str] = field(default_factory=dict)
    limits: dict[str, Any] = field(default_factory=dict)

    def refuse(self, error: ContainerSSHError, when: str) -> None:
        """The login ends with *error*."""
        self.admitted = False
        self.reason = f"{when}: {describe(error)}"

    @contextmanager
    def step(self, name: str, *, supposed: bool = False) -> Iterator[Step]:
        """Add a step. An error raised inside becomes its outcome and is raised again."""
        step = Step(name, supposed=supposed)
        self.steps.append(step)
        try:
            yield step
        except ContainerSSHError as exc:
            step.outcome = "refused" if not isinstance(exc, AuthUnavailable) else "unavailable"
            step.reason = describe(exc)
            raise

    def as_json(self) -> dict[str, Any]:
        """Plain data, its keys spelt as those of the configuration."""
        told: dict[str, Any] = _camel(asdict(self))
        return told


_KEYS = {"why_not": "whyNot", "force_command": "forceCommand"}


def _camel(value: Any) -> Any:
    if isinstance(value, dict):
        return {_KEYS.get(key, key): _camel(entry) for key, entry in value.items()}
    return [_camel(entry) for entry in value] if isinstance(value, list | tuple) else value


def described(login: Login) -> dict[str, Any]:
    """The values of a login, with sensitive ones hidden."""
    return {
        "authenticatedUsername": login.authenticated_username,
        "metadata": texts(login.metadata),
        "environment": texts(login.environment),
        "files": files(login),
    }


def gained(before: Login | None, after: Login) -> dict[str, Any]:
    """The values in *after* that are not in *before*."""
    told: dict[str, Any] = {}
    if before is None or before.authenticated_username != after.authenticated_username:
        told["authenticatedUsername"] = after.authenticated_username
    for name, describe_ in (("metadata", texts), ("environment", texts)):
        known = getattr(before, name) if before else {}
        new = {key: value for key, value in getattr(after, name).items() if known.get(key) != value}
        if new:
            told[name] = describe_(new)
    known_files = before.files if before else {}
    if new_files := [path for path, value in after.files.items() if known_files.get(path) != value]:
        told["files"] = [entry for entry in files(after) if entry["path"] in new_files]
    return told


def texts(values: Mapping[str, Value[str]]) -> dict[str, Any]:
    """All names, and the values that are not sensitive."""
    return {name: {"sensitive": True} if value.sensitive else {"value": value.value} for name, value in values.items()}


def files(login: Login, mode: int | None = None) -> list[dict[str, Any]]:
    """Paths and sizes, without content."""
    told: list[dict[str, Any]] = []
    for path, value in login.files.items():
        entry: dict[str, Any] = {"path": path, "bytes": len(value.value), "sensitive": value.sensitive}
        if mode is not None:
            entry["mode"] = f"{mode:04o}"
        told.append(entry)
    return told
