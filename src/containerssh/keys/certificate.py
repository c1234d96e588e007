"""OpenSSH's certificates (its PROTOCOL.certkeys): a key with principals and constraints, signed by an authority."""

from __future__ import annotations

import base64
import binascii
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from containerssh.keys.public import KEY_TYPES, check_public_key, parse_public_key, read_fields
from containerssh.keys.signatures import verify
from containerssh.keys.wire import Malformed, Reader, string

LARGEST = 64 * 1024
"""The maximum size of a certificate in bytes."""
MOST_PRINCIPALS = 256
MOST_OPTIONS = 64

_SUFFIX = "-cert-v01@openssh.com"
_KINDS: Mapping[int, Literal["user", "host"]] = {1: "user", 2: "host"}
_FLAGS = frozenset(
    {
        "no-touch-required",
        "permit-X11-forwarding",
        "permit-agent-forwarding",
        "permit-port-forwarding",
        "permit-pty",
        "permit-user-rc",
        "verify-required",
    }
)
_NETWORKS_MAX = 1024

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class Certificate:
    """A certificate with a valid signature by its authority; created by :func:`read_certificate`."""

    kind: Literal["user", "host"]
    key: bytes
    """The wire encoding of the certified public key."""
    key_type: str
    """The type of the certified key, such as ``ssh-ed25519``."""
    authority: bytes
    """The wire encoding of the authority's public key."""
    serial: int
    key_id: bytes
    principals: tuple[str, ...]
    """Non-UTF-8 bytes are kept as surrogate escapes, which never match a user name."""
    valid_after: int
    valid_before: int
    """The end of the validity, exclusive, in seconds since the epoch."""
    force_command: str | None
    sources: tuple[Network, ...] | None
    """The networks from which it may be used; None for all."""
    verify_required: bool
    extensions: frozenset[str]

    @property
    def name(self) -> str:
        """The key id, sanitised for logs."""
        text = self.key_id.decode("utf-8", "backslashreplace")
        return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)

    def invalid(self, now: float) -> str:
        """The reason why it is not valid at the time *now*; empty if it is valid."""
        if now < self.valid_after:
            return "the certificate is not valid yet"
        return "the certificate has expired" if now >= self.valid_before else ""

    def allows_source(self, host: str) -> bool:
        """Whether a client at the address *host* may use it."""
        if self.sources is None:
            return True
        try:
            address = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            return False
        return any(address in network for network in self.sources)


def is_certificate(algorithm: str) -> bool:
    """Whether this key type or signature algorithm is one of certificates."""
    return _SUFFIX in algorithm


def plain_name(algorithm: str) -> str:
    """The key type or algorithm without the certificate suffix; other names are returned unchanged."""
    if not algorithm.endswith(_SUFFIX):
        return algorithm
    plain = algorithm.removesuffix(_SUFFIX)
    return f"{plain}@openssh.com" if plain.startswith("sk-") else plain


def certificate_name(plain: str) -> str:
    """The certificate type for the plain key type or algorithm *plain*."""
    return plain.removesuffix("@openssh.com") + _SUFFIX


def read_certificate(blob: bytes) -> Certificate:
    """
    Parse the certificate with the wire encoding *blob* and verify its signature.

    The caller must check whether the authority is trusted, and whether the certificate is valid at this time and for
    this client.

    Raises:
        Malformed: it is not a certificate; its signature is invalid, by a weak or unsupported key, or made with SHA-1;
            or it contains an unknown critical option.
    """
    if len(blob) > LARGEST:
        raise Malformed("it is too long")
    reader = Reader(blob)
    name = reader.string().decode("ascii", "replace")
    key_type = plain_name(name)
    if key_type not in KEY_TYPES or certificate_name(key_type) != name:
        raise Malformed("it is not a certificate of a known type")
    reader.string()
    key = string(key_type.encode()) + read_fields(key_type, reader)
    serial, kind = reader.uint64(), reader.uint32()
    key_id, principals = reader.string(), Reader(reader.string())
    after, before = reader.uint64(), reader.uint64()
    critical, extensions = _options(reader.string()), _options(reader.string())
    reader.string()
    authority = reader.string()
    signed = reader.taken
    signature = reader.string()
    reader.end()
    check_public_key(key)
    verify(authority, signed, signature)
    if kind not in _KINDS:
        raise Malformed("it is neither a user's nor a host's")
    names = []
    while principals:
        names.append(principals.string().decode("utf-8", "surrogateescape"))
        if len(names) > MOST_PRINCIPALS:
            raise Malformed("it has too many principals")
    force, sources, verify_required = _critical(_KINDS[kind], critical)
    return Certificate(
        kind=_KINDS[kind],
        key=key,
        key_type=key_type,
        authority=authority,
        serial=serial,
        key_id=key_id,
        principals=tuple(names),
        valid_after=after,
        valid_before=before,
        force_command=force,
        sources=sources,
        verify_required=verify_required,
        extensions=frozenset(extensions),
    )


def parse_certificate(text: str) -> tuple[bytes, Certificate]:
    """
    The first certificate in *text*, in ssh-keygen's format: its wire encoding and its contents.

    Raises:
        Malformed: there is none, or it is invalid.
    """
    for line in text.splitlines():
        words = line.split(None, 2)
        if not words or words[0].startswith("#"):
            continue
        if len(words) < 2 or not is_certificate(words[0]):
            raise Malformed("there is no certificate in it")
        try:
            blob = base64.b64decode(words[1], validate=True)
        except (binascii.Error, ValueError):
            raise Malformed("the certificate is not in base64") from None
        return blob, read_certificate(blob)
    raise Malformed("there is no certificate in it")


def parse_authorities(text: str) -> frozenset[bytes]:
    """
    The wire encodings of the public keys in *text*, one per line.

    Raises:
        Malformed: there is no key, or a line contains an invalid or weak key.
    """
    found = set()
    for number, line in enumerate(text.split("\n"), 1):
        try:
            if blob := parse_public_key(line):
                found.add(blob)
        except Malformed as exc:
            raise Malformed(f"line {number}: {exc}") from None
    if not found:
        raise Malformed("there is no public key in it")
    return frozenset(found)


def _options(data: bytes) -> Mapping[str, bytes]:
    reader = Reader(data)
    found: dict[str, bytes] = {}
    while reader:
        name = reader.string().decode("ascii", "replace")
        if name in found or len(found) >= MOST_OPTIONS:
            raise Malformed("it has an option twice, or too many of them")
        found[name] = reader.string()
        if name in _FLAGS and found[name]:
            raise Malformed(f"its option {name} has a value")
    return found


def _critical(kind: str, options: Mapping[str, bytes]) -> tuple[str | None, tuple[Network, ...] | None, bool]:
    known = {"force-command", "source-address", "verify-required"} if kind == "user" else set()
    for name in options:
        if name not in known:
            raise Malformed(f"its critical option {name[:60]!r} is not known here")
    force = _text(options["force-command"]) if "force-command" in options else None
    # A command that consists of blanks is the shell: nothing would be forced.
    if force is not None and (not force.strip() or "\0" in force):
        raise Malformed("its forced command is none")
    sources = _networks(_text(options["source-address"])) if "source-address" in options else None
    return force, sources, "verify-required" in options


def _text(data: bytes) -> str:
    reader = Reader(data)
    raw = reader.string()
    reader.end()
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise Malformed("an option is not in UTF-8") from None


def _networks(text: str) -> tuple[Network, ...]:
    parts = text.split(",", _NETWORKS_MAX)
    if len(parts) > _NETWORKS_MAX:
        raise Malformed("it names too many networks")
    try:
        return tuple(ipaddress.ip_network(part) for part in parts)
    except ValueError:
        raise Malformed("its source addresses are no networks") from None
