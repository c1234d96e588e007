"""The SSH front: the only package (besides the sshproxy backend) that knows asyncssh."""

import ctypes.util

_find_library = ctypes.util.find_library
# At its import asyncssh looks for two libraries by running ldconfig, a compiler and a linker, which delays the start.
# They would bring sntrup761 and the UMACs, none of which is offered.
ctypes.util.find_library = lambda name: None
try:
    import asyncssh  # noqa: F401  for what its import does
finally:
    ctypes.util.find_library = _find_library
