"""What may be forwarded: immutable rules, judged by the security layer and, for addresses, by the guest agent.

Names resolve inside the container, so the gateway can judge only what the client wrote. Where a rule speaks of networks,
the question goes on with :class:`AddressRules`: who connects judges each address that a name resolves to.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def plain_address(address: Address) -> Address:
    """
    The address that a connection to *address* reaches: no zone, an IPv4-mapped one as IPv4, and the unspecified one,
    which Linux takes for the machine itself, as the loopback address.
    """
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or ipaddress.IPv6Address(int(address))
    if address.is_unspecified:
        return ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")
    return address


@dataclass(frozen=True)
class AddressRules:
    """Which addresses one connection may go to, for the check after its name was resolved."""

    allowed: tuple[Network, ...] | None = None
    """Only addresses of these networks; ``None`` for any."""
    denied: tuple[Network, ...] = ()
    """No address of these networks, whatever is allowed."""

    def permits(self, address: Address) -> bool:
        """Whether a connection to *address* may be made."""
        address = plain_address(address)
        if any(address in network for network in self.denied):
            return False
        return self.allowed is None or any(address in network for network in self.allowed)


ANY_ADDRESS = AddressRules()
