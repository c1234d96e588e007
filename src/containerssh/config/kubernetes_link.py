"""``kubernetes.agentLink``: how agents in pods are connected to the server."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import Literal

from pydantic import field_validator

from containerssh.config.model import ConfigModel, Duration, Problem, default_for_zero, seconds

ADVERTISE = "CONTAINERSSH_ADVERTISE"
"""The environment variable with the address at which pods reach this process, if none is configured."""

_PLACE = re.compile(r"(?:\[(?P<six>[^\]]+)\]|(?P<four>[^:\[\]]+)):(?P<first>\d{1,5})(?:-(?P<last>\d{1,5}))?")
_NAME = re.compile(r"[0-9A-Za-z._-]{1,253}")


class KubernetesAgentLinkConfig(ConfigModel):
    """How the server's agent in a pod is connected to the server."""

    mode: Literal["exec", "direct", "auto"] = "exec"
    """``exec``: through the API server. ``direct``: the agent connects to the server by TLS; if it cannot, the login
    fails. ``auto``: direct if possible, otherwise through the API server."""

    listen: str = "0.0.0.0:0"
    """Where each server process listens for agents: a numeric address (``[::]`` for IPv6 and IPv4) and a port, 0 for
    any, or a range (``0.0.0.0:7000-7015``) of which each process uses the first free port."""

    advertise: str = ""
    """The address or host name at which pods reach this process itself. Empty: the environment variable
    ``CONTAINERSSH_ADVERTISE``, or else the local address of the server's connection to the API, which is right if the
    server runs in the cluster."""

    timeout: Duration = seconds(3)
    """How long an agent may take to connect. With ``auto``, each login waits this long if a firewall drops
    connections."""

    _zeros = field_validator("timeout")(default_for_zero)

    @property
    def place(self) -> tuple[str, range]:
        """The address and the ports of ``listen``. Raises ValueError."""
        found = _PLACE.fullmatch(self.listen)
        if found is None:
            raise ValueError("must be a numeric address and a port, such as 0.0.0.0:7000")
        host = str(ipaddress.ip_address(found["six"] or found["four"]))
        first = int(found["first"])
        last = int(found["last"] or first)
        if not first <= last < 65536 or (first == 0 and last):
            raise ValueError("has no such ports")
        return host, range(first, last + 1)

    def problems(self) -> Iterator[Problem]:
        try:
            _ = self.place
        except ValueError as exc:
            yield Problem("listen", str(exc))
        if self.timeout > seconds(60):
            yield Problem("timeout", "must be at most 60s: a login waits for it")
        if self.advertise and not (_NAME.fullmatch(self.advertise) or _is_address(self.advertise)):
            yield Problem("advertise", "must be an address or a name, without a port")


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
