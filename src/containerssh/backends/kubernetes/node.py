"""The node of a pod, as far as forwards are concerned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from containerssh.backends.host_addresses import HostAddresses, host_addresses, no_addresses, usable
from containerssh.core.forwarding import Address


def addresses_of_node(pod: Mapping[str, Any]) -> HostAddresses:
    """The addresses of this machine and of the node that runs *pod*; none if the pod is in the node's network."""
    status = pod.get("status")
    if not isinstance(status, Mapping):
        return host_addresses
    ips = status.get("hostIPs")
    more = (one.get("ip") for one in (ips if isinstance(ips, list) else ()) if isinstance(one, Mapping))
    texts = [text for text in (status.get("hostIP"), *more) if isinstance(text, str)]
    if status.get("podIP") in texts:
        return no_addresses
    node = usable(texts)

    async def both() -> tuple[Address, ...]:
        return (*await host_addresses(), *node)

    return both
