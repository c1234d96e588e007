"""ContainerSSH: an SSH server that answers each login with a container of its own."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("containerssh")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"
