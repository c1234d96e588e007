"""Byte streams between a client's channel and a program, with flow control by awaiting."""

from __future__ import annotations

from abc import ABC, abstractmethod

CHUNK = 64 * 1024
"""The most bytes that one read gives: what a slow peer can make us hold, per direction."""


class ByteReader(ABC):
    """Where bytes come from."""

    @abstractmethod
    async def read(self) -> bytes:
        """
        The next bytes, at most :data:`CHUNK`; ``b""`` once the peer has sent its end of file.

        Raises:
            ConnectionError: the stream broke; what was unread is lost.
        """


class ByteWriter(ABC):
    """Where bytes go to."""

    @abstractmethod
    async def write(self, data: bytes) -> None:
        """
        Pass *data* on; returns when the peer has room for more.

        Raises:
            ConnectionError: nobody reads any more.
        """

    @abstractmethod
    async def write_eof(self) -> None:
        """Say that nothing follows; the other direction goes on. A second call does nothing."""


class ByteStream(ByteReader, ByteWriter):
    """Both directions of a connection: a forward, a dialled socket. Close it where it was opened."""

    @abstractmethod
    async def close(self) -> None:
        """Give it back at once, unsent bytes included; safe to call twice."""


async def pump(source: ByteReader, target: ByteWriter) -> int:
    """
    Copy until the end of *source*, then end *target*; the number of bytes.

    Raises:
        ConnectionError: either side broke.
    """
    count = 0
    while data := await source.read():
        await target.write(data)
        count += len(data)
    await target.write_eof()
    return count
