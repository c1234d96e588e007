"""What stands between the SSH front and a backend: the stack of layers, outermost first."""
