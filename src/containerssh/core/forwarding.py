"""What may be forwarded: immutable rules, judged by the security layer and, for addresses, by the guest agent.

Names resolve inside the container, so the gateway can judge only what the client wrote. Where a rule speaks of
networks, the question goes on with :class:`AddressRules`: who connects judges each address that a name resolves to.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Self

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_LONGEST_ZONE = 15


def plain_address(address: Address) -> Address:
    """
    The address that a connection to *address* reaches: no zone, an IPv4-mapped one as IPv4, and the unspecified one,
    which Linux takes for the machine itself, as the loopback address.
    """
    address = _unmapped(address)
    if address.is_unspecified:
        return ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")
    return address


def address_of(text: str) -> Address | None:
    """
    The address that a peer wrote, if it is one. To the library anything may be the zone of an IPv6 address; here it has
    to be what an interface can be named.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    zone = address.scope_id if address.version == 6 else None
    if zone is not None and not (
        len(zone) <= _LONGEST_ZONE and zone.isascii() and zone.isprintable() and " " not in zone
    ):
        return None
    return address


@dataclass(frozen=True)
class AddressRules:
    """Which addresses one connection may go to, for the check after its name was resolved."""

    allowed: tuple[Network, ...] | None = None
    """Only addresses of these networks; ``None`` for any."""
    denied: tuple[Network, ...] = ()
    """No address of these networks, whatever is allowed."""
    opened: tuple[Network, ...] = ()
    """Networks in which the server's own host may be reached: :meth:`apart_from_host`."""

    def permits(self, address: Address) -> bool:
        """Whether a connection to *address* may be made."""
        address = plain_address(address)
        if any(address in network for network in self.denied):
            return False
        return self.allowed is None or any(address in network for network in self.allowed)

    def apart_from_host(self, addresses: Iterable[Address]) -> Self:
        """The same rules, with *addresses* of the server's host denied, except for those that are opened."""
        closed = (one for one in addresses if not any(one in network for network in self.opened))
        return replace(self, denied=(*self.denied, *(ipaddress.ip_network(one) for one in closed)))

    def and_also(self, other: Self) -> Self:
        """Rules that permit what both permit. Of the server's host, they open what *self* opens."""
        if self.allowed is None or other.allowed is None:
            allowed = other.allowed if self.allowed is None else self.allowed
        else:
            both = (max(one, two, key=_length) for one in self.allowed for two in other.allowed if one.overlaps(two))
            allowed = tuple(dict.fromkeys(both))
        return replace(self, allowed=allowed, denied=(*self.denied, *other.denied))


ANY_ADDRESS = AddressRules()


@dataclass(frozen=True)
class Ports:
    """A range of TCP ports, both ends included; port 0 is what a client that listens on any free one asks for."""

    first: int = 0
    last: int = 65535

    @classmethod
    def parse(cls, text: str) -> Self:
        """``80``, ``8000-8999`` or ``*``; raises ValueError."""
        if text == "*":
            return cls()
        match = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", text)
        if not match:
            raise ValueError(f"{text!r} is neither a port, nor a range such as 8000-8999, nor *")
        ports = cls(int(match[1]), int(match[2] or match[1]))
        if not ports.first <= ports.last <= 65535:
            raise ValueError(f"{text!r} is not a range of ports")
        return ports

    def __contains__(self, port: int) -> bool:
        return self.first <= port <= self.last


_NAME = re.compile(r"[a-z0-9_.*?-]{1,253}")
_LOOPBACK: tuple[Network, ...] = (ipaddress.IPv4Network("127.0.0.0/8"), ipaddress.IPv6Network("::1/128"))
_EVERYWHERE: tuple[Network, ...] = (ipaddress.IPv4Network("0.0.0.0/0"), ipaddress.IPv6Network("::/0"))
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
_LONGEST_NAME = 255
_LONGEST_PATH = 107


@dataclass(frozen=True)
class Endpoint:
    """A pattern for hosts with ports: a name with wildcards, or networks."""

    name: str | None
    """Lower case; ``*`` and ``?`` as in file names. ``*`` alone stands for addresses as well."""
    networks: tuple[Network, ...]
    ports: Ports

    @classmethod
    def parse(cls, text: str) -> Self:
        """
        ``host``, ``host:port``, ``host:first-last``; *host* is a name, an address, a network such as ``10.0.0.0/8`` or
        ``[2001:db8::/32]``, or ``*``. ``localhost`` stands for the loopback networks.

        Raises:
            ValueError: it is none of these.
        """
        host, ports = _split(text)
        if host == "localhost":
            return cls(None, _LOOPBACK, ports)
        try:
            network: Network = ipaddress.ip_network(host)
        except ValueError as exc:
            if "/" in host or ":" in host:
                raise ValueError(f"{host!r} is not a network ({exc})") from None
        else:
            if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
                below = ipaddress.IPv4Address(int(network.network_address) & 0xFFFFFFFF)
                network = ipaddress.IPv4Network((below, network.prefixlen - 96))
            return cls(None, (network,), ports)
        name = _folded(host)
        if not _NAME.fullmatch(name):
            raise ValueError(f"{host!r} is neither a host name nor an address")
        if re.fullmatch(r"[0-9.*?]+", name) and name != "*":
            raise ValueError(f"{host!r} would match names only; write addresses as a network, such as 10.0.0.0/8")
        return cls(name, (), ports)

    @property
    def is_one_name(self) -> bool:
        """Whether it stands for a single name."""
        return self.name is not None and not set(self.name) & set("*?")

    def matches_name(self, host: str) -> bool:
        """Whether *host*, as the client wrote it, fits the name; never by network."""
        return self.name is not None and _glob(self.name, _folded(host), across="")


@dataclass(frozen=True)
class ForwardRules:
    """Which connections may be made, or which addresses listened on. What is denied is denied, whatever is allowed."""

    allow: tuple[Endpoint, ...] | None = None
    """Only these; ``None`` for all."""
    deny: tuple[Endpoint, ...] = ()

    @classmethod
    def parse(cls, allow: Sequence[str] | None, deny: Sequence[str]) -> Self:
        """From patterns as :meth:`Endpoint.parse` reads them; raises ValueError."""
        allowed = None if allow is None else tuple(Endpoint.parse(text) for text in allow)
        return cls(allowed, tuple(Endpoint.parse(text) for text in deny))

    def destination(self, host: str, port: int) -> AddressRules | None:
        """
        Whether a client may be connected to *host* and *port*: ``None`` if not, else what its addresses have to keep to
        once the name is resolved. An address is judged here already.
        """
        if len(host) > _LONGEST_NAME:
            return None
        denying = [one for one in self.deny if port in one.ports]
        if any(one.matches_name(host) for one in denying):
            return None
        allowed: tuple[Network, ...] | None = None
        opened: tuple[Network, ...] = ()
        if self.allow is not None:
            allowing = [one for one in self.allow if port in one.ports]
            if not any(one.matches_name(host) for one in allowing):
                allowed = _networks(allowing)
                if not allowed:
                    return None
            if any(one.is_one_name and one.matches_name(host) for one in allowing):
                opened = _EVERYWHERE
            else:
                opened = tuple(network for network in _networks(allowing) if network.num_addresses == 1)
        rules = AddressRules(allowed, _networks(denying), opened)
        literal = _address(host)
        return None if literal is not None and not rules.permits(literal) else rules

    def allows_listening(self, host: str, port: int) -> bool:
        """
        Whether a client may have *host* and *port* listened on; *host* as in RFC 4254 section 7.1.

        Port 0 is allowed by ``*`` or a range that begins at 0. The port that it became is to be asked for with
        :meth:`denies_listening`.
        """
        if len(host) > _LONGEST_NAME or self.denies_listening(host, port):
            return False
        if self.allow is None:
            return True
        allowing = [one for one in self.allow if port in one.ports]
        if any(one.matches_name(host) for one in allowing):
            return True
        # The first one stands for the others, which only an administrator of both families would have listed.
        return any(address in network for address in _bound(host)[:1] for network in _networks(allowing))

    def denies_listening(self, host: str, port: int) -> bool:
        """Whether one of the denied patterns speaks of *host* and *port*, or of a part of what *host* stands for."""
        denying = [one for one in self.deny if port in one.ports]
        if any(one.matches_name(host) for one in denying):
            return True
        networks, addresses = _networks(denying), _bound(host)
        if not addresses:
            # A name of the container's own could be any address.
            return bool(networks)
        return any(address.is_unspecified or address in network for network in networks for address in addresses)


@dataclass(frozen=True)
class PathRules:
    """
    Which unix sockets may be connected to, or listened on. What is denied is denied, whatever is allowed.

    Paths are judged as the client wrote them. So where there is any rule, a path has to be absolute, without ``.``,
    ``..`` and doubled slashes. Links inside the container are not followed: who can make one there needs no forward.
    """

    allow: tuple[str, ...] | None = None
    """Only these; ``None`` for all. ``*`` and ``?`` stop at a slash, ``**`` does not."""
    deny: tuple[str, ...] = ()

    @classmethod
    def parse(cls, allow: Sequence[str] | None, deny: Sequence[str]) -> Self:
        """Raises ValueError for a pattern that no path can match."""
        for pattern in (*(allow or ()), *deny):
            if not _is_canonical(pattern):
                raise ValueError(f"{pattern!r} is not an absolute path without . and ..")
        return cls(None if allow is None else tuple(allow), tuple(deny))

    def allows(self, path: str) -> bool:
        """Whether *path* passes."""
        if self.allow is None and not self.deny:
            return True
        if len(path) > _LONGEST_PATH or not _is_canonical(path):
            return False
        if any(_glob(pattern, path, across="/") for pattern in self.deny):
            return False
        return self.allow is None or any(_glob(pattern, path, across="/") for pattern in self.allow)


def _split(text: str) -> tuple[str, Ports]:
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f"{text!r}: an IPv6 address with a port is written [address]:port")
        return host, Ports.parse(rest[1:]) if rest else Ports()
    if text.count(":") > 1:
        return text, Ports()
    host, colon, ports = text.partition(":")
    return host, Ports.parse(ports) if colon else Ports()


def _length(network: Network) -> int:
    return network.prefixlen


def _unmapped(address: Address) -> Address:
    if isinstance(address, ipaddress.IPv6Address):
        return address.ipv4_mapped or ipaddress.IPv6Address(int(address))
    return address


def _address(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _folded(host: str) -> str:
    """Names are the same in any case, and with the dot that ends an absolute one."""
    return host.lower().removesuffix(".")


def _networks(endpoints: Iterable[Endpoint]) -> tuple[Network, ...]:
    return tuple(network for one in endpoints for network in one.networks)


def _bound(host: str) -> tuple[Address, ...]:
    """What a client's bind address stands for; empty for a name of the container's own."""
    if host in ("", "*"):
        return ipaddress.IPv4Address(0), ipaddress.IPv6Address(0)
    if _folded(host) == "localhost":
        return ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1")
    address = _address(host)
    return () if address is None else (_unmapped(address),)


def _is_canonical(path: str) -> bool:
    parts = path.split("/")
    return "\0" not in path and len(parts) > 1 and not parts[0] and not {"", ".", ".."} & set(parts[1:])


def _glob(pattern: str, text: str, *, across: str) -> bool:
    """
    Whether all of *text* fits *pattern*: ``?`` is one character but *across*, ``*`` any number of them, ``**`` of any.

    All ways to match are followed at once, so that a hostile text costs no more than its length times the pattern's.
    """
    parts = re.findall(r"\*\*|.", pattern, re.DOTALL)
    stars = {index for index, part in enumerate(parts) if part in ("*", "**")}

    def settled(places: set[int]) -> set[int]:
        """*places* and those behind the stars that may match nothing."""
        reached, new = set(places), set(places)
        while new:
            new = {place + 1 for place in new if place in stars} - reached
            reached |= new
        return reached

    places = settled({0})
    for character in text:
        stepped = set()
        for place in places:
            part = parts[place] if place < len(parts) else ""
            if part == "**" or (part == "*" and character != across):
                stepped.add(place)
            elif part == character or (part == "?" and character != across):
                stepped.add(place + 1)
        places = settled(stepped)
    return len(parts) in places
