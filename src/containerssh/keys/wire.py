"""A reader of fields in SSH's wire format (RFC 4251 section 5)."""

from __future__ import annotations


class Malformed(ValueError):
    """The data is malformed; the text explains why."""


class Reader:
    """
    Reads the fields of *data* in order; true while unread data is left.

    Every method raises :class:`Malformed` (or the error of a derived class) if the data is truncated. Memory is never
    allocated for a claimed length that the data does not contain.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    @property
    def taken(self) -> bytes:
        """The data read so far."""
        return self._data[: self._at]

    def malformed(self, why: str) -> Exception:
        """The error to raise for malformed data."""
        return Malformed(why)

    def byte(self) -> int:
        return self._take(1)[0]

    def boolean(self) -> bool:
        return self._take(1) != b"\0"

    def uint32(self) -> int:
        return int.from_bytes(self._take(4), "big")

    def uint64(self) -> int:
        return int.from_bytes(self._take(8), "big")

    def string(self) -> bytes:
        return self._take(self.uint32())

    def natural(self) -> int:
        """A non-negative ``mpint`` in canonical form: other forms would change the fingerprint of a key."""
        raw = self.natural_bytes()
        if raw[:1] == b"\0" and not raw[1:2] >= b"\x80":
            raise self.malformed("a number has needless zeros")
        return int.from_bytes(raw, "big")

    def natural_bytes(self) -> bytes:
        """A non-negative ``mpint`` as big-endian bytes."""
        raw = self.string()
        if raw and raw[0] & 0x80:
            raise self.malformed("a number is negative")
        return raw

    def end(self) -> None:
        """Check that no data is left."""
        if self:
            raise self.malformed("bytes are left over")

    def _take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._data):
            raise self.malformed("it ends too early")
        piece = self._data[self._at : end]
        self._at = end
        return piece


def string(data: bytes) -> bytes:
    """Encode *data* as a ``string``."""
    return len(data).to_bytes(4, "big") + data
