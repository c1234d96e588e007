"""A link as a picture in the terminal, for a telephone's camera."""

from __future__ import annotations

from collections.abc import Sequence

import segno

_QUIET = 2
"""Light modules around the code."""

# Above, below: a light module is drawn, for terminals are dark; readers know the other way as well.
_HALVES = {(False, False): "█", (False, True): "▀", (True, False): "▄", (True, True): " "}


def picture(link: str) -> str:
    """*link* as a QR code of block characters, two modules in each; every line ends with a line end."""
    rows = [[bool(module) for module in row] for row in segno.make_qr(link, error="l").matrix_iter(border=_QUIET)]
    if len(rows) % 2:
        rows.append([False] * len(rows[0]))
    return "".join(_line(above, below) for above, below in zip(rows[::2], rows[1::2], strict=True))


def _line(above: Sequence[bool], below: Sequence[bool]) -> str:
    return "".join(_HALVES[pair] for pair in zip(above, below, strict=True)) + "\n"
