"""The streams of a program in a pod as numbered channels, whichever protocol carries them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

STDIN, STDOUT, STDERR, STATUS, RESIZE = range(5)
"""The channels, as ``channel.k8s.io`` numbers them."""


class Piece(NamedTuple):
    """Bytes of a channel, as they arrive."""

    channel: int
    data: bytes


class Ended(NamedTuple):
    """Nothing more comes on a channel."""

    channel: int


class Reply(NamedTuple):
    """Something that has to be sent back."""

    data: bytes


class Closed(NamedTuple):
    """The other side has closed the connection, in an orderly way or with a complaint."""

    complaint: str = ""


Happening = Piece | Ended | Reply | Closed


class Codec(ABC):
    """A protocol without its connection: bytes in, bytes out."""

    @abstractmethod
    def opening(self) -> bytes:
        """What is sent first."""

    @abstractmethod
    def data(self, channel: int, data: bytes) -> bytes:
        """*data*, of at most 64 KiB and not empty, for *channel*."""

    @abstractmethod
    def end(self, channel: int) -> bytes:
        """Nothing more will be sent for *channel*."""

    @abstractmethod
    def ping(self) -> bytes:
        """What the other side answers, if it is there."""

    @abstractmethod
    def farewell(self) -> bytes:
        """What is sent last."""

    @property
    @abstractmethod
    def unfinished(self) -> bool:
        """Whether something of an output has begun whose rest is missing."""

    @abstractmethod
    def feed(self, data: bytes) -> Iterator[Happening]:
        """
        What *data* says; whatever was begun is kept for the next call, in bounded memory.

        Raises:
            ProtocolError: nothing that this protocol allows; the connection is of no more use.
        """
