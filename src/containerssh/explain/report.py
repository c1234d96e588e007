"""What was found out about a login, in plain data; nothing here is secret."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from containerssh.core.errors import AuthUnavailable, ContainerSSHError, describe
from containerssh.core.metadata import Login, Value

Outcome = Literal["right", "more", "refused", "unavailable", "not asked"]
"""``more``: right, and another method must follow."""


@dataclass
class Step:
    """Somebody was asked about the login."""

    name: str
    """A method's SSH name; ``authorization``; ``config server``."""
    outcome: Outcome = "right"
    reason: str = ""
    supposed: bool = False
    """The credential was not judged but assumed to be right."""
    adds: dict[str, Any] = field(default_factory=dict)
    """What the login has by this step."""
    log: list[dict[str, Any]] = field(default_factory=list)
    """What a server's log would say at its lowest level."""


@dataclass(frozen=True)
class Method:
    """A method of authentication, and whether a client is told of it."""

    name: str
    offered: bool
    why_not: str = ""


@dataclass(frozen=True)
class Change:
    """A key of the configuration that is another one for this login."""

    key: str
    by: str
    before: Any
    after: Any


@dataclass(frozen=True)
class Permission:
    """What becomes of a kind of request."""

    request: str
    allowed: bool
    by: str
    excepted: Sequence[str] = ()
    """Those to which the opposite applies."""
    denied: Sequence[str] = ()
    """Those that are refused in any case, of forwards."""


@dataclass
class Explanation:
    """The whole of it."""

    username: str
    address: str
    admitted: bool = False
    reason: str = ""
    """Why not."""
    webhooks: list[str] = field(default_factory=list)
    """Those that are asked for real where the login's way leads to them."""
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
        """A step that is added now; an error is its outcome, and goes on."""
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
    """A login's own values, the sensitive ones hidden."""
    return {
        "authenticatedUsername": login.authenticated_username,
        "metadata": texts(login.metadata),
        "environment": texts(login.environment),
        "files": files(login),
    }


def gained(before: Login | None, after: Login) -> dict[str, Any]:
    """What *after* has that *before* has not."""
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
    """Names, and the values that are not sensitive."""
    return {name: {"sensitive": True} if value.sensitive else {"value": value.value} for name, value in values.items()}


def files(login: Login, mode: int | None = None) -> list[dict[str, Any]]:
    """Paths and sizes, never a content."""
    told: list[dict[str, Any]] = []
    for path, value in login.files.items():
        entry: dict[str, Any] = {"path": path, "bytes": len(value.value), "sensitive": value.sensitive}
        if mode is not None:
            entry["mode"] = f"{mode:04o}"
        told.append(entry)
    return told
