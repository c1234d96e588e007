"""The layers between the SSH server and a backend, outermost first."""
