"""The head of an HTTP/1 response (RFC 9112 sections 4 and 5), for connections that do more than HTTP."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

HEAD_LIMIT = 64 * 1024
"""The maximum size in bytes of a head; its reader enforces it."""
HEADERS_LIMIT = 200

_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: [^\r\n]*)?")
_HEADER = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([^\r\n\0]*?)[ \t]*")


@dataclass(frozen=True)
class Head:
    """The head of a response; header names are lower-case, repeated headers are joined by commas."""

    status: int
    headers: Mapping[str, str]
    keeps_alive: bool = False
    """Whether the connection can be used for another exchange after this one."""

    @property
    def is_final(self) -> bool:
        """False for an interim response (1xx), which another one follows; 101 is final."""
        return self.status >= 200 or self.status == 101


def parse_head(data: bytes) -> Head:
    """
    Parse a status line and headers, including the empty line that ends them.

    Raises:
        ValueError: the data is not a head; the text is the rest of a sentence that begins with whose response it is.
    """
    lines = data.removesuffix(b"\r\n\r\n").split(b"\r\n")
    status = _STATUS.fullmatch(lines[0])
    if status is None:
        raise ValueError("is not HTTP")
    if len(lines) > HEADERS_LIMIT:
        raise ValueError("has too many headers")
    headers: dict[str, str] = {}
    for line in lines[1:]:
        header = _HEADER.fullmatch(line)
        if header is None:
            raise ValueError("has a malformed header")
        name, value = header[1].decode("ascii").lower(), header[2].decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    options = {option.strip().lower() for option in headers.get("connection", "").split(",")}
    keeps_alive = "close" not in options if status[1] == b"1" else "keep-alive" in options
    return Head(int(status[2]), headers, keeps_alive)
