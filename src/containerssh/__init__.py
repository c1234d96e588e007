"""ContainerSSH: an SSH server that answers each login with a container of its own."""

# Also in pyproject.toml. Asking for the installed package's would take longer than all else that --version does.
__version__ = "0.6.0.dev1"
