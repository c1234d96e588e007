"""Who is connected, and what the webhooks said about them (``webhooks.md`` section 3).

The values are immutable: an authentication attempt works on a copy of its own, so nothing that came with a refused
attempt can reach the login that follows it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Generic, Self, TypeVar

from containerssh.core.forwarding import ForwardRules

V = TypeVar("V", str, bytes)


@dataclass(frozen=True)
class Value(Generic[V]):
    """A value that a webhook returned; a sensitive one is used, but never sent on and never logged."""

    value: V
    sensitive: bool = False

    def __repr__(self) -> str:
        return "Value(<sensitive>)" if self.sensitive else f"Value({self.value!r})"


Texts = Mapping[str, Value[str]]
Files = Mapping[str, Value[bytes]]


@dataclass(frozen=True)
class SocketAddress:
    """An IP address and a TCP port; the address is normalised, IPv4-mapped ones to IPv4."""

    host: str
    port: int

    @classmethod
    def of(cls, host: str, port: int) -> Self:
        """From what ``getpeername`` gives; a zone index (``fe80::1%eth0``) is kept."""
        return cls(_normalised(host), port)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@lru_cache(1024)
def _normalised(host: str) -> str:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return str(address)


@dataclass(frozen=True)
class ConnectionMetadata:
    """A TCP connection: known from the moment it was accepted."""

    remote_address: SocketAddress
    connection_id: str
    """32 lower-case hexadecimal digits, random; the reference number in user messages and logs."""
    metadata: Texts = field(default_factory=dict)
    environment: Texts = field(default_factory=dict)
    files: Files = field(default_factory=dict)
    """Absolute path in the container to content."""

    def with_values(self, metadata: Texts, environment: Texts, files: Files) -> Self:
        """A copy with these entries added; they win over entries of the same name."""
        return replace(
            self,
            metadata={**self.metadata, **metadata},
            environment={**self.environment, **environment},
            files={**self.files, **files},
        )

    def without_sensitive(self) -> Self:
        """A copy without the sensitive entries: what a later webhook may see."""
        return replace(
            self,
            metadata={k: v for k, v in self.metadata.items() if not v.sensitive},
            environment={k: v for k, v in self.environment.items() if not v.sensitive},
            files={k: v for k, v in self.files.items() if not v.sensitive},
        )


@dataclass(frozen=True)
class AuthAttempt(ConnectionMetadata):
    """One authentication attempt: a connection, and the name given with this very attempt."""

    client_version: str = ""
    """The client's identification string without line end, ``SSH-2.0-OpenSSH_9.2p1``."""
    username: str = ""


@dataclass(frozen=True)
class Restrictions:
    """What a credential (an authorized key's options, a certificate) takes away from its login."""

    force_command: str | None = None
    environment: frozenset[str] = frozenset()
    """Names of variables that the credential sets; a client's own value for one of them does not count."""
    pty: bool = True
    port_forwarding: bool = True
    agent_forwarding: bool = True
    x11_forwarding: bool = True
    user_rc: bool = True
    touch_required: bool = True
    """A signature by a security key counts only if somebody touched the key for it."""
    verify_required: bool = False
    """It counts only if the security key knew by a PIN, or a fingerprint, who that was."""
    connections: tuple[ForwardRules, ...] = ()
    """A forwarded connection to a TCP port needs the consent of each of these, besides the configuration's."""
    listeners: tuple[ForwardRules, ...] = ()
    """The same for a TCP port that is listened on."""


@dataclass(frozen=True)
class LoginSpan:
    """The longest that a login may last."""

    longest: timedelta
    ends: datetime
    """Not before this moment (UTC) by our clock, which may be set: the end itself is measured otherwise."""

    @classmethod
    def from_now(cls, longest: timedelta) -> Self:
        """That of a login that has just been authenticated."""
        return cls(longest, datetime.now(UTC) + longest)


@dataclass(frozen=True)
class Login(AuthAttempt):
    """An authenticated connection: the result of the attempt that succeeded."""

    authenticated_username: str = ""
    """The name that authentication vouches for; empty when the webhook gave none."""
    restrictions: Restrictions = Restrictions()
    config_overlay: Mapping[str, object] = field(default_factory=dict, repr=False)
    """Configuration of this user alone (users file), merged by presence before the config server's answer."""
    span: LoginSpan | None = None
    """None: it may last as long as its user likes."""

    @classmethod
    def of(cls, attempt: AuthAttempt, authenticated_username: str, **more: object) -> Self:
        """The login that *attempt* earned."""
        known = {name: getattr(attempt, name) for name in attempt.__dataclass_fields__}
        return cls(**known, authenticated_username=authenticated_username, **more)  # type: ignore[arg-type]  # checked by the class
