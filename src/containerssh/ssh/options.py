"""The options of the SSH server; :mod:`containerssh.settings` builds them from the configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network

IPNetwork = IPv4Network | IPv6Network

LOOPBACK: tuple[IPNetwork, ...] = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))


@dataclass(frozen=True)
class Limits:
    """The limits on one peer's use of resources; the defaults are generous to all tested clients."""

    auth_tries: int = 6
    """Failed authentication attempts per connection; the first ``none`` is not counted."""
    auth_requests: int = 64
    """All authentication requests per connection, accepted public key queries included."""
    auth_calls: int = 16
    """Calls of an authenticator (a webhook, the users file) per connection."""
    password_bytes: int = 8192
    sessions: int = 100
    """Session channels open at the same time on one connection."""
    forwards: int = 512
    """Forwarded connections open at the same time on one connection, those of X11 and ssh-agents included."""
    pending_forwards: int = 128
    """How many of them may wait for their target in the container."""
    listeners: int = 64
    """Listeners of a client in the container."""
    env_count: int = 100
    env_bytes: int = 64 * 1024
    """Names and values together, per session."""
    queued_requests: int = 256
    """Channel requests waiting for the one before them to be answered, per session."""
    queued_bytes: int = 1024 * 1024
    unsent_bytes: int = 1024 * 1024
    """Unsent output in bytes, beyond the flow control of channels."""
    unsent_bytes_unauthenticated: int = 128 * 1024
    """The same before authentication."""
    rekey: timedelta = timedelta(seconds=60)
    """How long a key exchange of a logged-in connection may take."""
    rekeys: int = 30
    """Key exchanges per minute that a client may begin beyond those justified by traffic."""
    unreachable: timedelta = timedelta(seconds=90)
    """
    The time without any response of the client's host after which the connection is closed; 0 leaves this to the
    kernel.
    """


@dataclass(frozen=True)
class Penalties:
    """The penalties of connections that end without a login: how much longer their source is refused."""

    auth_failed: timedelta = timedelta(seconds=5)
    no_auth: timedelta = timedelta(seconds=1)
    """The client disconnected, or was disconnected, before it tried to authenticate."""
    grace_exceeded: timedelta = timedelta(seconds=10)
    threshold: timedelta = timedelta(seconds=15)
    """A source is refused once its penalties reach this value, until they have expired."""
    longest: timedelta = timedelta(minutes=10)
    """The maximum penalty of a source."""
    sources: int = 65536
    """The number of sources that are remembered; the one that failed longest ago is dropped first."""


@dataclass(frozen=True)
class Admission:
    """Admission limits; 0 means no limit. *Address* is a single address, *prefix* the network that contains it."""

    connections: int = 10_000
    connections_per_address: int = 1000
    connections_per_prefix: int = 2000
    unauthenticated_start: int = 300
    """The number of unauthenticated connections above which new ones are dropped at random."""
    unauthenticated_rate: int = 30
    """The percentage that is dropped at *start*; it grows to 100 at *full*."""
    unauthenticated_full: int = 1000
    unauthenticated_per_address: int = 100
    unauthenticated_per_prefix: int = 200
    prefix_ipv4: int = 24
    prefix_ipv6: int = 64
    penalties: Penalties | None = Penalties()
    """None disables penalties."""
    allow: Sequence[IPNetwork] = LOOPBACK
    """Networks that are exempt from all limits but ``connections``."""


@dataclass(frozen=True)
class ServerOptions:
    """The ``ssh`` section of the configuration, as values."""

    host_keys: Sequence[str]
    """Private keys, each as text (PEM or OpenSSH) or the path of a file."""
    host_certificates: Sequence[str] = ()
    """Their certificates, each as text or the path of a file."""
    host: str = "0.0.0.0"  # noqa: S104  upstream's default: a server that is meant to be reached
    """An address or host name; all addresses that it resolves to are bound. Empty: all interfaces, IPv4 and IPv6."""
    port: int = 2222
    """0 selects a free port, the same for all addresses."""
    server_version: str = "SSH-2.0-ContainerSSH"
    ciphers: Sequence[str] | None = None
    kex: Sequence[str] | None = None
    macs: Sequence[str] | None = None
    """Wire names; None: the defaults of :mod:`containerssh.ssh.algorithms`."""
    exchange_by_tickets: bool = False
    """Whether GSSAPI key exchange (Kerberos) is offered."""
    banner: str = ""
    client_alive_interval: timedelta = timedelta(0)
    """The interval of keepalive requests; 0 disables them."""
    client_alive_count_max: int = 3
    login_grace: timedelta = timedelta(seconds=120)
    """The time limit for authentication; 0 means none."""
    shutdown_grace: timedelta = timedelta(seconds=20)
    """How long running programs may go on after the server was asked to stop."""
    rekey_bytes: int = 1 << 30
    limits: Limits = field(default_factory=Limits)
    admission: Admission = field(default_factory=Admission)
    proxies: Sequence[IPNetwork] = ()
    """Proxies that must begin each connection with a PROXY header; other clients must not send one."""
    proxy_header_within: timedelta = timedelta(seconds=5)
