"""How log messages look and where they go (``observability.md`` sections 1 to 4)."""
