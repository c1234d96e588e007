"""The SSH front: the only package (besides the sshproxy backend) that knows asyncssh."""

import ctypes.util
import sys

_find_library = ctypes.util.find_library
# At its import asyncssh looks for two libraries by running ldconfig, a compiler and a linker, which delays the start.
# They would bring sntrup761 and the UMACs, none of which is offered.
ctypes.util.find_library = lambda name: None
# Nor does it load Kerberos, which takes a while where that is installed: ours is in a process of its own.
_without_gssapi = "gssapi" not in sys.modules
if _without_gssapi:
    sys.modules["gssapi"] = None  # type: ignore[assignment]  # the documented way to make an import fail
try:
    import asyncssh  # noqa: F401  for what its import does
finally:
    ctypes.util.find_library = _find_library
    if _without_gssapi:
        del sys.modules["gssapi"]
