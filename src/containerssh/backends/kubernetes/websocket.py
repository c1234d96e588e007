"""WebSocket (RFC 6455) with ``v5.channel.k8s.io`` in it: a message's first byte is its channel."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import cast

from containerssh.backends.kubernetes.channels import (
    RESIZE,
    STDERR,
    STDOUT,
    Closed,
    Codec,
    Ended,
    Happening,
    Piece,
    Reply,
)
from containerssh.backends.kubernetes.errors import broken
from containerssh.core.text import one_line

PROTOCOL = "v5.channel.k8s.io"
"""The only one of the WebSocket protocols that can end standard input."""

_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0, 1, 2, 8, 9, 10
_CONTROL_LIMIT = 125
_CLOSE_CHANNEL = 255
_NORMAL = 1000


class WebSocketCodec(Codec):
    """The client's side. Payloads are passed on as they arrive, so that a frame of any length costs no memory."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._opcode = _CONTINUATION
        self._left = 0
        self._control = bytearray()
        self._fragmented = False
        """Whether a message has begun whose last frame has not come."""
        self._final = True
        self._channel: int | None = None
        """Of the message that is being received; None: its first byte is yet to come."""
        self._over = False

    def opening(self) -> bytes:
        return b""

    def data(self, channel: int, data: bytes) -> bytes:
        return _frame(_BINARY, bytes((channel,)) + data)

    def end(self, channel: int) -> bytes:
        return _frame(_BINARY, bytes((_CLOSE_CHANNEL, channel)))

    def ping(self) -> bytes:
        return _frame(_PING, b"")

    def farewell(self) -> bytes:
        return _frame(_CLOSE, _NORMAL.to_bytes(2, "big"))

    @property
    def unfinished(self) -> bool:
        if self._head:
            return True
        begun = self._fragmented or (self._left > 0 and self._opcode < _CLOSE)
        return begun and self._channel in (None, STDOUT, STDERR)

    def feed(self, data: bytes) -> Iterator[Happening]:
        position = 0
        while position < len(data) and not self._over:
            if not self._left:
                if not self._head and not self._fragmented and (whole := _whole_message(data, position)):
                    position = whole[1]
                    yield whole[0]
                    continue
                position += self._take_head(data, position)
                if self._left or self._head:
                    continue
                piece = b""
            else:
                piece = data[position : position + self._left]
                position += len(piece)
                self._left -= len(piece)
            if self._opcode >= _CLOSE:
                yield from self._take_control(piece)
            else:
                yield from self._take_payload(piece)

    def _take_head(self, data: bytes, position: int) -> int:
        """Take more of a frame's head; how many bytes. The head is empty once it is understood."""
        head = self._head
        length = head[1] & 0x7F if len(head) > 1 else 0
        wanted = 2 + {126: 2, 127: 8}.get(length, 0) - len(head)
        taken = data[position : position + wanted]
        head += taken
        if len(head) < 2:
            return len(taken)
        length = head[1] & 0x7F
        extended = {126: 2, 127: 8}.get(length, 0)
        if len(head) < 2 + extended:
            return len(taken)
        if extended:
            length = int.from_bytes(head[2:], "big")
        self._begin(head[0], masked=bool(head[1] & 0x80), length=length)
        head.clear()
        return len(taken)

    def _begin(self, first: int, *, masked: bool, length: int) -> None:
        opcode, final = first & 0x0F, bool(first & 0x80)
        if masked or first & 0x70:
            raise broken("the API server sent a WebSocket frame that is masked, or has flags of no known meaning")
        if opcode >= _CLOSE:
            if opcode > _PONG or not final or length > _CONTROL_LIMIT:
                raise broken("the API server sent a malformed WebSocket control frame")
        else:
            if opcode not in (_CONTINUATION, _BINARY):
                raise broken("the API server sent a WebSocket message that is not binary")
            if (opcode == _CONTINUATION) is not self._fragmented:
                raise broken("the API server mixed up the fragments of WebSocket messages")
            if length >= 2**63:
                raise broken("the API server sent a WebSocket frame of an impossible length")
            if opcode == _BINARY:
                self._channel = None
            self._fragmented, self._final = not final, final
        self._opcode, self._left = opcode, length

    def _take_payload(self, piece: bytes) -> Iterator[Happening]:
        if self._channel is None and piece:
            self._channel, piece = piece[0], piece[1:]
            if self._channel > RESIZE and self._channel != _CLOSE_CHANNEL:
                raise broken(f"the API server sent something for channel {self._channel}, which there is not")
        if piece and self._channel == _CLOSE_CHANNEL:
            for channel in piece:
                yield Ended(channel)
        elif piece and self._channel is not None:
            yield Piece(self._channel, piece)
        if not self._left and self._final and self._channel is None:
            raise broken("the API server sent an empty WebSocket message")

    def _take_control(self, piece: bytes) -> Iterator[Happening]:
        self._control += piece
        if self._left:
            return
        payload = bytes(self._control)
        self._control.clear()
        if self._opcode == _PING:
            yield Reply(_frame(_PONG, payload))
        elif self._opcode == _CLOSE:
            self._over = True
            code = int.from_bytes(payload[:2], "big") if len(payload) > 1 else _NORMAL
            words = one_line(payload[2:].decode("utf-8", "replace"))
            yield Closed("" if code == _NORMAL else f"it closed the connection with code {code} {words}".rstrip())


def _whole_message(data: bytes, position: int) -> tuple[Piece, int] | None:
    """The output in a message that is there as a whole, and where it ends: servers send many small ones."""
    if len(data) - position < 5 or data[position] != 0x80 | _BINARY:
        return None
    length, start = data[position + 1], position + 2
    if length == 126:
        length, start = data[start] << 8 | data[start + 1], start + 2
    elif length > 126:
        return None
    end = start + length
    if length < 2 or end > len(data) or data[start] not in (STDOUT, STDERR):
        return None
    return Piece(data[start], data[start + 1 : end]), end


def _frame(opcode: int, payload: bytes) -> bytes:
    """A whole message; a client masks what it sends (section 5.3)."""
    length = len(payload)
    if length < 126:
        head = bytes((0x80 | opcode, 0x80 | length))
    elif length < 1 << 16:
        head = bytes((0x80 | opcode, 0x80 | 126)) + length.to_bytes(2, "big")
    else:
        head = bytes((0x80 | opcode, 0x80 | 127)) + length.to_bytes(8, "big")
    mask = os.urandom(4)
    return head + mask + masked(payload, mask)


def masked(payload: bytes, mask: bytes) -> bytes:
    """*payload* with *mask* laid over it, again and again (section 5.3)."""
    if _mask_quickly is not None:
        laid = bytearray(payload)
        _mask_quickly(mask, laid)
        return bytes(laid)
    return masked_slowly(payload, mask)


def masked_slowly(payload: bytes, mask: bytes) -> bytes:
    """The same where aiohttp has nothing for it."""
    length = len(payload)
    pattern = (mask * (length // 4 + 1))[:length]
    return (int.from_bytes(payload, "little") ^ int.from_bytes(pattern, "little")).to_bytes(length, "little")


def _find_quick_mask() -> Callable[[bytes, bytearray], None] | None:
    # Compiled, and sixty times as fast; it is not part of what aiohttp promises to keep.
    try:
        found = import_module("aiohttp._websocket.helpers").websocket_mask
    except (ImportError, AttributeError):
        return None
    return cast(Callable[[bytes, bytearray], None], found)


_mask_quickly = _find_quick_mask()
