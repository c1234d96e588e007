"""Lines of an authorized_keys file and their options, as sshd(8) describes them.

An option that is not understood takes its line with it: an option can only take rights away, so to pass over one
would grant what somebody meant to deny.
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime

from containerssh.core.handlers import PublicKey
from containerssh.core.metadata import Restrictions

LONGEST_LINE = 16 * 1024
KEY_TYPES = frozenset(
    {
        "ssh-ed25519",
        "ssh-rsa",
        "ecdsa-sha2-nistp256",
        "ecdsa-sha2-nistp384",
        "ecdsa-sha2-nistp521",
        "sk-ssh-ed25519@openssh.com",
        "sk-ecdsa-sha2-nistp256@openssh.com",
    }
)
LEAST_RSA_BITS = 2048

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
_WITH_VALUE = frozenset({"command", "environment", "expiry-time", "from"})
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
    """A key that may log in, and under which conditions."""

    key: PublicKey
    comment: str = ""
    restrictions: Restrictions = Restrictions()
    environment: Mapping[str, str] = field(default_factory=dict)
    sources: Sources | None = None
    expires: datetime | None = None


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
    line = line.strip(" \t\r\n")
    if not line or line.startswith("#"):
        return None
    if len(line) > LONGEST_LINE:
        raise UnusableLine(f"longer than {LONGEST_LINE} characters")
    if any(ord(character) < 32 and character != "\t" for character in line):
        raise UnusableLine("there is a control character in it")
    options: list[tuple[str, str | None]] = []
    if _BLANKS.split(line, 1)[0] not in KEY_TYPES:
        options, line = _split_options(line)
    kind, *rest = _BLANKS.split(line, 2)
    if kind not in KEY_TYPES:
        text = f"{kind[:60]!r} is no type of key; known are {', '.join(sorted(KEY_TYPES))}"
        raise UnusableLine("there is no known type of key in it", text)
    if not rest:
        raise UnusableLine("the key itself is missing")
    key = _parse_key(kind, rest[0])
    return _apply(options, AuthorizedKey(key, rest[1] if len(rest) > 1 else ""))


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
            if name in _FLAGS or name == "restrict":
                raise UnusableLine(f"the option {name} has no value")
        rights = asdict(entry.restrictions)
        if name in _FLAGS:
            facility, allowed = _FLAGS[name]
            entry = replace(entry, restrictions=Restrictions(**(rights | {facility: allowed})))
        elif name == "restrict":
            nothing = dict.fromkeys((facility for facility, _ in _FLAGS.values()), False)
            entry = replace(entry, restrictions=Restrictions(**(rights | nothing)))
        elif name in _WITH_VALUE and value is not None:
            entry = _APPLY[name](entry, value)
        else:
            raise UnusableLine("an option is not supported", f"the option {name[:60]!r} is not supported")
    return entry


def _command(entry: AuthorizedKey, value: str) -> AuthorizedKey:
    if entry.restrictions.force_command is not None:
        raise UnusableLine("the option command is given twice")
    if not value:
        raise UnusableLine("the option command is empty")
    return replace(entry, restrictions=replace(entry.restrictions, force_command=value))


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
        raise UnusableLine("the option expiry-time names no moment that exists") from None
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


_APPLY: Mapping[str, Callable[[AuthorizedKey, str], AuthorizedKey]] = {
    "command": _command,
    "environment": _environment,
    "expiry-time": _expiry,
    "from": _from,
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
        text = f"the option from: {pattern[:60]!r} is no address, network or wildcard (host names are not looked up)"
        raise UnusableLine("the option from names no address, network or wildcard", text) from None


def _matches(address: _Address, pattern: _Network | str) -> bool:
    if isinstance(pattern, str):
        return fnmatch.fnmatchcase(str(address), pattern)
    return address in pattern


def _parse_key(kind: str, encoded: str) -> PublicKey:
    try:
        blob = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise UnusableLine("the key is not in base64") from None
    parts = _strings(blob)
    if not parts or parts[0] != kind.encode():
        raise UnusableLine(f"the key is not of the type {kind} that stands in front of it, or it is cut off")
    if not _well_formed(kind, parts[1:]):
        raise UnusableLine(
            f"the key is no {kind} key" + (f" of {LEAST_RSA_BITS} bits or more" if "rsa" in kind else "")
        )
    return PublicKey(kind, blob)


def _strings(blob: bytes) -> list[bytes]:
    """The strings that *blob* is made of (RFC 4251 section 5); none if it is made of something else."""
    parts = []
    while blob:
        length = int.from_bytes(blob[:4], "big")
        if len(blob) < 4 + length:
            return []
        parts.append(blob[4 : 4 + length])
        blob = blob[4 + length :]
    return parts


def _well_formed(kind: str, parts: list[bytes]) -> bool:
    lengths = [len(part) for part in parts]
    if kind.startswith("sk-"):
        if not parts or not parts[-1]:
            return False
        parts, lengths = parts[:-1], lengths[:-1]
    if "ed25519" in kind:
        return lengths == [32]
    if kind == "ssh-rsa":
        return len(parts) == 2 and int.from_bytes(parts[1], "big").bit_length() >= LEAST_RSA_BITS
    curve = kind.partition("@")[0].rpartition("-")[2]
    size = {"nistp256": 32, "nistp384": 48, "nistp521": 66}[curve]
    return len(parts) == 2 and parts[0] == curve.encode() and lengths[1] == 1 + 2 * size and parts[1][0] == 4
