"""The SSH front: the only package (besides the sshproxy backend) that knows asyncssh."""

import ctypes.util
import sys

_find_library = ctypes.util.find_library
# On import, asyncssh searches for two libraries by running ldconfig, a compiler and a linker, which delays the start.
# They provide sntrup761 and the UMACs, none of which is offered.
ctypes.util.find_library = lambda name: None
# Nor does it load what it can do without, each of which takes a while: Kerberos, since ours is in a process of its own,
# and X.509, whose certificates for SSH are not offered.
_unwanted = [name for name in ("gssapi", "cryptography.x509") if name not in sys.modules]
for _name in _unwanted:
    sys.modules[_name] = None  # type: ignore[assignment]  # the documented way to make an import fail
try:
    import asyncssh  # noqa: F401  for what its import does
finally:
    ctypes.util.find_library = _find_library
    for _name in _unwanted:
        del sys.modules[_name]
