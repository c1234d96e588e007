"""The ``ssh`` section (``config.md`` section 4.1)."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, field_validator
from pydantic.alias_generators import to_camel

from containerssh.config.address import split_address
from containerssh.config.host_keys import check_private_key, read_host_certificate
from containerssh.config.model import ConfigModel, Duration, Problem, Secret, default_for_zero, seconds

KEX = (
    "mlkem768x25519-sha256",
    "curve25519-sha256",
    "curve25519-sha256@libssh.org",
    "ecdh-sha2-nistp256",
    "ecdh-sha2-nistp384",
    "ecdh-sha2-nistp521",
)
"""A client's order decides which of them is used (RFC 4253 section 7.1)."""

OTHER_KEX = (
    "diffie-hellman-group14-sha256",
    "diffie-hellman-group16-sha512",
    "diffie-hellman-group18-sha512",
    "diffie-hellman-group14-sha1",
    "diffie-hellman-group1-sha1",
)
"""Finite fields cost the server much more than the client: only on request."""

CIPHERS = (
    "chacha20-poly1305@openssh.com",
    "aes256-gcm@openssh.com",
    "aes128-gcm@openssh.com",
    "aes256-ctr",
    "aes192-ctr",
    "aes128-ctr",
)

OTHER_CIPHERS = (
    "aes256-cbc",
    "aes192-cbc",
    "aes128-cbc",
    "3des-cbc",
    "arcfour256",
    "arcfour128",
    "arcfour",
)

MACS = (
    "hmac-sha2-256-etm@openssh.com",
    "hmac-sha2-512-etm@openssh.com",
    "hmac-sha2-256",
    "hmac-sha2-512",
)

OTHER_MACS = (
    "hmac-sha1-etm@openssh.com",
    "hmac-sha1",
    "hmac-sha1-96",
)

_MISNAMED = {
    # Upstream's name for a cipher that every client calls otherwise.
    "tripledescbcID": "3des-cbc",
}


def _known(*names: str) -> AfterValidator:
    def check(chosen: tuple[str, ...]) -> tuple[str, ...]:
        settled = tuple(dict.fromkeys(_MISNAMED.get(name, name) for name in chosen))
        for name in settled:
            if name not in names:
                raise ValueError(f"{name!r} is not supported; known are {', '.join(names)}")
        return settled

    return AfterValidator(check)


KexList = Annotated[tuple[str, ...], _known(*KEX, *OTHER_KEX)]
CipherList = Annotated[tuple[str, ...], _known(*CIPHERS, *OTHER_CIPHERS)]
MACList = Annotated[tuple[str, ...], _known(*MACS, *OTHER_MACS)]

_VERSION = re.compile(r"SSH-2\.0-[!-,.-~]+( [a-zA-Z0-9\- _.]+)?")


def check_version(version: str) -> str:
    """An SSH identification string (RFC 4253 section 4.2); raises ValueError."""
    if len(version.encode()) > 253 or not _VERSION.fullmatch(version):
        raise ValueError("a server version looks like SSH-2.0-Name or SSH-2.0-Name comment, at most 253 bytes")
    return version


Count = Annotated[int, Field(ge=0, le=1_000_000)]
Bytes = Annotated[int, Field(ge=64 * 1024, le=1 << 30)]


def _network(text: str) -> str:
    """A network in CIDR notation, or an address, as the standard library writes it; raises ValueError."""
    try:
        network = ipaddress.ip_network(text)
    except ValueError as exc:
        raise ValueError(f"{text!r} is not a network such as 192.0.2.0/24: {exc}") from None
    mapped = network.network_address.ipv4_mapped if isinstance(network, ipaddress.IPv6Network) else None
    # Clients' addresses are compared as IPv4 where they are IPv4 written as IPv6.
    return f"{mapped}/{network.prefixlen - 96}" if mapped and network.prefixlen >= 96 else str(network)


Network = Annotated[str, AfterValidator(_network)]
"""A network, or one address."""


class UnauthenticatedConfig(ConfigModel):
    """Random early drop: how many connections may be logging in at the same time, in total."""

    start: Count = 300
    """From this number on, each new connection causes one to be dropped, with a probability of `rate` percent that
    rises to 100 at `full`: the longest waiting one of the network with the most of them, or the new one if it is from
    there."""

    rate: Annotated[int, Field(ge=0, le=100)] = 30
    """The percentage at `start`."""

    full: Count = 1000
    """At this number, each new connection causes one to be dropped. 0: no limit."""


class PenaltiesConfig(ConfigModel):
    """What a connection that ends without a login costs its address (with IPv6, its network)."""

    enable: bool = True
    """Whether failures have consequences for later connections."""

    auth_failed: Duration = seconds(5)
    """For a connection whose authentication failed."""

    no_auth: Duration = seconds(1)
    """For a connection that ended without an attempt to authenticate."""

    grace_exceeded: Duration = seconds(10)
    """For a connection that exceeded `loginGraceTime`."""

    threshold: Duration = seconds(15)
    """An address with this much is refused until all its penalties have expired."""

    max: Duration = seconds(600)
    """The most that an address can have."""

    sources: Annotated[int, Field(ge=1, le=10_000_000)] = 65_536
    """How many addresses are remembered, with about 200 bytes each."""

    def problems(self) -> Iterator[Problem]:
        for key in ("auth_failed", "no_auth", "grace_exceeded"):
            if getattr(self, key) < seconds(0):
                yield Problem(to_camel(key), "must not be negative")
        if self.threshold <= seconds(0):
            yield Problem("threshold", "must be more than 0")
        if self.max < self.threshold:
            yield Problem("max", "must not be less than threshold")


class LimitsConfig(ConfigModel):
    """Limits for one peer and for all of them together. Where 0 is allowed, it means no limit."""

    connections: Count = 10_000
    """Connections in total."""

    connections_per_address: Count = 1000
    """Connections from one address."""

    connections_per_prefix: Count = 2000
    """Connections from one network of `prefixIPv4` or `prefixIPv6` bits."""

    unauthenticated: UnauthenticatedConfig = UnauthenticatedConfig.default()

    unauthenticated_per_address: Count = 100
    """Connections from one address that have not logged in yet."""

    unauthenticated_per_prefix: Count = 200
    """Connections from one network that have not logged in yet."""

    prefix_ipv4: Annotated[int, Field(ge=1, le=32, alias="prefixIPv4")] = 24
    """The length of an IPv4 network's prefix, in bits."""

    prefix_ipv6: Annotated[int, Field(ge=1, le=128, alias="prefixIPv6")] = 64
    """The length of an IPv6 network's prefix, in bits; with IPv6, penalties apply to networks."""

    penalties: PenaltiesConfig = PenaltiesConfig.default()

    allow: tuple[Network, ...] = ("127.0.0.0/8", "::1/128")
    """Networks that only `connections` applies to: a monitoring system, a proxy that does not send addresses."""

    auth_requests: Count = 64
    """Authentication requests of a connection, queries about keys included; at least twice `ssh.maxAuthTries`."""

    auth_calls: Count = 16
    """How often a webhook, or the users file, is consulted for one connection; at least `ssh.maxAuthTries`."""

    forwards: Annotated[int, Field(ge=1, le=10_000)] = 512
    """Open forwarded connections of a connection, including those to an ssh-agent or a display."""

    pending_forwards: Annotated[int, Field(ge=1, le=1000)] = 128
    """How many of them may be waiting for their target in the container."""

    listeners: Annotated[int, Field(ge=1, le=1000)] = 64
    """Ports and sockets that a connection listens on in the container."""

    env_count: Count = 100
    """Environment variables of a session."""

    env_bytes: Count = 65_536
    """The total size of their names and values."""

    queued_requests: Annotated[int, Field(ge=16, le=65_536)] = 256
    """Requests of a channel that wait for an earlier one to be answered."""

    queued_bytes: Bytes = 1_048_576
    """The total size of waiting requests."""

    unsent_bytes: Bytes = 1_048_576
    """Replies that a logged-in client may leave unread; an eighth of it before the login."""

    rekey_time: Duration = seconds(60)
    """How long a key exchange of a logged-in connection may take."""

    rekeys: Count = 30
    """How many key exchanges a client may start per minute, besides one per 256 KiB transferred."""

    unreachable: Duration = seconds(90)
    """How long the client's host may be unreachable; 0: as long as the system allows."""

    def problems(self) -> Iterator[Problem]:
        if self.unauthenticated.full and self.unauthenticated.start > self.unauthenticated.full:
            yield Problem("unauthenticated.start", "must not be more than full")
        for problem in self.penalties.problems():
            yield problem.under("penalties")
        if self.rekey_time < seconds(1):
            yield Problem("rekeyTime", "must be at least 1s")
        if self.unreachable and self.unreachable < seconds(5):
            yield Problem("unreachable", "must be 0 or at least 5s")


class ProxyProtocolConfig(ConfigModel):
    """Proxies in front of the server that send the client's address (PROXY protocol, versions 1 and 2)."""

    trusted: tuple[Network, ...] = ()
    """Addresses of the proxies. A connection from them must begin with a header; from others a header is refused."""

    timeout: Duration = seconds(5)
    """How long the header may take to arrive."""

    def problems(self) -> Iterator[Problem]:
        if self.timeout <= seconds(0):
            yield Problem("timeout", "must be more than 0")


class SSHConfig(ConfigModel):
    """The SSH server itself: where it listens, its host keys, its algorithms."""

    listen: str = "0.0.0.0:2222"
    """`host:port` to listen on. `[::]:2222` accepts IPv6 and IPv4."""

    server_version: Annotated[str, AfterValidator(check_version)] = "SSH-2.0-ContainerSSH"
    """The server's identification string: `SSH-2.0-` and a name, optionally a blank and a comment."""

    ciphers: CipherList = CIPHERS
    """Ciphers, best first. Weak ones (`aes128-cbc`, `arcfour`...) are offered only when listed here."""

    kex: KexList = KEX
    """Key exchange methods, best first; the client's order decides. Weak ones are offered only when listed here."""

    macs: MACList = MACS
    """Message authentication codes, best first. They are not used with chacha20-poly1305 and AES-GCM."""

    banner: str = ""
    """Text shown to a client before it authenticates."""

    hostkeys: tuple[Secret, ...] = Field((), alias="hostkeys")
    """Private host keys without passphrase (Ed25519, ECDSA or RSA): PEM text or file names. Empty: keys are generated
    at the first start and kept in `hostKeyDirectory`."""

    host_certificates: tuple[str, ...] = ()
    """Certificates of the host keys, made with `ssh-keygen -s ... -h`: their text or file names. Clients
    that trust the authority (`@cert-authority` in known_hosts) then need not know the keys."""

    host_key_directory: str = ""
    """Where generated host keys are kept. Empty: `hostkeys` in the server's state folder."""

    client_alive_interval: Duration = seconds(0)
    """How often a silent client is probed; at least a second, or 0 for never."""

    client_alive_count_max: Annotated[int, Field(ge=0)] = 3
    """After how many unanswered probes the connection is closed; 0 means the default."""

    _zero_count = field_validator("client_alive_count_max")(default_for_zero)

    login_grace_time: Duration = seconds(120)
    """How long a client may take to authenticate; 0 for no limit."""

    shutdown_grace_time: Duration = seconds(20)
    """How long programs may continue after they were asked to end because the server stops."""

    max_auth_tries: Annotated[int, Field(ge=1, le=1000)] = 6
    """How many failed authentication attempts a connection may have."""

    max_sessions_per_connection: Annotated[int, Field(ge=1, le=100_000)] = 100
    """How many sessions of one connection may be open at once, whatever `security.maxSessions` says."""

    limits: LimitsConfig = LimitsConfig.default()

    proxy_protocol: ProxyProtocolConfig = ProxyProtocolConfig.default()

    def problems(self) -> Iterator[Problem]:
        for problem in self.limits.problems():
            yield problem.under("limits")
        for problem in self.proxy_protocol.problems():
            yield problem.under("proxyProtocol")
        try:
            split_address(self.listen)
        except ValueError as exc:
            yield Problem("listen", str(exc))
        for path, names in (("ciphers", self.ciphers), ("kex", self.kex), ("macs", self.macs)):
            if not names:
                yield Problem(path, "the list must not be empty")
        if self.client_alive_interval and self.client_alive_interval < seconds(1):
            yield Problem("clientAliveInterval", "must be 0 or at least 1s")
        if self.login_grace_time < seconds(0):
            yield Problem("loginGraceTime", "must not be negative")
        if self.shutdown_grace_time < seconds(0):
            yield Problem("shutdownGraceTime", "must not be negative")
        for number, key in enumerate(self.hostkeys):
            try:
                check_private_key(key.get_secret_value())
            except ValueError as exc:
                yield Problem(f"hostkeys.{number}", str(exc))
        for number, certificate in enumerate(self.host_certificates):
            try:
                read_host_certificate(certificate)
            except ValueError as exc:
                yield Problem(f"hostCertificates.{number}", str(exc))
        if self.host_key_directory and not Path(self.host_key_directory).is_absolute():
            yield Problem("hostKeyDirectory", "must be an absolute path")
