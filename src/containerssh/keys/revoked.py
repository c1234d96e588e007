"""Key revocation lists: OpenSSH's binary format (its PROTOCOL.krl), or text with a key or fingerprint per line."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from array import array
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum

from containerssh.keys.certificate import Certificate
from containerssh.keys.public import parse_public_key
from containerssh.keys.wire import Malformed, Reader

LARGEST = 4 << 20
"""The maximum size of a list in bytes."""

MAGIC = b"SSHKRL\n\0"

_SERIAL_MAX = (1 << 64) - 1
_FINGERPRINT = re.compile(r"SHA256:([A-Za-z0-9+/]{43})=?", re.ASCII)


class _Section(IntEnum):
    CERTIFICATES = 1
    KEYS = 2
    SHA1 = 3
    SIGNATURE = 4
    SHA256 = 5
    EXTENSION = 255


class _Part(IntEnum):
    """Subsection types of the section about an authority's certificates."""

    SERIALS = 0x20
    SERIAL_RANGE = 0x21
    SERIAL_BITMAP = 0x22
    KEY_IDS = 0x23
    EXTENSION = 0x39


@dataclass(frozen=True)
class _Bitmap:
    """A bitmap of serial numbers starting at *first*; the last byte holds the lowest bits."""

    first: int
    bits: bytes

    def __contains__(self, serial: int) -> bool:
        place = serial - self.first
        return 0 <= place < 8 * len(self.bits) and bool(self.bits[-1 - place // 8] >> place % 8 & 1)


class _Ranges:
    """Ranges of serial numbers, searched in logarithmic time."""

    def __init__(self, ranges: Iterable[tuple[int, int]]) -> None:
        self._starts, self._ends = array("Q"), array("Q")
        for start, end in sorted(ranges):
            if self._ends and start <= self._ends[-1]:
                self._ends[-1] = max(self._ends[-1], end)
            else:
                self._starts.append(start)
                self._ends.append(end)

    def __contains__(self, serial: int) -> bool:
        place = bisect_right(self._starts, serial) - 1
        return place >= 0 and serial <= self._ends[place]


@dataclass
class _OfAuthority:
    """The revoked certificates of one authority; filled while parsing, then queried."""

    serials: array[int] = field(default_factory=lambda: array("Q"))
    ranges: list[tuple[int, int]] = field(default_factory=list)
    bitmaps: list[_Bitmap] = field(default_factory=list)
    key_ids: set[bytes] = field(default_factory=set)
    settled: _Ranges = field(default_factory=lambda: _Ranges(()))

    def prepare(self) -> None:
        """Prepare for queries after parsing."""
        self.settled = _Ranges([*self.ranges, *((serial, serial) for serial in self.serials)])
        self.ranges, self.serials = [], array("Q")

    def holds(self, certificate: Certificate) -> bool:
        serial = certificate.serial
        return (
            certificate.key_id in self.key_ids
            or serial in self.settled
            or any(serial in bitmap for bitmap in self.bitmaps)
        )


class Revoked:
    """A list of revoked keys and certificates."""

    def __init__(self) -> None:
        self._keys: set[bytes] = set()
        self._sha1: set[bytes] = set()
        self._sha256: set[bytes] = set()
        # By authority; the empty key stands for all authorities.
        self._certificates: dict[bytes, _OfAuthority] = {}

    def why(self, key: bytes, certificate: Certificate | None = None) -> str:
        """The reason why a key, in its wire encoding, or a *certificate* for it is revoked; empty if it is not."""
        if self._holds(key):
            return "the key is revoked"
        if certificate is None:
            return ""
        if self._holds(certificate.authority):
            return "the certificate's authority is revoked"
        for authority in (b"", certificate.authority):
            found = self._certificates.get(authority)
            if found and found.holds(certificate):
                return "the certificate is revoked"
        return ""

    def _holds(self, key: bytes) -> bool:
        if key in self._keys or (self._sha256 and hashlib.sha256(key).digest() in self._sha256):
            return True
        # The format uses SHA-1 here; a collision could only revoke additional keys.
        return bool(self._sha1) and hashlib.sha1(key, usedforsecurity=False).digest() in self._sha1

    @classmethod
    def parse(cls, content: bytes) -> Revoked:
        """
        Parse the contents of a file.

        Raises:
            Malformed: any part is unreadable, so it is unknown what it revokes.
        """
        if len(content) > LARGEST:
            raise Malformed(f"it has more than {LARGEST >> 20} MiB")
        if not content:
            raise Malformed("it is empty, as one that is just being written")
        revoked = cls()
        if content.startswith(MAGIC):
            revoked._read_binary(Reader(content))
        else:
            revoked._read_text(content)
        return revoked

    def _read_text(self, content: bytes) -> None:
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError:
            raise Malformed("it is neither OpenSSH's binary list nor text") from None
        for number, line in enumerate(text.splitlines(), 1):
            if match := _FINGERPRINT.fullmatch(line.strip().partition(" ")[0]):
                try:
                    self._sha256.add(base64.b64decode(match[1] + "=", validate=True))
                except binascii.Error:
                    raise Malformed(f"line {number}: the fingerprint is cut off") from None
                continue
            try:
                key = parse_public_key(line)
            except Malformed:
                raise Malformed(f"line {number} is neither a public key nor a fingerprint SHA256:...") from None
            if key:
                self._keys.add(key)

    def _read_binary(self, reader: Reader) -> None:
        for _ in MAGIC:
            reader.byte()
        if (version := reader.uint32()) != 1:
            raise Malformed(f"its format is of version {version}")
        # The list's version, date, flags, a reserved field and a comment.
        reader.uint64(), reader.uint64(), reader.uint64()
        reader.string(), reader.string()
        while reader:
            kind, section = reader.byte(), Reader(reader.string())
            match kind:
                case _Section.CERTIFICATES:
                    self._read_certificates(section)
                case _Section.KEYS:
                    _collect(section, self._keys)
                case _Section.SHA1:
                    _collect(section, self._sha1, 20)
                case _Section.SHA256:
                    _collect(section, self._sha256, 32)
                case _Section.SIGNATURE:
                    # A signature by an authority, which OpenSSH no longer supports: the file's permissions protect it.
                    reader.string()
                case _Section.EXTENSION:
                    _read_extension(section)
                case _:
                    raise Malformed(f"it has a section of the unknown kind {kind}")
        for found in self._certificates.values():
            found.prepare()

    def _read_certificates(self, section: Reader) -> None:
        found = self._certificates.setdefault(section.string(), _OfAuthority())
        section.string()
        while section:
            kind, part = section.byte(), Reader(section.string())
            match kind:
                case _Part.SERIALS:
                    while part:
                        found.serials.append(part.uint64())
                case _Part.SERIAL_RANGE:
                    start, end = part.uint64(), part.uint64()
                    part.end()
                    if start > end:
                        raise Malformed("a range of serial numbers ends before it starts")
                    found.ranges.append((start, end))
                case _Part.SERIAL_BITMAP:
                    first, bits = part.uint64(), part.natural_bytes()
                    part.end()
                    if first + 8 * len(bits) - 8 > _SERIAL_MAX:
                        raise Malformed("a serial number is too high")
                    found.bitmaps.append(_Bitmap(first, bits))
                case _Part.KEY_IDS:
                    _collect(part, found.key_ids)
                case _Part.EXTENSION:
                    _read_extension(part)
                case _:
                    raise Malformed(f"it has a part of the unknown kind {kind}")


def _collect(reader: Reader, into: set[bytes], size: int | None = None) -> None:
    while reader:
        item = reader.string()
        if size is not None and len(item) != size:
            raise Malformed("a fingerprint has the wrong length")
        into.add(item)


def _read_extension(reader: Reader) -> None:
    name, critical = reader.string(), reader.boolean()
    reader.string()
    if critical:
        raise Malformed(f"it has a critical extension {name[:60]!r} that is not known here")
