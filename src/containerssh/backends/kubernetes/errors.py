"""Errors of the Kubernetes API (API conventions, "Response Status Kind"), and their texts for logs."""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping
from typing import Any

import aiohttp

from containerssh.core.codes import KubernetesCode
from containerssh.core.errors import BackendError, ProtocolError, describe
from containerssh.core.messages import Code
from containerssh.core.text import one_line

_WORDS_LIMIT = 600
_MESSAGE_LIMIT = 4000
"""Characters of the API's message: a policy lists everything that a pod violates, for each of its containers."""
_REASON_LIMIT = 80
_CAUSES_LIMIT = 50
ERROR_LIMIT = 64 * 1024
"""Bytes that are read of the body of an error response."""
_TOO_LARGE = ("trying to send message larger than max", "etcdserver: request is too large")
"""What the API's store says to an object that it does not take, by way of the API with status 500."""
REFUSAL_SECONDS = 3.0
"""Seconds that reading this body may take; the status, which has arrived already, matters most."""


class APIError(BackendError):
    """A request to the Kubernetes API failed; the text ends with the API's message."""

    default_user_message = "The pod could not be started."

    def __init__(
        self,
        doing: str,
        *,
        status: int,
        reason: str = "",
        message: str = "",
        causes: Mapping[str, str] | None = None,
        retry_after: float | None = None,
        distrusted: bool = False,
        unsent: bool = False,
        code: Code | None = None,
        user_message: str | None = None,
    ) -> None:
        self.status = status
        """The HTTP status, or that of the Status object; 0 if there was no response."""
        self.reason = one_line(reason, _REASON_LIMIT)
        """The API's reason: ``NotFound``, ``AlreadyExists``, ``Forbidden``, ``Expired``, ``Invalid``..."""
        self.message = one_line(message, _MESSAGE_LIMIT)
        """The API's message: untrusted text, on one line."""
        self.causes = causes or {}
        """The message for each reason in the causes of the status; of several for a reason, the last."""
        self.retry_after = retry_after
        """The seconds after which the API asks for a retry; None if it does not say."""
        self.doing = doing
        """The request in words."""
        self.distrusted = distrusted
        """Whether the server's certificate was not accepted; a retry does not help."""
        self.unsent = unsent
        """Whether there was no connection, so the API has not received the request."""
        if code is None:
            code = KubernetesCode.API_REFUSED if status else KubernetesCode.API_UNAVAILABLE
        words = self.message or self.reason or f"status {status}"
        super().__init__(code, f"{doing}: {words}", user_message=user_message)

    @property
    def lost(self) -> bool:
        """Whether the response was lost, so the request may have been executed."""
        return self.status == 0 and not self.unsent

    @property
    def passing(self) -> bool:
        """Whether a retry may succeed: the API is away or busy, or had an internal error."""
        if self.distrusted or (self.status == 500 and any(words in self.message for words in _TOO_LARGE)):
            return False
        return self.status in (0, 408, 429) or (self.status >= 500 and self.status not in (501, 505))


def refusal(doing: str, status: int, body: bytes, *, retry_after: str | None = None) -> APIError:
    """The error for a response with an error status; *body* may be anything."""
    found = parse_status(body)
    known = retry_after is not None and retry_after.isascii() and retry_after.isdigit() and len(retry_after) < 10
    seconds = int(retry_after) if retry_after is not None and known else None
    if found is None:
        # Not the API's: a proxy's, often an HTML page.
        return APIError(doing, status=status, message=_plain(body), retry_after=seconds)
    return status_error(doing, found, status=status, retry_after=seconds)


def status_error(
    doing: str, found: Mapping[str, Any], *, status: int | None = None, retry_after: float | None = None
) -> APIError:
    """The error for a Status object; *status* is that of its HTTP response, None if it is part of a stream."""
    if status is None:
        told = found.get("code")
        status = told if type(told) is int and 400 <= told <= 599 else 500
    details = found.get("details")
    if retry_after is None and isinstance(details, dict):
        told = details.get("retryAfterSeconds")
        retry_after = float(told) if type(told) is int and 0 < told < 2**31 else None
    return APIError(
        doing,
        status=status,
        reason=_text(found, "reason"),
        message=_text(found, "message"),
        causes=causes_of(found),
        retry_after=retry_after,
    )


def parse_status(body: bytes) -> dict[str, Any] | None:
    """The Status object in *body*; None if it is something else."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and found.get("kind") in ("Status", None) else None


def causes_of(found: Mapping[str, Any]) -> dict[str, str]:
    """The causes in a Status object's details."""
    details = found.get("details")
    causes = details.get("causes") if isinstance(details, dict) else None
    if not isinstance(causes, list):
        return {}
    known = (cause for cause in causes[:_CAUSES_LIMIT] if isinstance(cause, dict))
    return {one_line(_text(cause, "reason"), _REASON_LIMIT): one_line(_text(cause, "message")) for cause in known}


def away(doing: str, exc: BaseException) -> APIError:
    """The error for an API server that cannot be reached, or whose connection broke."""
    why = "it closed the connection" if isinstance(exc, EOFError) or not str(exc) else describe(exc)
    unsent = isinstance(exc, aiohttp.ClientConnectorError)
    if isinstance(exc, aiohttp.ClientConnectorError):
        host = f"[{exc.host}]" if ":" in exc.host else exc.host
        why = f"{host}:{exc.port}: {describe(exc.os_error)}"
    distrusted = isinstance(exc, ssl.CertificateError) or isinstance(exc.__cause__, ssl.CertificateError)
    text = f"the API server is not available ({why})"
    return APIError(doing, status=0, message=text, distrusted=distrusted, unsent=unsent)


def broken(text: str) -> ProtocolError:
    """The error for an API server that violates the protocol."""
    return ProtocolError(KubernetesCode.PROTOCOL_ERROR, text)


def _plain(body: bytes) -> str:
    text = body[: 4 * _WORDS_LIMIT].decode("utf-8", "replace").strip()
    return "" if text.startswith("<") else text


def _text(found: Mapping[str, Any], name: str) -> str:
    value = found.get(name)
    return value if isinstance(value, str) else ""
