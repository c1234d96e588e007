"""The server's side of a program's stream, as a test wants it."""

from __future__ import annotations

import base64
import hashlib
import re


def accepted(head: str, protocol: str = "v5.channel.k8s.io") -> bytes:
    """The answer that turns a connection into a WebSocket."""
    found = re.search(r"Sec-WebSocket-Key: (\S+)", head)
    assert found is not None
    digest = hashlib.sha1(f"{found[1]}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()
    chosen = f"Sec-WebSocket-Protocol: {protocol}\r\n" if protocol else ""
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"{chosen}Sec-WebSocket-Accept: {base64.b64encode(digest).decode()}\r\n\r\n"
    ).encode()


def message(payload: bytes, opcode: int = 2) -> bytes:
    return bytes((0x80 | opcode, 126)) + len(payload).to_bytes(2, "big") + payload


CLOSE = b"\x88\x02\x03\xe8"
