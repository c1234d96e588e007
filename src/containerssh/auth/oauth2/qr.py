"""QR codes of links for terminals."""

from __future__ import annotations

from collections.abc import Sequence

import segno

_QUIET = 2
"""The quiet zone in modules."""

# Upper, lower module: light modules are drawn, since terminals are dark; readers also accept the inverse.
_HALVES = {(False, False): "█", (False, True): "▀", (True, False): "▄", (True, True): " "}


def picture(link: str) -> str:
    """*link* as a QR code of block characters, with two modules in each; every line has a line end."""
    rows = [[bool(module) for module in row] for row in segno.make_qr(link, error="l").matrix_iter(border=_QUIET)]
    if len(rows) % 2:
        rows.append([False] * len(rows[0]))
    return "".join(_line(above, below) for above, below in zip(rows[::2], rows[1::2], strict=True))


def _line(above: Sequence[bool], below: Sequence[bool]) -> str:
    return "".join(_HALVES[pair] for pair in zip(above, below, strict=True)) + "\n"
