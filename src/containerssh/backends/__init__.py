"""What a login runs in: one package per kind of container."""
