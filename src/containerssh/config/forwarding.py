"""The section ``security.forwarding`` (``config.md`` section 4.8); the lists, and ssh-agent forwarding, are ours."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from containerssh.config.model import ConfigModel
from containerssh.core.forwarding import Endpoint, PathRules

_MOST = 256
"""Patterns in one list: each connection to a name carries their networks to the agent."""


def not_deny(value: Any) -> Any:
    """Refuse what old manuals call the mode; for modes that are a ``Literal``."""
    if value == "deny":
        raise ValueError("'deny' is written disable")
    return value


def _endpoint(text: str) -> str:
    Endpoint.parse(text)
    return text


def _path(text: str) -> str:
    PathRules.parse((text,), ())
    return text


ForwardingMode = Annotated[Literal["enable", "filter", "disable"], BeforeValidator(not_deny)]
"""Not empty: forwarding does not follow `defaultMode`, as upstream."""
Endpoints = Annotated[tuple[Annotated[str, AfterValidator(_endpoint)], ...], Field(max_length=_MOST)]
Paths = Annotated[tuple[Annotated[str, AfterValidator(_path)], ...], Field(max_length=_MOST)]


class ForwardingConfig(ConfigModel):
    """Which connections may be forwarded. Except for ssh-agents, none are unless one of these modes is `enable` or
    `filter`."""

    forwarding_mode: ForwardingMode = "disable"
    """Connections from the client to the container's network (`ssh -L`, `-D`, `-W`, `-J`). `enable`: all but those in
    `forwardingDeny`. `filter`: of these, only those in `forwardingAllow`. `disable`: none."""

    forwarding_allow: Endpoints = ()
    """Allowed in mode `filter`: `host`, `host:port`, `host:8000-8999` or `host:*`, where the host is a name with `*`
    and `?`, an address, a network such as `10.0.0.0/8` or `[2001:db8::/32]`, or `*` for any. Names are compared with
    what the client wrote, networks with what it resolves to inside the container. `localhost` means the loopback
    networks. The addresses of the server's host are allowed only if they, or their name, are listed by themselves."""

    forwarding_deny: Endpoints = ()
    """Refused in every mode; written as in `forwardingAllow`."""

    reverse_forwarding_mode: ForwardingMode = "disable"
    """Connections from the container's network to the client (`ssh -R`), by the address and port that are listened on
    in the container. `enable`: all but those in `reverseForwardingDeny`. `filter`: of these, only those in
    `reverseForwardingAllow`. `disable`: none."""

    reverse_forwarding_allow: Endpoints = ()
    """Allowed in mode `filter`, written as in `forwardingAllow`. OpenSSH requests `localhost` if the user gives no
    address. `0.0.0.0` means all addresses. Port 0 requests any free port: `*`, or a range that starts at 0, allows
    it."""

    reverse_forwarding_deny: Endpoints = ()
    """Refused in every mode. A request for all addresses is refused if one of them is denied."""

    socket_forwarding_mode: ForwardingMode = "disable"
    """Connections from the client to unix sockets in the container (`ssh -L port:/path`), with lists as above."""

    socket_forwarding_allow: Paths = ()
    """Allowed in mode `filter`: absolute paths. `*` and `?` stop at a slash, `**` does not."""

    socket_forwarding_deny: Paths = ()
    """Refused in every mode. Paths are compared as the client wrote them; where there is a list, paths that are not
    absolute, or contain `.`, `..` or double slashes, are refused."""

    socket_listen_mode: ForwardingMode = "disable"
    """Connections from unix sockets in the container to the client (`ssh -R /path:...`), with lists as above."""

    socket_listen_allow: Paths = ()
    """Allowed in mode `filter`, written as in `socketForwardingAllow`."""

    socket_listen_deny: Paths = ()
    """Refused in every mode."""

    x11_forwarding_mode: ForwardingMode = Field("disable", alias="x11ForwardingMode")
    """X11 connections of programs in the container (`ssh -X`). `filter` refuses, as there is nothing to filter."""

    agent_forwarding_mode: ForwardingMode | Literal[""] = ""
    """The client's ssh-agent (`ssh -A`): whoever controls the container can use the user's keys while the connection
    lasts. `filter` refuses, as there is nothing to filter. Empty: as `defaultMode`, since it exposes nothing of the
    operator's."""
