"""Lines of an authorized_keys file and their options, as sshd(8) describes them.

An option that is not understood takes its line with it: an option can only take rights away, so to pass over one
would grant what somebody meant to deny.
"""

from __future__ import annotations

import fnmatch
import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from containerssh.auth.permits import UnusablePermit, permit_listen, permit_open, with_permits
from containerssh.core.handlers import PublicKey
from containerssh.core.metadata import Restrictions
from containerssh.keys.public import KEY_TYPES, decode_key
from containerssh.keys.wire import Malformed

LONGEST_LINE = 16 * 1024

_FLAGS: Mapping[str, tuple[str, bool]] = {
    ("" if allowed else "no-") + option: (name, allowed)
    for option, name in (
        ("pty", "pty"),
        ("port-forwarding", "port_forwarding"),
        ("agent-forwarding", "agent_forwarding"),
        ("x11-forwarding", "x11_forwarding"),
        ("user-rc", "user_rc"),
    )
    for allowed in (True, False)
}
_WITHOUT_VALUE = frozenset({*_FLAGS, "cert-authority", "no-touch-required", "restrict", "verify-required"})
_WITH_VALUE = frozenset({"command", "environment", "expiry-time", "from", "permitlisten", "permitopen", "principals"})
_BLANKS = re.compile(r"[ \t]+")
_OPTION_NAME = re.compile(r"[A-Za-z0-9@._-]+", re.ASCII)
# As OpenSSH reads it: a backslash means something before a quote only.
_QUOTED = re.compile(r'"((?:\\"|[^"])*+)"')
_WILDCARD = re.compile(r"[0-9a-f.:*?]*[*?][0-9a-f.:*?]*", re.ASCII)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_EXPIRY = re.compile(r"(\d{8}|\d{12}|\d{14})Z?", re.ASCII)

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True)
class Sources:
    """The option ``from``: addresses, networks and wildcards, a ``!`` before what is refused."""

    accepted: tuple[_Network | str, ...]
    refused: tuple[_Network | str, ...]

    def allow(self, host: str) -> bool:
        """Whether a client at the address *host* may use the key."""
        try:
            address = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            return False
        if any(_matches(address, pattern) for pattern in self.refused):
            return False
        return any(_matches(address, pattern) for pattern in self.accepted)


@dataclass(frozen=True)
class AuthorizedKey:
    """A key that may log in, or whose certificates may, and under which conditions."""

    key: PublicKey
    restrictions: Restrictions = Restrictions()
    environment: Mapping[str, str] = field(default_factory=dict)
    sources: Sources | None = None
    expires: datetime | None = None
    is_authority: bool = False
    """It is not the key itself that may log in but who has a certificate signed by it."""
    principals: tuple[str, ...] | None = None
    """Of which such a certificate must name one; None stands for the user's name."""
    place: str = field(default="", compare=False)
    """Where it was read, for the log; whoever read it fills it in."""

    def refusal(self, host: str) -> str:
        """Why a client at the address *host* may not use it now; empty if it may."""
        if self.sources and not self.sources.allow(host):
            return "the key may not be used from this address"
        return "the key has expired" if self.expires and datetime.now(UTC) >= self.expires else ""


class UnusableLine(ValueError):
    """A line that cannot be used."""

    def __init__(self, kind: str, text: str = "") -> None:
        """*text* says why, perhaps with words of the line; *kind* does so without, for a file that may hold secrets."""
        super().__init__(text or kind)
        self.kind = kind


def parse_authorized_key(line: str) -> AuthorizedKey | None:
    """
    What a line says; None for an empty one and for a comment.

    Raises:
        UnusableLine: it cannot be used; the text says why.
    """
    line = _content(line)
    if not line:
        return None
    options: list[tuple[str, str | None]] = []
    if _BLANKS.split(line, 1)[0] not in KEY_TYPES:
        options, line = _split_options(line)
    kind, *rest = _BLANKS.split(line, 2)
    if kind not in KEY_TYPES:
        text = f"{kind[:60]!r} is not a known type of key; known are {', '.join(sorted(KEY_TYPES))}"
        raise UnusableLine("it contains no known type of key", text)
    if not rest:
        raise UnusableLine("the key itself is missing")
    try:
        key = PublicKey(kind, decode_key(kind, rest[0]))
    except Malformed as exc:
        raise UnusableLine(str(exc)) from None
    return _apply(options, AuthorizedKey(key))


def parse_principal(line: str, entry: AuthorizedKey) -> AuthorizedKey | None:
    """
    What a line of a file of principals says (sshd_config(5), AuthorizedPrincipalsFile): *entry* for certificates that
    name the principal in it, under the options in front of that; None for an empty line and for a comment.

    Raises:
        UnusableLine: it cannot be used.
    """
    line = _content(line)
    if not line:
        return None
    options: list[tuple[str, str | None]] = []
    blanks = [match.end() for match in _BLANKS.finditer(line)]
    if blanks:
        options, rest = _split_options(f"{line[: blanks[-1]]}-")
        if rest != "-":
            raise UnusableLine("there is more than one word after the options")
    if any(name in ("cert-authority", "principals") for name, _ in options):
        raise UnusableLine("an option belongs to keys, not to principals")
    return replace(_apply(options, entry), principals=(line[blanks[-1] :] if blanks else line,))


def _content(line: str) -> str:
    """*line* without blanks around it; empty for a comment."""
    line = line.strip(" \t\r\n")
    if not line or line.startswith("#"):
        return ""
    if len(line) > LONGEST_LINE:
        raise UnusableLine(f"longer than {LONGEST_LINE} characters")
    if any(ord(character) < 32 and character != "\t" for character in line):
        raise UnusableLine("there is a control character in it")
    return line


def _split_options(line: str) -> tuple[list[tuple[str, str | None]], str]:
    """The options in front of a key, each with its value, and the rest of the line."""
    options: list[tuple[str, str | None]] = []
    position = 0
    while True:
        name = _OPTION_NAME.match(line, position)
        if not name:
            raise UnusableLine("neither a type of key nor an option stands at the start, or after a comma")
        position = name.end()
        value = None
        if line.startswith("=", position):
            quoted = _QUOTED.match(line, position + 1)
            if not quoted:
                text = f"the value of the option {name[0]} must stand in double quotes"
                raise UnusableLine("the value of an option is not in double quotes", text)
            value, position = quoted[1].replace('\\"', '"'), quoted.end()
        options.append((name[0].lower(), value))
        following = line[position : position + 1]
        if following == ",":
            position += 1
        elif following in (" ", "\t"):
            return options, line[position:].lstrip(" \t")
        elif not following:
            raise UnusableLine("there is no key after the options")
        else:
            raise UnusableLine("something else follows an option", f"{following!r} after the option {name[0]}")


def _apply(options: list[tuple[str, str | None]], entry: AuthorizedKey) -> AuthorizedKey:
    """*entry* under its options, in their order: what comes after ``restrict`` gives back."""
    for name, value in options:
        if (value is not None) != (name in _WITH_VALUE):
            if name in _WITH_VALUE:
                raise UnusableLine(f"the option {name} needs a value")
            if name in _WITHOUT_VALUE:
                raise UnusableLine(f"the option {name} has no value")
        if name in _FLAGS:
            facility, allowed = _FLAGS[name]
            entry = _with_rights(entry, {facility: allowed})
        elif name == "restrict":
            entry = _with_rights(entry, dict.fromkeys((facility for facility, _ in _FLAGS.values()), False))
        elif name == "no-touch-required":
            entry = _with_rights(entry, {"touch_required": False})
        elif name == "verify-required":
            entry = _with_rights(entry, {"verify_required": True})
        elif name == "cert-authority":
            entry = replace(entry, is_authority=True)
        elif name in _WITH_VALUE and value is not None:
            entry = _APPLY[name](entry, value)
        else:
            raise UnusableLine("an option is not supported", f"the option {name[:60]!r} is not supported")
    if entry.principals is not None and not entry.is_authority:
        raise UnusableLine("the option principals means nothing without cert-authority")
    return entry


def _with_rights(entry: AuthorizedKey, rights: Mapping[str, Any]) -> AuthorizedKey:
    return replace(entry, restrictions=replace(entry.restrictions, **rights))


def _command(entry: AuthorizedKey, value: str) -> AuthorizedKey:
    if entry.restrictions.force_command is not None:
        raise UnusableLine("the option command is given twice")
    # A command that consists of blanks is the shell: nothing would be forced.
    if not value.strip():
        raise UnusableLine("the option command is empty")
    return _with_rights(entry, {"force_command": value})


def _environment(entry: AuthorizedKey, value: str) -> AuthorizedKey:
    name, equals, content = value.partition("=")
    if not equals or not _NAME.fullmatch(name):
        raise UnusableLine("the option environment must say NAME=value")
    # The first one counts, as in OpenSSH.
    return replace(entry, environment={name: content, **entry.environment})


def _expiry(entry: AuthorizedKey, value: str) -> AuthorizedKey:
    if not _EXPIRY.fullmatch(value):
        raise UnusableLine("the option expiry-time must say YYYYMMDD[Z], YYYYMMDDHHMM[Z] or YYYYMMDDHHMMSS[Z]")
    digits = value.removesuffix("Z").ljust(14, "0")
    try:
        moment = datetime.strptime(f"{digits}+0000", "%Y%m%d%H%M%S%z")
        # In local time unless it ends in Z.
        expires = moment if value.endswith("Z") else moment.replace(tzinfo=None).astimezone()
    except (ValueError, OverflowError, OSError):
        raise UnusableLine("the option expiry-time is not a date that exists") from None
    return replace(entry, expires=min(expires, entry.expires or expires))


def _from(entry: AuthorizedKey, value: str) -> AuthorizedKey:
    if entry.sources is not None:
        raise UnusableLine("the option from is given twice")
    accepted: list[_Network | str] = []
    refused: list[_Network | str] = []
    for pattern in value.split(","):
        plain = pattern.strip()
        target = refused if plain.startswith("!") else accepted
        target.append(_source(plain.removeprefix("!").lower()))
    return replace(entry, sources=Sources(tuple(accepted), tuple(refused)))


def _permit_open(entry: AuthorizedKey, value: str) -> AuthorizedKey:
    try:
        rules = with_permits(entry.restrictions.connections, permit_open(value))
    except UnusablePermit as exc:
        raise UnusableLine(f"the places of the option permitopen: {exc}") from None
    return _with_rights(entry, {"connections": rules})


def _permit_listen(entry: AuthorizedKey, value: str) -> AuthorizedKey:
    try:
        rules = with_permits(entry.restrictions.listeners, permit_listen(value))
    except UnusablePermit as exc:
        raise UnusableLine(f"the places of the option permitlisten: {exc}") from None
    return _with_rights(entry, {"listeners": rules})


def _principals(entry: AuthorizedKey, value: str) -> AuthorizedKey:
    if entry.principals is not None:
        raise UnusableLine("the option principals is given twice")
    principals = tuple(value.split(","))
    if not all(principals):
        raise UnusableLine("the option principals holds an empty name")
    return replace(entry, principals=principals)


_APPLY: Mapping[str, Callable[[AuthorizedKey, str], AuthorizedKey]] = {
    "command": _command,
    "environment": _environment,
    "expiry-time": _expiry,
    "from": _from,
    "permitlisten": _permit_listen,
    "permitopen": _permit_open,
    "principals": _principals,
}


def _source(pattern: str) -> _Network | str:
    if _WILDCARD.fullmatch(pattern):
        return pattern
    try:
        return ipaddress.ip_network(pattern)
    except ValueError as exc:
        if "/" in pattern and "host bits" in str(exc):
            text = f"the option from: {pattern!r} has bits set behind its prefix"
            raise UnusableLine("a network of the option from has bits set behind its prefix", text) from None
        text = (
            f"the option from: {pattern[:60]!r} is not an address, network or wildcard (host names are not looked up)"
        )
        raise UnusableLine("the option from names no address, network or wildcard", text) from None


def _matches(address: _Address, pattern: _Network | str) -> bool:
    if isinstance(pattern, str):
        return fnmatch.fnmatchcase(str(address), pattern)
    return address in pattern
