"""Who is connected, and what the webhooks said about them (``webhooks.md`` section 3).

The values are immutable: an authentication attempt works on its own copy, so nothing from a refused attempt can
reach the login that follows it.
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
    """A value that a webhook returned. A sensitive one is neither sent to later webhooks nor logged."""

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
        """A copy with these entries added; they replace entries of the same name."""
        return replace(
            self,
            metadata={**self.metadata, **metadata},
            environment={**self.environment, **environment},
            files={**self.files, **files},
        )

    def without_sensitive(self) -> Self:
        """A copy without the sensitive entries, for later webhooks."""
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
    """Restrictions that a credential (an authorized key's options, a certificate) puts on its login."""

    force_command: str | None = None
    environment: frozenset[str] = frozenset()
    """Names of variables that the credential sets; the client's values for them are ignored."""
    pty: bool = True
    port_forwarding: bool = True
    agent_forwarding: bool = True
    x11_forwarding: bool = True
    user_rc: bool = True
    touch_required: bool = True
    """A security key must have been touched for its signature."""
    verify_required: bool = False
    """A security key must have verified its user by PIN or fingerprint."""
    connections: tuple[ForwardRules, ...] = ()
    """Rules for forwarded connections to TCP ports; each must permit them, in addition to the configuration."""
    listeners: tuple[ForwardRules, ...] = ()
    """The same for TCP ports to listen on."""


@dataclass(frozen=True)
class LoginSpan:
    """The maximum duration of a login."""

    longest: timedelta
    ends: datetime
    """The earliest end (UTC) by the system clock. The end itself is measured by the monotonic clock."""

    @classmethod
    def from_now(cls, longest: timedelta) -> Self:
        """The expiry of a login that has just been authenticated."""
        return cls(longest, datetime.now(UTC) + longest)


@dataclass(frozen=True)
class Login(AuthAttempt):
    """An authenticated connection: the result of the attempt that succeeded."""

    authenticated_username: str = ""
    """The authenticated name; empty if the webhook returned none."""
    restrictions: Restrictions = Restrictions()
    config_overlay: Mapping[str, object] = field(default_factory=dict, repr=False)
    """Configuration of this user alone (users file), merged by presence before the config server's answer."""
    span: LoginSpan | None = None
    """None: no limit."""

    @classmethod
    def of(cls, attempt: AuthAttempt, authenticated_username: str, **more: object) -> Self:
        """The login that results from *attempt*."""
        known = {name: getattr(attempt, name) for name in attempt.__dataclass_fields__}
        return cls(**known, authenticated_username=authenticated_username, **more)  # type: ignore[arg-type]  # checked by the class
