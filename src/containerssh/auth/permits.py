"""The options ``permitopen`` and ``permitlisten`` of an authorized key (sshd(8)), as rules of our own."""

from __future__ import annotations

from collections.abc import Sequence

from containerssh.core.forwarding import Endpoint, ForwardRules

MOST_PERMITS = 256
"""Places that one key may name: each connection to a name carries their networks to the agent."""


class UnusablePermit(ValueError):
    """A place that cannot be read; the text tells nothing of it."""


def permit_open(value: str) -> tuple[Endpoint, ...]:
    """
    The places of ``permitopen="host:port"``, several between commas. ``*`` is any host, or any port; other wildcards,
    which OpenSSH would take for a name of this very spelling, are refused.

    Raises:
        UnusablePermit: one of them is no such place.
    """
    return tuple(_place(text, wildcards=False) for text in value.split(","))


def permit_listen(value: str) -> tuple[Endpoint, ...]:
    """
    The places of ``permitlisten="[host:]port"``, several between commas; without a host, any. Names may have wildcards.

    Raises:
        UnusablePermit: one of them is no such place.
    """
    places = (text if ":" in text else f"*:{text}" for text in value.split(","))
    return tuple(_place(text, wildcards=True) for text in places)


def with_permits(rules: Sequence[ForwardRules], places: tuple[Endpoint, ...]) -> tuple[ForwardRules, ...]:
    """
    The rules of one key, of which *rules* has at most one, with *places* allowed as well.

    Raises:
        UnusablePermit: there are too many.
    """
    known = (rules[0].allow or ()) if rules else ()
    if len(known) + len(places) > MOST_PERMITS:
        raise UnusablePermit(f"there are more than {MOST_PERMITS} of them")
    return (ForwardRules(allow=known + places),)


def _place(text: str, *, wildcards: bool) -> Endpoint:
    host, colon, port = text.rpartition(":")
    if not colon or not host or ("[" in host) != (":" in host) or "/" in host:
        raise UnusablePermit("one of them is not written host:port, or [address]:port")
    if port != "*" and not (port.isascii() and port.isdecimal() and 0 < int(port[:6]) <= 65535):
        raise UnusablePermit("one of them has no port from 1 to 65535, and no *")
    if not wildcards and host != "*" and ("*" in host or "?" in host):
        raise UnusablePermit("a host has a wildcard in it, and is not just *")
    try:
        return Endpoint.parse(text)
    except ValueError:
        raise UnusablePermit("the host of one of them is neither a name nor an address") from None
