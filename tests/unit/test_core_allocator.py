"""Large buffers take no memory before they are used."""

from __future__ import annotations

import subprocess
import sys

import pytest

_SCRIPT = """
import ctypes, sys
from containerssh.core.allocator import reserve_large_buffers_apart

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
if sys.argv[1] == "apart":
    reserve_large_buffers_apart()
# From here on glibc would take what is not larger from the heap.
libc.free(libc.malloc(3 << 20))
places = [libc.malloc(256 * 1024) for _ in range(8)]
heap = next(line for line in open("/proc/self/maps") if line.rstrip().endswith("[heap]"))
first, last = (int(end, 16) for end in heap.split()[0].split("-"))
print(sum(first <= place < last for place in places))
"""


@pytest.mark.parametrize(("how", "of_the_heap"), [("as it is", 8), ("apart", 0)])
def test_buffers_of_tls_connections_are_mappings_of_their_own(how: str, of_the_heap: int) -> None:
    done = subprocess.run([sys.executable, "-c", _SCRIPT, how], capture_output=True, text=True, check=True)
    assert int(done.stdout) == of_the_heap
