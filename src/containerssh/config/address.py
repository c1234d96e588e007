"""Addresses to listen on, and those of this machine."""

from __future__ import annotations

import ipaddress


def split_address(address: str) -> tuple[str, int]:
    """
    ``host:port`` as its two parts; an IPv6 address stands in brackets, an empty host means every interface.

    Raises:
        ValueError: it is written differently.
    """
    host, colon, port = address.rpartition(":")
    if not colon:
        raise ValueError(f"{address!r} is not a host:port")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{address!r}: write an IPv6 address in brackets, [{host}]:{port}")
    if not (port.isascii() and port.isdigit()) or int(port) > 65_535:
        raise ValueError(f"{address!r}: {port!r} is not a port")
    return host, int(port)


def is_local(host: str) -> bool:
    """Whether a name or an address is this machine's own."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
