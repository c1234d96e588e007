"""What the SSH server must be told; ``app.py`` builds it from the configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta


@dataclass(frozen=True)
class Limits:
    """What one peer may make us hold or do; each is generous to every real client that was tried."""

    unauthenticated: int = 1000
    """Connections that have not logged in yet; further ones are closed at once."""
    auth_tries: int = 6
    """Failed authentication tries of a connection; the first ``none`` is free."""
    auth_requests: int = 64
    """Authentication requests of a connection in all, accepted key questions included."""
    password_bytes: int = 8192
    sessions: int = 64
    """Session channels open at the same time on one connection."""
    env_count: int = 100
    env_bytes: int = 64 * 1024
    """Names and values together, per session."""
    queued_requests: int = 256
    """Channel requests waiting for the one before them to be answered, per session."""
    queued_bytes: int = 1024 * 1024
    unsent_bytes: int = 1024 * 1024
    """Bytes that the client has not taken yet, beyond the flow control of its channels."""
    rekey: timedelta = timedelta(seconds=60)
    """How long a key exchange of a logged-in connection may take."""


@dataclass(frozen=True)
class ServerOptions:
    """The ``ssh`` section of the configuration, as values."""

    host_keys: Sequence[str]
    """Private keys, each as text (PEM or OpenSSH) or as the path of a file."""
    host: str = "0.0.0.0"  # noqa: S104  upstream's default: a server that is meant to be reached
    """An address or name; every address it resolves to is bound. Empty: all interfaces, IPv4 and IPv6."""
    port: int = 2222
    """0 picks a free one, the same for all addresses."""
    server_version: str = "SSH-2.0-ContainerSSH"
    ciphers: Sequence[str] | None = None
    kex: Sequence[str] | None = None
    macs: Sequence[str] | None = None
    """Wire names; None: the defaults of :mod:`containerssh.ssh.algorithms`."""
    banner: str = ""
    client_alive_interval: timedelta = timedelta(0)
    """0: the client is not asked for signs of life."""
    client_alive_count_max: int = 3
    login_grace: timedelta = timedelta(seconds=120)
    """How long a client may take until it is authenticated; 0: for ever."""
    shutdown_grace: timedelta = timedelta(seconds=20)
    """How long running programs may go on after the server was asked to stop."""
    rekey_bytes: int = 1 << 30
    limits: Limits = field(default_factory=Limits)
