"""Validation of a provider's responses, which are untrusted except for the identity of a user."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from containerssh.core.codes import OAuth2Code
from containerssh.core.errors import AuthUnavailable
from containerssh.web.client import Answer, WebhookError

DEFAULT_INTERVAL = 5.0
"""The default polling interval in seconds (RFC 8628 section 3.2)."""

_TOKEN_CHARACTERS = 32 * 1024
_URL_CHARACTERS = 2048
_USER_CODE_CHARACTERS = 64
_VISIBLE = re.compile(r"[\x21-\x7e]+")
_VISIBLE_WITH_BLANKS = re.compile(r"[\x20-\x7e]+")
# They could control the terminal or change the direction of text.
_UNSEEN = frozenset({"Cc", "Cf", "Co", "Cs", "Zl", "Zp"})


class OAuthRefusal(Exception):
    """The provider's error response (RFC 6749 section 5.2, RFC 8628 section 3.5)."""

    def __init__(self, error: str, interval: float | None = None) -> None:
        super().__init__(error)
        self.error = error
        self.interval = interval
        """The polling interval that the provider requests from now on, in seconds."""


@dataclass(frozen=True)
class Reply:
    """An HTTP response: its status, and its JSON object, which is empty if there is none."""

    status: int
    fields: Mapping[str, object]

    @classmethod
    def of(cls, answer: Answer) -> Reply:
        try:
            value = answer.json()
        except WebhookError:
            value = None
        return cls(answer.status, value if isinstance(value, dict) else {})

    @property
    def good(self) -> bool:
        return 200 <= self.status < 300

    @property
    def passing(self) -> bool:
        """Whether a retry may succeed."""
        return self.status >= 500 or self.status in (408, 429)

    def text(self, name: str) -> str:
        """The string in the field *name*; empty if missing."""
        value = self.fields.get(name)
        return value if isinstance(value, str) else ""

    @property
    def error(self) -> str:
        """The error code for logs and decisions; empty for none."""
        return shown(self.text("error"), 80)


@dataclass(frozen=True)
class Token:
    """An access token and the values issued with it."""

    access: str = field(repr=False)
    scopes: frozenset[str] | None
    """The granted scopes; None: as requested (RFC 6749 section 5.1)."""
    identity: str = field(default="", repr=False)
    """The ID token; empty if there is none."""
    refresh: str = field(default="", repr=False)


@dataclass(frozen=True)
class DeviceCode:
    """A device authorization response (RFC 8628 section 3.2)."""

    code: str = field(repr=False)
    user_code: str
    url: str
    lifetime: float
    interval: float


def read_token(reply: Reply) -> Token:
    """
    Parse the response of a token endpoint, whatever its status: GitHub reports errors with 200.

    Raises:
        OAuthRefusal: the provider refused the request.
        WebhookError: the response is invalid; a retry may succeed.
        AuthUnavailable: the token cannot be used.
    """
    if reply.status < 500 and (error := reply.error):
        raise OAuthRefusal(error, _number(reply.fields.get("interval")))
    if not reply.good or not reply.text("access_token"):
        raise unexpected(reply, "the token endpoint", OAuth2Code.TOKEN_INVALID)
    kind = reply.text("token_type")
    if kind and kind.lower() != "bearer":
        # RFC 6749 section 7.1: tokens of unknown type must not be used.
        raise AuthUnavailable(OAuth2Code.TOKEN_INVALID, f"the token has the unknown type {shown(kind, 40)!r}")
    scope = reply.fields.get("scope")
    return Token(
        _secret(reply, "access_token"),
        frozenset(re.split(r"[\s,]+", scope.strip())) - {""} if isinstance(scope, str) else None,
        _secret(reply, "id_token"),
        _secret(reply, "refresh_token"),
    )


def read_device_code(reply: Reply, *, secure: bool) -> DeviceCode:
    """
    Parse a device authorization response; *secure* requires an https link.

    Raises:
        OAuthRefusal, WebhookError, AuthUnavailable: as for a token.
    """
    if reply.status < 500 and (error := reply.error):
        raise OAuthRefusal(error)
    code, user_code = reply.text("device_code"), reply.text("user_code")
    if not reply.good or not code or not user_code:
        raise unexpected(reply, "the device authorization endpoint", OAuth2Code.DEVICE_CODE_REQUEST_FAILED)
    if len(user_code) > _USER_CODE_CHARACTERS or not _VISIBLE_WITH_BLANKS.fullmatch(user_code):
        raise AuthUnavailable(OAuth2Code.DEVICE_CODE_REQUEST_FAILED, "the user code is not one that could be typed")
    links = [reply.text(name) for name in ("verification_uri_complete", "verification_uri", "verification_url")]
    lifetime = _number(reply.fields.get("expires_in"))
    interval = _number(reply.fields.get("interval"))
    return DeviceCode(
        _secret(reply, "device_code"),
        user_code,
        checked_link(next(filter(None, links), ""), secure=secure),
        lifetime if lifetime is not None else 600.0,
        max(1.0, interval) if interval is not None else DEFAULT_INTERVAL,
    )


def checked_link(url: str, *, secure: bool) -> str:
    """
    Return *url* if it is safe to show to a user.

    Raises:
        AuthUnavailable: it is not a web address, or contains control characters.
    """
    try:
        parts = urlsplit(url)
        usable = parts.scheme in (("https",) if secure else ("http", "https")) and bool(parts.hostname)
    except ValueError:
        usable = False
    if not usable or len(url) > _URL_CHARACTERS or not _VISIBLE.fullmatch(url):
        raise AuthUnavailable(OAuth2Code.DEVICE_CODE_REQUEST_FAILED, "the provider's link cannot be shown to a user")
    return url


def unexpected(reply: Reply, what: str, code: OAuth2Code) -> WebhookError:
    """The error for an invalid response to *what*."""
    passing = reply.passing or reply.good
    return WebhookError(code, f"{what} answered with status {reply.status}, and nothing usable", passing=passing)


def shown(text: str, most: int = 200) -> str:
    """*text* in a form for users and logs: on one line, truncated."""
    return "".join(" " if unicodedata.category(char) in _UNSEEN else char for char in text[:most])


def is_visible(text: str) -> bool:
    """Whether *text* contains no control or bidirectional formatting characters."""
    return not any(unicodedata.category(char) in _UNSEEN for char in text)


def _secret(reply: Reply, name: str) -> str:
    value = reply.text(name)
    if value and (len(value) > _TOKEN_CHARACTERS or not _VISIBLE.fullmatch(value)):
        raise AuthUnavailable(OAuth2Code.TOKEN_INVALID, f"{name} is too long, or holds characters that it must not")
    return value


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
        return None
    return float(value)
