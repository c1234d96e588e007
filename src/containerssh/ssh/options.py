"""What the SSH server must be told; ``app.py`` builds it from the configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network

IPNetwork = IPv4Network | IPv6Network

LOOPBACK: tuple[IPNetwork, ...] = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))


@dataclass(frozen=True)
class Limits:
    """What one peer may make us hold or do; each is generous to every real client that was tried."""

    auth_tries: int = 6
    """Failed authentication tries of a connection; the first ``none`` is free."""
    auth_requests: int = 64
    """Authentication requests of a connection in all, accepted key questions included."""
    auth_calls: int = 16
    """How often an authenticator (a webhook, the users file) is asked for one connection."""
    password_bytes: int = 8192
    sessions: int = 100
    """Session channels open at the same time on one connection."""
    forwards: int = 512
    """Forwarded connections open at the same time on one connection, those of X11 and ssh-agents included."""
    pending_forwards: int = 128
    """How many of them may be waiting for their target in the container."""
    listeners: int = 64
    """What a client listens on in the container."""
    env_count: int = 100
    env_bytes: int = 64 * 1024
    """Names and values together, per session."""
    queued_requests: int = 256
    """Channel requests waiting for the one before them to be answered, per session."""
    queued_bytes: int = 1024 * 1024
    unsent_bytes: int = 1024 * 1024
    """Bytes that the client has not taken yet, beyond the flow control of its channels."""
    unsent_bytes_unauthenticated: int = 128 * 1024
    """The same before the login, when nobody has asked for anything large."""
    rekey: timedelta = timedelta(seconds=60)
    """How long a key exchange of a logged-in connection may take."""
    rekeys: int = 30
    """Key exchanges that a client may begin in a minute beside those that its traffic justifies."""
    unreachable: timedelta = timedelta(seconds=90)
    """After how long without any sign of the client's host a connection is given up; 0: when the kernel does."""


@dataclass(frozen=True)
class Penalties:
    """What a connection that ends without a login adds to the time that its source is refused for."""

    auth_failed: timedelta = timedelta(seconds=5)
    no_auth: timedelta = timedelta(seconds=1)
    """It left, or was sent away, before it tried to authenticate."""
    grace_exceeded: timedelta = timedelta(seconds=10)
    threshold: timedelta = timedelta(seconds=15)
    """A source is refused once it has gathered this much, and until all of it has passed."""
    longest: timedelta = timedelta(minutes=10)
    """No source gathers more."""
    sources: int = 65536
    """How many are remembered; then the one that failed longest ago is forgotten."""


@dataclass(frozen=True)
class Admission:
    """Who may connect; 0 is no limit. *Address* is one address, *prefix* the network that it lies in."""

    connections: int = 10_000
    connections_per_address: int = 1000
    connections_per_prefix: int = 2000
    unauthenticated_start: int = 300
    """From so many connections that have not logged in yet on, new ones are refused at random."""
    unauthenticated_rate: int = 30
    """Percentage that is refused at *start*; it grows to 100 at *full*."""
    unauthenticated_full: int = 1000
    unauthenticated_per_address: int = 100
    unauthenticated_per_prefix: int = 200
    prefix_ipv4: int = 24
    prefix_ipv6: int = 64
    penalties: Penalties | None = Penalties()
    """None: failures have no consequences."""
    allow: Sequence[IPNetwork] = LOOPBACK
    """Networks that only ``connections`` holds for."""


@dataclass(frozen=True)
class ServerOptions:
    """The ``ssh`` section of the configuration, as values."""

    host_keys: Sequence[str]
    """Private keys, each as text (PEM or OpenSSH) or as the path of a file."""
    host_certificates: Sequence[str] = ()
    """Certificates of them, each as text or as the path of a file."""
    host: str = "0.0.0.0"  # noqa: S104  upstream's default: a server that is meant to be reached
    """An address or name; every address it resolves to is bound. Empty: all interfaces, IPv4 and IPv6."""
    port: int = 2222
    """0 picks a free one, the same for all addresses."""
    server_version: str = "SSH-2.0-ContainerSSH"
    ciphers: Sequence[str] | None = None
    kex: Sequence[str] | None = None
    macs: Sequence[str] | None = None
    """Wire names; None: the defaults of :mod:`containerssh.ssh.algorithms`."""
    exchange_by_tickets: bool = False
    """Whether keys may also be exchanged by GSSAPI with Kerberos."""
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
    admission: Admission = field(default_factory=Admission)
    proxies: Sequence[IPNetwork] = ()
    """Who must begin each connection with a PROXY header; others must not."""
    proxy_header_within: timedelta = timedelta(seconds=5)
