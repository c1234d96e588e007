"""The backends: one package per kind of container."""
