"""SPDY/3.1, as far as API servers speak it for programs in pods: they use no flow control, and no push.

Frames are those of the SPDY protocol's draft 3 (draft-mbelshe-httpbis-spdy-00, section 2.2); streams bear the header
``streamtype``, and the protocol between their ends is ``v4.channel.k8s.io``.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from itertools import count

from containerssh.backends.kubernetes.channels import (
    RESIZE,
    STATUS,
    STDERR,
    STDIN,
    STDOUT,
    Closed,
    Codec,
    Ended,
    Happening,
    Piece,
    Reply,
)
from containerssh.backends.kubernetes.errors import broken

PROTOCOL = "v4.channel.k8s.io"

_HEADER_LENGTH = 8
_CONTROL, _VERSION = 0x8000, 3
_SYN_STREAM, _RST_STREAM, _PING, _GOAWAY = 1, 3, 6, 7
_FIN = 1
_KEPT = 8
"""Bytes of a control frame that mean anything to us."""
_TYPES = {STDIN: "stdin", STDOUT: "stdout", STDERR: "stderr", STATUS: "error", RESIZE: "resize"}

_WORDS = (
    "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow"
    " authorization cache-control connection content-base content-encoding content-language content-length"
    " content-location content-md5 content-range content-type date etag expect expires from host if-match"
    " if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma"
    " proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade"
    " user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie"
    " keep-alive origin"
)
_TAIL = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden"
    "404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable"
    "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT"
    "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,"
    "publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)


def _text(text: str) -> bytes:
    return len(text).to_bytes(4, "big") + text.encode()


DICTIONARY = b"".join(_text(word.replace("_", " ")) for word in _WORDS.split()) + _TAIL.encode()
"""What both sides put before all headers when they compress them (section 2.6.10.1)."""


class SPDYCodec(Codec):
    """The client's side of one connection with the streams of one program."""

    def __init__(self, *, stdin: bool, stderr: bool, tty: bool) -> None:
        channels = [STATUS, *([STDIN] if stdin else []), STDOUT]
        channels += [RESIZE] if tty else [STDERR] if stderr else []
        self._streams = {channel: 2 * number + 1 for number, channel in enumerate(channels)}
        self._channels = {stream: channel for channel, stream in self._streams.items()}
        self._open = {channel for channel in channels if channel in (STATUS, STDOUT, STDERR)}
        """The channels on which something may still come."""
        self._pings = count(1, 2)
        self._header = bytearray()
        self._left = 0
        self._kept: bytearray | None = None
        """The first bytes of a control frame; None in a data frame."""
        self._type = 0
        self._flags = 0
        self._stream = 0
        self._over = False

    def opening(self) -> bytes:
        pack = zlib.compressobj(wbits=zlib.MAX_WBITS, zdict=DICTIONARY)
        out = bytearray()
        for channel, stream in self._streams.items():
            headers = (1).to_bytes(4, "big") + _text("streamtype") + _text(_TYPES[channel])
            block = pack.compress(headers) + pack.flush(zlib.Z_SYNC_FLUSH)
            out += _control(_SYN_STREAM, stream.to_bytes(4, "big") + bytes(6) + block)
        # We have nothing to say there.
        return bytes(out) + self.end(STATUS)

    def data(self, channel: int, data: bytes) -> bytes:
        return self._streams[channel].to_bytes(4, "big") + len(data).to_bytes(4, "big") + data

    def end(self, channel: int) -> bytes:
        return self._streams[channel].to_bytes(4, "big") + (_FIN << 24).to_bytes(4, "big")

    def ping(self) -> bytes:
        return _control(_PING, (next(self._pings) & 0x7FFFFFFF).to_bytes(4, "big"))

    def farewell(self) -> bytes:
        return _control(_GOAWAY, bytes(8))

    @property
    def unfinished(self) -> bool:
        if self._header:
            return True
        return self._left > 0 and self._kept is None and self._channels[self._stream] in (STDOUT, STDERR)

    def feed(self, data: bytes) -> Iterator[Happening]:
        position = 0
        while position < len(data) and not self._over:
            if self._left:
                piece = data[position : position + self._left]
                position += len(piece)
                self._left -= len(piece)
            else:
                wanted = _HEADER_LENGTH - len(self._header)
                self._header += data[position : position + wanted]
                position += wanted
                if len(self._header) < _HEADER_LENGTH:
                    return
                self._begin()
                piece = b""
            yield from self._take(piece)

    def _begin(self) -> None:
        header = self._header
        first, self._flags = int.from_bytes(header[:2], "big"), header[4]
        self._left = int.from_bytes(header[5:8], "big")
        if first & _CONTROL:
            if first != _CONTROL | _VERSION:
                raise broken("the API server sent a frame of another version of SPDY")
            self._type, self._kept = int.from_bytes(header[2:4], "big"), bytearray()
            if self._type == _SYN_STREAM:
                raise broken("the API server wants to open a stream")
        else:
            self._kept, self._stream = None, int.from_bytes(header[:4], "big")
            if self._channels.get(self._stream) not in (STATUS, STDOUT, STDERR):
                raise broken("the API server sent data on a stream that has none")
        header.clear()

    def _take(self, piece: bytes) -> Iterator[Happening]:
        if self._kept is None:
            channel = self._channels[self._stream]
            if piece and channel in self._open:
                yield Piece(channel, piece)
            if not self._left and self._flags & _FIN:
                yield from self._end(channel)
            return
        self._kept += piece[: _KEPT - len(self._kept)]
        if self._left:
            return
        kept, self._kept = bytes(self._kept), None
        if self._type == _PING and len(kept) == 4 and not kept[3] & 1:
            yield Reply(_control(_PING, kept))
        elif self._type == _RST_STREAM:
            yield from self._end(self._channels.get(int.from_bytes(kept[:4], "big"), STDIN))
        elif self._type == _GOAWAY:
            self._over = True
            yield Closed()
        # A SYN_REPLY may end its stream at once.
        elif self._flags & _FIN and self._type == 2:
            yield from self._end(self._channels.get(int.from_bytes(kept[:4], "big"), STDIN))

    def _end(self, channel: int) -> Iterator[Happening]:
        if channel in self._open:
            self._open.discard(channel)
            yield Ended(channel)
            if not self._open:
                self._over = True
                yield Closed()


def _control(kind: int, content: bytes, flags: int = 0) -> bytes:
    head = (_CONTROL | _VERSION).to_bytes(2, "big") + kind.to_bytes(2, "big")
    return head + bytes((flags,)) + len(content).to_bytes(3, "big") + content
