"""The kubernetes backend: pods as containers."""
