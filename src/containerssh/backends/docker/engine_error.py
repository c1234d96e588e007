"""Errors of the engine, and whether a retry can help."""

from __future__ import annotations

import json
from enum import Enum

from containerssh.core.codes import DockerCode
from containerssh.core.counters import counters
from containerssh.core.errors import BackendError
from containerssh.core.messages import Code
from containerssh.core.metrics import BACKEND_ERRORS, BACKEND_REQUESTS
from containerssh.core.text import one_line

_LASTING_CAUSES = (
    "already in use",
    "invalid argument",
    "network not found",
    "no matching entries",
    "no such file",
    "not found",
    "oci runtime error",
    "permission denied",
)
"""Causes that Podman reports with status 500 where Docker would respond with 400, 404 or 409."""


class Cure(Enum):
    """What can resolve an error."""

    WAIT = "the engine is away or busy: try again for as long as there is time"
    FEW_TRIES = "the engine failed inside: it may be the request's fault"
    NOTHING = "the engine understood and refused"


class EngineError(BackendError):
    """A request to the engine failed; the text ends with the engine's message."""

    default_user_message = "The container could not be started."

    def __init__(
        self,
        code: Code,
        explanation: str,
        /,
        *,
        status: int | None = None,
        cure: Cure = Cure.NOTHING,
        user_message: str | None = None,
        absent: bool = False,
    ) -> None:
        super().__init__(code, explanation, user_message=user_message)
        self.status = status
        """The HTTP status of the reply; None if there was none."""
        self.cure = cure
        self.absent = absent
        """Whether nothing listens at the engine's address."""

    @property
    def permanent(self) -> bool:
        return self.cure is Cure.NOTHING

    @property
    def lost(self) -> bool:
        """Whether the reply was lost, so the request may have been executed."""
        return self.status is None


# What is asked again and again, and what is done to a program that runs (observability.md section 6.2).
_UNCOUNTED = frozenset(
    {
        DockerCode.ENGINE_UNAVAILABLE,
        DockerCode.CONTAINER_SIGNAL_FAILED,
        DockerCode.EXEC_RESIZE_FAILED,
        DockerCode.EXIT_CODE_FAILED,
    }
)


def count_request(code: Code) -> None:
    """Count a request whose failure has *code*, for metrics."""
    if code not in _UNCOUNTED:
        counters.add(BACKEND_REQUESTS, backend="docker")


def counted(error: EngineError) -> EngineError:
    """*error*, counted for metrics."""
    if error.code not in _UNCOUNTED:
        counters.add(BACKEND_ERRORS, backend="docker")
    return error


def refusal(code: Code, doing: str, status: int, body: bytes) -> EngineError:
    """The error for a reply with an error status."""
    words = engine_words(body) or f"status {status}"
    if status in (408, 425, 429, 502, 503, 504):
        cure = Cure.WAIT
    elif status >= 500 and status != 501 and (code is DockerCode.CONTAINER_REMOVE_FAILED or not _lasts(body)):
        cure = Cure.FEW_TRIES
    else:
        cure = Cure.NOTHING
    return EngineError(code, f"{doing} failed: {words}", status=status, cure=cure)


def engine_words(body: bytes) -> str:
    """The message in an error reply, in Docker's or Podman's format, on one line; empty if there is none."""
    return one_line(_field(body, "message"))


def _lasts(body: bytes) -> bool:
    cause = _field(body, "cause").lower()
    return any(lasting in cause for lasting in _LASTING_CAUSES)


def _field(body: bytes, name: str) -> str:
    try:
        reply = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    value = reply.get(name) if isinstance(reply, dict) else None
    return value if isinstance(value, str) else ""
