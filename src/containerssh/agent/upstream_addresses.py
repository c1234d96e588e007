"""Validation of hosts, addresses and sockets in requests to upstream's helper (``agent.md``)."""

from __future__ import annotations

from containerssh.core.codes import AgentCode, SecurityCode
from containerssh.core.errors import BackendError, Rejected
from containerssh.core.forwarding import AddressRules, address_of
from containerssh.core.text import printable

_LONGEST_HOST, _LONGEST_PATH = 255, 107


def permitted(host: str, addresses: AddressRules) -> str:
    """The host that the helper should dial for *host*; raises Rejected, BackendError."""
    literals = ("127.0.0.1", "::1") if host == "localhost" else (host,)
    if addresses.allowed is not None or addresses.denied:
        known = [address for address in map(address_of, literals) if address is not None]
        if not known:
            text = "a name cannot be judged by its addresses without the server's own agent"
            user_message = "Only addresses can be connected to here, not names."
            raise Rejected(SecurityCode.FORWARDING_REJECTED, text, user_message=user_message)
        allowed = [address for address in known if addresses.permits(address)]
        if not allowed:
            text = f"connecting to {printable(host)} is not permitted"
            raise Rejected(SecurityCode.FORWARDING_REJECTED, text, user_message="That address is not permitted.")
        return proper_host(str(allowed[0]))
    return proper_host(host)


def proper_host(host: str) -> str:
    """*host* in the form used before a colon and port; raises BackendError if it is invalid."""
    address = address_of(host)
    if address is not None and host.isprintable():
        return f"[{host}]" if address.version == 6 else host
    if not 0 < len(host) <= _LONGEST_HOST or not host.isprintable() or set(host) & set(" :[]/%"):
        raise BackendError(
            AgentCode.REQUEST_FAILED, "the requested host is not valid", user_message="The host is not valid."
        )
    return host


def proper_path(path: str) -> str:
    """*path* if it can be a socket's path; raises BackendError."""
    try:
        encoded = path.encode()
    except UnicodeEncodeError:
        encoded = b""
    # Go interprets a leading @ as the abstract namespace.
    if not 0 < len(encoded) <= _LONGEST_PATH or b"\0" in encoded or encoded.startswith(b"@"):
        text = "the requested path is not a valid socket path"
        raise BackendError(AgentCode.REQUEST_FAILED, text, user_message="That is not a valid socket path.")
    return path
