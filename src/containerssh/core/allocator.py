"""How the C library's allocator deals with large buffers."""

from __future__ import annotations

import ctypes

_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of malloc.h
_LARGE = 256 * 1024
"""What uvloop reserves for each TLS connection, and hardly ever fills."""


def reserve_large_buffers_apart() -> None:
    """
    From now on buffers of 256 KiB and more are mappings of their own, of which only what is written to takes memory.

    glibc does so until the first one is freed; then it takes them from the heap, whose pages have all been used before,
    and a connection of which some hundred bytes are read keeps 256 KiB. Nothing happens with another C library.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_MMAP_THRESHOLD, _LARGE)
