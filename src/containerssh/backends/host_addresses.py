"""The addresses of the server's own host, as seen from containers; forwards lead there only if that is allowed."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Awaitable, Callable, Iterable

import ifaddr

from containerssh.core.forwarding import Address

HostAddresses = Callable[[], Awaitable[tuple[Address, ...]]]
"""Returns the addresses at the moment. Raises BackendError: they cannot be determined."""

_FRESH = 10.0
"""Seconds for which the interfaces' addresses are assumed to stay the same."""

_latest: tuple[float, tuple[Address, ...]] = (-_FRESH, ())


async def host_addresses() -> tuple[Address, ...]:
    """The addresses of this machine's interfaces, or of the server's own container; without loopback addresses."""
    global _latest
    now = time.monotonic()
    if now - _latest[0] >= _FRESH:
        found = (ip.ip for adapter in ifaddr.get_adapters() for ip in adapter.ips)
        _latest = now, usable(ip if isinstance(ip, str) else ip[0] for ip in found)
    return _latest[1]


async def no_addresses() -> tuple[Address, ...]:
    """For containers that are meant to be in the host's network."""
    return ()


def usable(texts: Iterable[str]) -> tuple[Address, ...]:
    """The addresses among *texts*, without those that mean the container itself."""
    found = []
    for text in dict.fromkeys(texts):
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            continue
        if not address.is_loopback and not address.is_unspecified:
            found.append(address)
    return tuple(found)
